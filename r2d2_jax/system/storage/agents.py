"""A trained agent, read from its run's directory."""

import pathlib
from typing import NamedTuple

import jax

from r2d2_jax.agent.agent import (
  Agent,
  MakeAgent,
  own_agent,
)
from r2d2_jax.agent.agent import (
  make_agent as make_usual_agent,
)
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.make import MakeWorld, own_world, world_spec
from r2d2_jax.system.devices import find_devices
from r2d2_jax.system.storage.checkpoints import (
  SavedCheckpoint,
  list_checkpoints,
  read_record,
  restore_learner,
)
from r2d2_jax.system.storage.rundir import (
  best_dir,
  checkpoints_dir,
  read_config,
)
from r2d2_jax.types import EnvSpec, LearnerState, Params


class SavedAgent(NamedTuple):
  """What is needed to play."""

  config: Config  # the run's
  spec: EnvSpec
  agent: Agent
  params: Params
  num_updates: int
  steps: int  # agent steps that it was trained for


def load_agent(
  run_dir: str | pathlib.Path,
  *,
  which: str = "latest",
  make_world: MakeWorld | None = None,
  make_agent: MakeAgent | None = None,
) -> SavedAgent:
  """Reads an agent; the run may still be going on.

  Args:
    run_dir: directory of a run.
    which: "latest"; "best", the one with the highest mean return of the
      evaluations during training; or a number of updates.
    make_world, make_agent: those that the run was given, where no import path
      in its settings leads to them.

  Raises:
    ConfigError: no run there, no such checkpoint, or not the device that
      JAX_PLATFORMS asks for.
    CheckpointError: it cannot be read.
  """
  run_dir = pathlib.Path(run_dir)
  config = read_config(run_dir)
  checkpoint = _find(run_dir, which)
  read_record(checkpoint)  # that it is what its name says
  find_devices()
  spec = world_spec(config.env, own_world(make_world) if make_world else None)
  make = own_agent(make_agent) if make_agent else make_usual_agent
  agent = make(spec, config)
  state = load_learner(checkpoint, agent)
  return SavedAgent(
    config,
    spec,
    agent,
    state.params,
    checkpoint.num_updates,
    checkpoint.steps,
  )


def load_learner(checkpoint: SavedCheckpoint, agent: Agent) -> LearnerState:
  """The learner's state of a checkpoint.

  Raises:
    CheckpointError: it belongs to other settings, or cannot be read.
  """
  return restore_learner(
    checkpoint, jax.eval_shape(agent.init, jax.random.key(0))
  )


def _find(run_dir: pathlib.Path, which: str) -> SavedCheckpoint:
  saved = list_checkpoints(checkpoints_dir(run_dir))
  best = list_checkpoints(best_dir(run_dir))
  if which == "latest":
    found = saved
  elif which == "best":
    found = best
  else:
    found = [c for c in best + saved if str(c.num_updates) == which]
  if not found:
    there = ["latest"] * bool(saved) + ["best"] * bool(best)
    there += [str(c.num_updates) for c in saved]
    raise ConfigError(
      f"checkpoint: expected one of {', '.join(there) or 'none so far'} in"
      f" {run_dir}, got {which!r}"
    )
  return found[-1]
