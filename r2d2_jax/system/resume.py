"""All that a run is, on its way to the disk and back."""

import pathlib
from typing import Any, Callable, NamedTuple
import zipfile

import jax
import numpy as np

from r2d2_jax.config import Config, to_dict
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.acting import ActorLoop
from r2d2_jax.system.arrays import flat, nested
from r2d2_jax.system.checkpoints import (
    CheckpointError,
    SavedCheckpoint,
    first_line,
    list_checkpoints,
    read_record,
    save_checkpoint,
)
from r2d2_jax.system.learning import LearnerLoop
from r2d2_jax.system.probe import Probe
from r2d2_jax.system.ratio import ReplayRatio
from r2d2_jax.system.report import RunReport
from r2d2_jax.system.rundir import best_dir, checkpoints_dir
from r2d2_jax.system.runlog import cut_log
from r2d2_jax.system.samples import SampleStats
from r2d2_jax.types import LearnerState

_ARRAYS = "arrays.npz"
_REPLAY = "replay"
_PROBE = "probe"
# What a run's record holds, beside what every checkpoint's does.
_RECORDED = {"starts", "exact", "config", "ratio", "report"}
# Settings that say how long a run goes on and what it shows: they may change
# without changing its course.
_FREE = frozenset((
    "total_steps", "max_minutes", "log_seconds", "log_updates",
    "tensorboard", "wandb_project", "checkpoint_minutes", "checkpoint_updates",
    "keep_checkpoints", "max_td_error", "memory_gib", "eval_period_steps",
    "eval_episodes", "eval_epsilon", "eval_lanes",
))  # fmt: skip


class Resumed(NamedTuple):
  """The checkpoint that a run goes on from."""

  checkpoint: SavedCheckpoint
  record: dict[str, Any]
  changed: list[str]  # settings that are not those it was saved with
  exact: bool  # lock-step: the run goes on as if it had never stopped

  @property
  def starts(self) -> int:
    """How often the worlds were started before; 0 in the first start.

    An exact resume brings back the worlds of the start that was saved.
    """
    return self.record["starts"] + (not self.exact)

  @property
  def replay_dir(self) -> pathlib.Path | None:
    """The saved replay; None if there is none."""
    path = self.checkpoint.path / _REPLAY
    return path if path.exists() else None

  @property
  def probe_dir(self) -> pathlib.Path | None:
    """The probe's items; None where the probe begins anew."""
    return self.checkpoint.path / _PROBE if self.exact else None


def find_resumed(run_dir: pathlib.Path, config: Config) -> Resumed | None:
  """The newest checkpoint of the directory; None where there is none.

  Raises:
    CheckpointError: it cannot be read.
  """
  saved = list_checkpoints(checkpoints_dir(run_dir))
  if not saved:
    return None
  record = read_record(saved[-1])
  if missing := _RECORDED - record.keys():
    raise CheckpointError(
        f"{saved[-1].path}: its record lacks {', '.join(sorted(missing))}; move"
        f" {saved[-1].path} away to go on from the one before it"
    )
  changed = _changed_settings(record["config"], to_dict(config))
  exact = (
      config.run.lockstep
      and record["exact"]
      and not any(name.removeprefix("run.") not in _FREE for name in changed)
  )
  return Resumed(saved[-1], record, changed, exact)


def world_seed(seed: int, starts: int) -> int:
  """The seed of the worlds' games: a resumed run does not play the same ones.

  Args:
    seed: of the run.
    starts: how often it was started before.
  """
  if not starts:
    return seed
  return int(np.random.SeedSequence((seed, starts)).generate_state(1)[0] >> 1)


class RunState:
  """Saves and restores what changes while a run goes on."""

  def __init__(
      self,
      config: Config,
      run_dir: pathlib.Path,
      *,
      starts: int,
      learner: LearnerLoop,
      actors: ActorLoop,
      replay: Any,
      ratio: ReplayRatio,
      report: RunReport,
      samples: SampleStats,
      probe: Probe,
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

  def prepare_save(self) -> Callable[[], SavedCheckpoint]:
    """Takes the small parts as they are now; the rest is done by the result.

    In lock-step mode, the parts being still, the result is called at once and the
    checkpoint is exact. With threads it is called beside them: the replay that it
    writes is a little newer than the rest, and open episodes are not in it.
    """
    config = self._config
    lockstep = config.run.lockstep
    state = self._learner.state()
    record = {
        "steps": self._ratio.env_steps,
        "starts": self._starts,
        # Without its replay a run cannot go on as it was.
        "exact": lockstep and config.run.checkpoint_replay,
        "config": to_dict(config),
        "ratio": self._ratio.state_dict(),
        "report": self._report.state_dict(),
    }
    arrays = {"lanes": self._actors.lane_state_dict()}
    if lockstep:
      arrays["actors"] = self._actors.state_dict()
      arrays["samples"] = self._samples.state_dict()
      arrays["probe"] = self._probe.state_dict()

    def write_more(path: pathlib.Path) -> None:
      np.savez(path / _ARRAYS, **flat(arrays))
      if lockstep:
        (path / _PROBE).mkdir()
        self._probe.save(path / _PROBE)
      if config.run.checkpoint_replay:
        (path / _REPLAY).mkdir()
        self._replay.save(path / _REPLAY)

    return lambda: save_checkpoint(
        checkpoints_dir(self._run_dir),
        state,
        record,
        max_to_keep=config.run.keep_checkpoints,
        write_more=write_more,
    )

  def save_if_best(
      self, state: LearnerState, *, steps: int, eval_return: float
  ) -> None:
    """Keeps the learner that evaluated best so far, without its replay."""
    directory = best_dir(self._run_dir)
    saved = list_checkpoints(directory)
    if saved and read_record(saved[-1])["eval_return"] >= eval_return:
      return
    save_checkpoint(
        directory,
        state,
        {"steps": steps, "eval_return": eval_return},
        max_to_keep=1,
    )

  def restore(self, resumed: Resumed, *, replay_restored: bool) -> None:
    """Puts the parts (fresh ones, the learner restored) where they were.

    Args:
      resumed: from `find_resumed`.
      replay_restored: whether the replay holds its old items.

    Raises:
      CheckpointError: the actors' part cannot be read, or not be brought back.
    """
    record = resumed.record
    steps, updates = resumed.checkpoint.steps, resumed.checkpoint.num_updates
    ratio = record["ratio"]
    if not replay_restored:
      # As at the first start: steps that fill the replay don't count.
      ratio = {"env_steps": steps, "trained_rows": 0, "start_steps": None}
    self._ratio.load_state_dict(ratio)
    self._report.load_state_dict(record["report"], steps=steps, updates=updates)
    path = resumed.checkpoint.path / _ARRAYS
    try:
      with np.load(path, allow_pickle=False) as saved:
        arrays = nested(dict(saved))
      if "env.num_envs" not in resumed.changed:
        self._actors.load_lane_state_dict(arrays["lanes"])
      if resumed.exact:
        self._actors.load_state_dict(arrays["actors"])
        self._samples.load_state_dict(arrays["samples"])
        self._probe.load_state_dict(arrays["probe"])
    # BadZipFile, TypeError: it is no archive of arrays at all.
    except (
        OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile
    ) as error:  # fmt: skip
      raise CheckpointError(
          f"cannot go on from {path}: {first_line(error)}"
      ) from error
    # What was written after the checkpoint will be written again.
    cut_log(self._run_dir / "log.csv", steps=steps, updates=updates)
    cut_log(self._run_dir / "evaluation.csv", updates=updates)


def _changed_settings(before: dict, now: dict) -> list[str]:
  """'section.field' of all settings that differ."""
  return [
      f"{section}.{field}"
      for section, fields in now.items()
      for field, value in fields.items()
      if field != "run_dir"  # it may have been moved
      # JSON has no tuples.
      if before.get(section, {}).get(field)
      != (list(value) if isinstance(value, tuple) else value)
  ]
