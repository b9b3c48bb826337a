"""All that a run is, on its way to the disk and back."""

from collections.abc import Callable
import math
import pathlib
import reprlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

from r2d2_jax.config import Config, first_line, to_dict, with_new_names
from r2d2_jax.system.evaluation import open_evaluations
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.arrays import flat, nested
from r2d2_jax.system.loops.learner import LearnerLoop
from r2d2_jax.system.loops.ratio import RatioState, ReplayRatio
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.system.storage.arrays import load_arrays, save_arrays
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  SavedCheckpoint,
  damaged_record,
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
_REPLAY = "replay"
_PROBE = "probe"

# What a value of a record must be, in words and as a question.
_Kind = tuple[str, Callable[[Any], bool]]
_COUNT: _Kind = (
  "a whole number from 0 to 2^53",
  lambda x: type(x) is int and 0 <= x <= 2**53,
)
_NUMBER: _Kind = (
  "a number",
  lambda x: type(x) is float or type(x) is int and abs(x) <= 2**53,
)
_NUMBERS: _Kind = (
  "a list of numbers",
  lambda x: isinstance(x, list) and all(map(_NUMBER[1], x)),
)
# What a run's record holds, beside what every checkpoint's does. More is fine.
_RECORDED = {
  "steps": _COUNT,
  # As many as `world_seed` takes, and more than anyone starts.
  "starts": (
    "a whole number from 0 to 2^31",
    lambda x: type(x) is int and 0 <= x <= 2**31,
  ),
  "exact": ("true or false", lambda x: type(x) is bool),
  "config": (
    "settings by section",
    lambda x: (
      isinstance(x, dict)
      and all(isinstance(fields, dict) for fields in x.values())
    ),
  ),
  "ratio": {
    "env_steps": _COUNT,
    "trained_rows": _COUNT,
    "start_steps": (
      "null or a whole number from 0 to 2^53",
      lambda x: x is None or _COUNT[1](x),
    ),
  },
  "report": {
    "minutes": (
      "a finite number from 0 on",
      lambda x: _NUMBER[1](x) and 0 <= x < math.inf,
    ),
    "episodes": _COUNT,
    "returns": _NUMBERS,
    "exploit_returns": _NUMBERS,
    "eval_return": _NUMBER,
  },
}
# Missing in what earlier versions saved.
_RECORDED_LATER = {
  "log_rows": _COUNT,
  "prng_impl": ("a name", lambda x: isinstance(x, str)),
}
# Settings that say how long a run goes on and what it shows: they may change
# without changing its course.
_FREE_SECTIONS = ("log", "evaluation", "limits", "checkpoint")
_FREE = ("run.total_steps", "run.max_minutes")
_NOT_FREE = ("checkpoint.save_replay",)


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
    CheckpointError: it cannot be read, or only with another generator of random
      numbers.
  """
  saved = list_checkpoints(checkpoints_dir(run_dir))
  if not saved:
    return None
  record = read_record(saved[-1])
  later = {k: kind for k, kind in _RECORDED_LATER.items() if k in record}
  if fault := _fault(record, _RECORDED | later, ""):
    raise damaged_record(saved[-1], fault)
  for path in saved[-1].path.rglob("*"):
    if not (path.is_file() or path.is_dir()):
      raise CheckpointError(
        f"cannot go on from {saved[-1].path}: {path} is neither a file nor a"
        " directory"
      )
  found, now = record.get("prng_impl"), _prng_impl()
  if found not in (None, now):
    raise CheckpointError(
      f"{saved[-1].path} was saved with JAX_DEFAULT_PRNG_IMPL={found}, JAX now"
      f" has {now}: its keys are of another kind; set"
      f" JAX_DEFAULT_PRNG_IMPL={found}"
    )
  changed = _changed_settings(with_new_names(record["config"]), to_dict(config))
  exact = (
    config.run.lockstep and record["exact"] and all(map(_is_free, changed))
  )
  return Resumed(saved[-1], record, changed, exact)


def _fault(value: Any, expected: dict | _Kind, name: str) -> str | None:
  """What is wrong with a value of a record, its name in front; or None."""
  if not isinstance(expected, dict):
    words, fits = expected
    if fits(value):
      return None
    return f"{name}: expected {words}, got {reprlib.repr(value)}"
  if not isinstance(value, dict):
    return f"{name}: expected values by name, got {reprlib.repr(value)}"
  for key, inner in expected.items():
    inner_name = f"{name}.{key}" if name else key
    if key not in value:
      return f"it lacks {inner_name}"
    if fault := _fault(value[key], inner, inner_name):
      return fault
  return None


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
      "prng_impl": _prng_impl(),
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
        (path / _PROBE).mkdir()
        self._probe.save(path / _PROBE)
      if config.checkpoint.save_replay:
        (path / _REPLAY).mkdir()
        self._replay.save(path / _REPLAY)

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
      resumed: from `find_resumed`.

    Raises:
      CheckpointError: the actors' part cannot be read, or not be brought back.
    """
    record = resumed.record
    steps, updates = resumed.checkpoint.steps, resumed.checkpoint.num_updates
    ratio = record["ratio"]
    if self._replay.size() < self._config.replay.min_sequences:
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
  return found if _NUMBER[1](found) else -math.inf


def _prng_impl() -> str:
  """The kind of JAX's keys."""
  # JAX adds its flags when it is imported.
  return jax.config.jax_default_prng_impl  # pyright: ignore[reportAttributeAccessIssue]


def _plain(value: Any) -> Any:
  """As JSON has it, which has no tuples."""
  return list(value) if isinstance(value, tuple) else value


def _is_free(name: str) -> bool:
  """Whether a setting may change without changing the run's course."""
  if name in _NOT_FREE:
    return False
  return name in _FREE or name.partition(".")[0] in _FREE_SECTIONS


def _changed_settings(before: dict, now: dict) -> list[str]:
  """'section.field' of all settings that differ.

  One that an older version did not write has had its default.
  """
  defaults = to_dict(Config())
  return [
    f"{section}.{field}"
    for section, fields in now.items()
    for field, value in fields.items()
    if field != "run_dir"  # it may have been moved
    if _plain(before.get(section, {}).get(field, defaults[section][field]))
    != _plain(value)
  ]
