"""meta.json: what a saved replay holds, and what a run must share to restore it."""

import json
import pathlib
from typing import Any

import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.sequences import core_leaves

_NAME = "meta.json"


def settings_of(backend: str, config: Config,
                rows: dict[str, tuple[tuple[int, ...], np.dtype]],
                core_state: types.CoreState) -> dict[str, Any]:
  """What must be the same where a replay is saved and where it is restored.

  Args:
    backend: 'reverb' or 'local'.
    config: capacity, exponent, lengths of items.
    rows: shape and dtype of each stored field of a row.
    core_state: an example, with one leading dimension.
  """
  leaves = enumerate(core_leaves(core_state))
  return {
      "replay.backend": backend,
      "replay.capacity_sequences": config.replay.capacity_sequences,
      "replay.priority_exponent": config.replay.priority_exponent,
      "replay.row_states": config.replay.row_states,
      "agent.burn_in": config.agent.burn_in,
      "agent.trace_length": config.agent.trace_length,
      "agent.overlap": config.agent.overlap,
  } | {
      f"rows of {name}": f"{dtype} {list(shape)}"
      for name, (shape, dtype) in rows.items()
  } | {
      f"core_state leaf {k}": f"{leaf.dtype} {list(leaf.shape[1:])}"
      for k, leaf in leaves
  }


def write_meta(directory: pathlib.Path, settings: dict[str, Any],
               counts: dict[str, int]) -> None:
  """Writes meta.json beside the finished files, whose sizes it records.

  Last of all, so that a save that was cut off has none.
  """
  meta = {"settings": settings, "counts": counts, "file_bytes": _sizes(directory)}
  (directory / _NAME).write_text(json.dumps(meta, indent=2) + "\n")


def read_meta(directory: pathlib.Path,
              settings: dict[str, Any]) -> dict[str, int]:
  """The counts that were saved, if what is there is whole and fits.

  Raises:
    ReplayError: no saved replay, one with other settings, or one whose files are
      missing or of another size than when they were saved.
  """
  path = directory / _NAME
  try:
    meta = json.loads(path.read_text())
    saved, counts, file_bytes = (
        dict(meta[key]) for key in ("settings", "counts", "file_bytes"))
  # RecursionError: JSON of a thousand brackets.
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise unreadable(path, error) from error
  for name, count in counts.items():
    if type(count) is not int or not 0 <= count < 2**53:
      raise unreadable(path, f"expected a count of {name}, got {count!r:.50}")
  faults = [
      f"{name} {saved.get(name)!r}, this run has {settings.get(name)!r}"
      for name in [*settings, *(saved.keys() - settings.keys())]
      if saved.get(name) != settings.get(name)]
  if faults:
    raise ReplayError(
        f"the replay in {directory} was saved with " + "; with ".join(faults)
        + ". Restore it with the settings of the run that saved it, or start "
        "with an empty replay.")
  sizes = _sizes(directory)
  for name, expected in file_bytes.items():
    if sizes.get(name) != expected:
      raise unreadable(
          directory / name,
          f"expected {expected} bytes, got {sizes.get(name, 'no file')}")
  return counts


def unreadable(path: pathlib.Path, why: Any) -> ReplayError:
  """The error, in one line, for a file that is not what was saved."""
  return ReplayError(
      f"cannot restore the replay from {path}: {' '.join(str(why).split())}. "
      "Restore an older checkpoint, or start with an empty replay.")


def _sizes(directory):
  return {str(path.relative_to(directory)): path.stat().st_size
          for path in sorted(directory.rglob("*"))
          if path.is_file() and path.name != _NAME}
