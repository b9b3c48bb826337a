"""The checkpoint that a start goes on from, and how far it is the same run."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax.config import Config, to_dict, with_new_names
from r2d2_jax.system.run.record import fault_of
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  SavedCheckpoint,
  damaged_record,
  list_checkpoints,
  read_record,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir

# Directories within a checkpoint.
REPLAY = "replay"
PROBE = "probe"

# Settings that say how long a run goes on and what it shows: they may change
# without changing its course.
_FREE_SECTIONS = ("log", "evaluation", "limits", "checkpoint")
_FREE = ("run.total_steps", "run.max_minutes", "run.compile_cache_gib")
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
    path = self.checkpoint.path / REPLAY
    return path if path.exists() else None

  @property
  def probe_dir(self) -> pathlib.Path | None:
    """The probe's items; None where the probe begins anew."""
    return self.checkpoint.path / PROBE if self.exact else None


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
  if fault := fault_of(record):
    raise damaged_record(saved[-1], fault)
  for path in saved[-1].path.rglob("*"):
    if not (path.is_file() or path.is_dir()):
      raise CheckpointError(
        f"cannot go on from {saved[-1].path}: {path} is neither a file nor a"
        " directory"
      )
  found, now = record.get("prng_impl"), prng_impl()
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


def world_seed(seed: int, starts: int) -> int:
  """The seed of the worlds' games: a resumed run does not play the same ones.

  Args:
    seed: of the run.
    starts: how often it was started before.
  """
  if not starts:
    return seed
  return int(np.random.SeedSequence((seed, starts)).generate_state(1)[0] >> 1)


def prng_impl() -> str:
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
