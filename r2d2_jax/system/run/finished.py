"""A run that has nothing left to do: why, and how it ended."""

import pathlib
from typing import NamedTuple

import jax

from r2d2_jax.agent.agent import MakeAgent
from r2d2_jax.config import Config
from r2d2_jax.envs.make import MakeWorld, world_spec
from r2d2_jax.system.evaluation import (
  Evaluation,
  PastEvaluation,
  read_last_evaluation,
)
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.system.run.resumed import Resumed, find_resumed
from r2d2_jax.system.storage.agents import load_learner
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.types import LearnerState


class TrainResult(NamedTuple):
  """What a finished or interrupted run leaves in memory."""

  state: LearnerState  # host arrays
  steps: int  # agent steps, those before a resume included
  # At the end of the training; read back where the run had ended before.
  evaluation: Evaluation | PastEvaluation | None
  interrupted: bool  # a signal asked it to stop
  replay_ratio: float  # as measured, see `ReplayRatio`


class Finished(NamedTuple):
  """A run that has nothing left to do."""

  why: str
  resumed: Resumed  # its last checkpoint
  evaluation: PastEvaluation | None


def why_finished(config: Config, run_dir: pathlib.Path) -> Finished | None:
  """Why a run has nothing left to do; None if it has. Reads no parameters.

  Raises:
    CheckpointError: its checkpoint cannot be read.
    FileError: a log is damaged.
  """
  run = config.run
  resumed = find_resumed(run_dir, config)
  if resumed is None:
    return None
  checkpoint, record = resumed.checkpoint, resumed.record
  steps, minutes = checkpoint.steps, record["report"]["minutes"]
  if steps >= run.total_steps:
    reached = f"{steps} of {run.total_steps} steps (run.total_steps)"
  elif 0 < run.max_minutes <= minutes:
    reached = f"{minutes:.1f} of {run.max_minutes:g} minutes (run.max_minutes)"
  else:
    return None
  # Its end is the last row, written last: a kill may have come before it.
  path = run_dir / "log.csv"
  logged = read_log(path, ("steps",)) if path.exists() else {}
  if not logged or logged["steps"][-1] < steps:
    return None
  evaluation = None
  num_episodes = config.evaluation.num_episodes
  if num_episodes:
    evaluation = read_last_evaluation(
      run_dir, num_updates=checkpoint.num_updates
    )
    # One that was cut off, or is asked for now, is still to be done.
    if not evaluation or len(evaluation.returns) < num_episodes:
      return None
  why = f"{reached} are done" + (", and evaluated" if evaluation else "")
  return Finished(why, resumed, evaluation)


def find_finished(
  config: Config,
  run_dir: pathlib.Path,
  *,
  make_world: MakeWorld,
  make_agent: MakeAgent,
) -> tuple[str, TrainResult] | None:
  """`why_finished` in words, and how the run ended; None if it did not.

  Raises:
    CheckpointError: its checkpoint cannot be read.
    FileError: a log is damaged.
  """
  finished = why_finished(config, run_dir)
  if finished is None:
    return None
  checkpoint, record = finished.resumed.checkpoint, finished.resumed.record
  agent = make_agent(world_spec(config.env, make_world), config)
  state = load_learner(checkpoint, agent)
  ratio = ReplayRatio(config.replay.replay_ratio, slack_rows=0)
  ratio.load_state_dict(record["ratio"])
  words = (
    f"nothing left to do in {run_dir}: {finished.why}; with more it goes on"
  )
  return words, TrainResult(
    jax.device_get(state),
    checkpoint.steps,
    finished.evaluation,
    interrupted=False,
    replay_ratio=ratio.measured(),
  )
