"""All that a run is, on its way to the disk and back."""

from collections.abc import Callable
import math
import pathlib
from typing import Any
import zipfile

from r2d2_jax.config import Config, first_line, to_dict
from r2d2_jax.system.evaluation import open_evaluations
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.arrays import flat, nested
from r2d2_jax.system.loops.learner import LearnerLoop
from r2d2_jax.system.loops.ratio import RatioState, ReplayRatio
from r2d2_jax.system.loops.shared import SharedLearner
from r2d2_jax.system.loops.workers import Workers
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.system.run.record import is_number
from r2d2_jax.system.run.resumed import PROBE, REPLAY, Resumed, prng_impl
from r2d2_jax.system.storage.arrays import load_arrays, save_arrays
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  SavedCheckpoint,
  list_checkpoints,
  read_record,
  remove_checkpoint,
  save_checkpoint,
)
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.storage.files import remove
from r2d2_jax.system.storage.rundir import best_dir, checkpoints_dir
from r2d2_jax.types import LearnerState

_ARRAYS = "arrays.npz"


class RunState:
  """Saves and restores what changes while a run goes on."""

  def __init__(
    self,
    config: Config,
    run_dir: pathlib.Path,
    *,
    starts: int,
    learner: LearnerLoop | SharedLearner,
    actors: ActorLoop | Workers,
    replay: Any,
    ratio: ReplayRatio,
    report: RunReport,
    samples: SampleStats,
    probe: Probe,
    log: RunLog,
  ):
    """Args: the parts of the run, and how often it was started before."""
    self._config = config
    self._run_dir = run_dir
    self._starts = starts
    self._learner = learner
    self._actors = actors
    self._replay = replay
    self._ratio = ratio
    self._report = report
    self._samples = samples
    self._probe = probe
    self._log = log

  def prepare_save(self) -> Callable[[], SavedCheckpoint]:
    """Takes the small parts as they are now; the rest is done by the result.

    In lock-step mode, the parts being still, the result is called at once and
    the checkpoint is exact. With threads it is called beside them: the replay
    that it writes is a little newer than the rest, and open episodes are not in
    it.
    """
    config = self._config
    lockstep = config.run.lockstep
    state = self._learner.state()
    record = {
      "steps": self._ratio.env_steps,
      "starts": self._starts,
      # Without its replay a run cannot go on as it was.
      "exact": lockstep and config.checkpoint.save_replay,
      "config": to_dict(config),
      "ratio": self._ratio.state_dict(),
      "report": self._report.state_dict(),
      "log_rows": self._log.num_rows,
      "prng_impl": prng_impl(),
    }
    arrays = {"lanes": self._actors.lane_state_dict()}
    if lockstep:
      arrays["actors"] = self._actors.state_dict()
      arrays["samples"] = self._samples.state_dict()
      arrays["probe"] = self._probe.state_dict()
      arrays["learner"] = self._learner.metrics_state_dict()

    def write_more(path: pathlib.Path) -> None:
      save_arrays(path / _ARRAYS, flat(arrays))
      if lockstep:
        (path / PROBE).mkdir()
        self._probe.save(path / PROBE)
      if config.checkpoint.save_replay:
        (path / REPLAY).mkdir()
        self._replay.save(path / REPLAY)

    return lambda: save_checkpoint(
      checkpoints_dir(self._run_dir),
      state,
      record,
      max_to_keep=config.checkpoint.max_to_keep,
      write_more=write_more,
    )

  def save_if_best(
    self, state: LearnerState, *, steps: int, eval_return: float
  ) -> None:
    """Keeps the learner that evaluated best so far, without its replay.

    Raises:
      CheckpointError: it could not be written.
    """
    directory = best_dir(self._run_dir)
    saved = list_checkpoints(directory)
    if saved and _best_return(saved[-1]) >= eval_return:
      return
    save_checkpoint(
      directory,
      state,
      {"steps": steps, "eval_return": eval_return},
      max_to_keep=1,
    )

  def restore(self, resumed: Resumed) -> None:
    """Puts the parts where they were.

    They are fresh ones, but for the learner and the replay, which are restored
    already (the latter if it was saved, and fits).

    Args:
      resumed: from `resumed.find_resumed`.

    Raises:
      CheckpointError: the actors' part cannot be read, or not be brought back.
    """
    record = resumed.record
    steps, updates = resumed.checkpoint.steps, resumed.checkpoint.num_updates
    ratio = record["ratio"]
    if (
      self._replay.size() < self._config.replay.min_sequences
      and not resumed.exact  # a queue is not full, nor was it then
    ):
      # As at the first start: steps that fill the replay don't count.
      ratio = RatioState(env_steps=steps, trained_rows=0, start_steps=None)
    elif (
      "replay.replay_ratio" in resumed.changed
      and ratio["start_steps"] is not None
    ):
      # Another ratio holds from now on: over the past, it would let one side
      # stand still until the other had caught up.
      ratio |= {"trained_rows": 0, "start_steps": ratio["env_steps"]}
    self._ratio.load_state_dict(ratio)
    self._report.load_state_dict(record["report"], steps=steps, updates=updates)
    path = resumed.checkpoint.path / _ARRAYS
    try:
      arrays = nested(load_arrays(path))
      # A run on a cluster saves no lanes.
      if "env.num_envs" not in resumed.changed and arrays["lanes"]:
        self._actors.load_lane_state_dict(arrays["lanes"])
      if resumed.exact:
        self._actors.load_state_dict(arrays["actors"])
        self._samples.load_state_dict(arrays["samples"])
        self._probe.load_state_dict(arrays["probe"])
        # Empty in what earlier versions saved.
        self._learner.load_metrics_state_dict(arrays["learner"])
    # BadZipFile, TypeError: it is no archive of arrays at all.
    except (
      OSError,
      ValueError,
      KeyError,
      TypeError,
      IndexError,
      OverflowError,
      EOFError,
      zipfile.BadZipFile,
    ) as error:
      raise CheckpointError(
        f"cannot go on from {path}: {first_line(error)}"
      ) from error
    # What was written after the checkpoint will be written again. Rows may have
    # been logged at its own counts too: so it knows how many there were.
    self._log.cut(record.get("log_rows"), steps=steps, updates=updates)
    open_evaluations(self._run_dir).cut(steps=steps, updates=updates)
    for best in list_checkpoints(best_dir(self._run_dir)):
      if best.steps > steps or best.num_updates > updates:
        remove_checkpoint(best)

  def start_afresh(self) -> None:
    """Without a checkpoint, what an earlier start left tells of another run.

    It is set aside under names that end in .old.
    """
    self._log.set_aside()
    open_evaluations(self._run_dir).set_aside()
    best = best_dir(self._run_dir)
    if list_checkpoints(best):
      old = best.with_name(f"{best.name}.old")
      remove(old)
      best.rename(old)


def _best_return(saved: SavedCheckpoint) -> float:
  """What it evaluated to; one that cannot be read does not hinder a new one."""
  try:
    found = read_record(saved).get("eval_return", -math.inf)
  except CheckpointError:
    return -math.inf
  return found if is_number(found) else -math.inf
