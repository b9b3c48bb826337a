"""meta.json: what a saved replay holds, and what restores it must share."""

import json
import pathlib
from typing import Any

import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.items import core_leaves, with_new_names

META_FILE = "meta.json"
_MAX_COUNT = 10**15  # items or draws: thousands of years of them


def settings_of(
  backend: str,
  config: Config,
  rows: dict[str, tuple[tuple[int, ...], np.dtype]],
  core_state: types.CoreState,
) -> dict[str, Any]:
  """What must be the same where a replay is saved and where it is restored.

  Args:
    backend: 'reverb' or 'local'.
    config: capacity, exponent, lengths of items.
    rows: shape and dtype of each stored field of a row.
    core_state: an example, with one leading dimension.
  """
  leaves = enumerate(core_leaves(core_state))
  return (
    {
      "replay.backend": backend,
      "replay.order": config.replay.order,
      "replay.capacity_sequences": config.replay.capacity_sequences,
      "replay.priority_exponent": config.replay.priority_exponent,
      "replay.row_states": config.replay.row_states,
      "agent.burn_in": config.agent.burn_in,
      "agent.trace_length": config.agent.trace_length,
      "agent.overlap": config.agent.overlap,
      "agent.lookahead_rows": config.agent.lookahead_rows,
    }
    | {
      f"rows of {name}": f"{dtype} {list(shape)}"
      for name, (shape, dtype) in rows.items()
    }
    | {
      f"core_state leaf {k}": f"{leaf.dtype} {list(leaf.shape[1:])}"
      for k, leaf in leaves
    }
  )


def write_meta(
  directory: pathlib.Path, settings: dict[str, Any], counts: dict[str, int]
) -> None:
  """Writes meta.json beside the finished files, whose sizes it records.

  Last of all, so that a save that was cut off has none.
  """
  meta = {
    "settings": settings,
    "counts": counts,
    "file_bytes": _sizes(directory),
  }
  (directory / META_FILE).write_text(json.dumps(meta, indent=2) + "\n")


def read_meta(
  directory: pathlib.Path, settings: dict[str, Any], names: tuple[str, ...]
) -> dict[str, int]:
  """The counts that were saved, if what is there is whole and fits.

  Args:
    directory: of the saved replay.
    settings: this run's, as `settings_of`.
    names: of the counts that there must be.

  Raises:
    ReplayError: no saved replay, one with other settings, or one whose files
      are missing or of another size than when they were saved.
  """
  path = directory / META_FILE
  try:
    if not path.is_file():  # opening a pipe would wait for its writer
      raise FileNotFoundError("no such file")
    # RecursionError: brackets in brackets in brackets.
    meta = json.loads(path.read_text())
    saved, counts, file_bytes = (
      _plain(meta[key], key) for key in ("settings", "counts", "file_bytes")
    )
    # What earlier versions saved has none of these.
    earlier = {"agent.lookahead_rows": 0, "replay.order": "priority"}
    saved = earlier | with_new_names(saved)
    counts = {name: _count(counts[name], name) for name in names}
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise unreadable(path, _told(error)) from error
  faults = [
    f"{name[:80]} {saved.get(name)!r:.80}, this run has {settings.get(name)!r}"
    for name in [*settings, *(saved.keys() - settings.keys())]
    if saved.get(name) != settings.get(name)
  ]
  if faults:
    raise ReplayError(
      f"the replay in {directory} was saved with "
      + "; with ".join(faults)
      + ". Restore it with the settings of the run that saved it, or start "
      "with an empty replay."
    )
  sizes = _sizes(directory)
  for name, expected in file_bytes.items():
    if sizes.get(name) != expected:
      raise unreadable(
        directory / name,
        f"expected {expected} bytes, got {sizes.get(name, 'no file')}",
      )
  return counts


def _plain(section, name):
  if not isinstance(section, dict) or any(
    isinstance(value, (dict, list)) for value in section.values()
  ):
    raise ValueError(f"{name}: expected numbers and texts by name")
  return section


def _count(value, name):
  # Not isinstance: bool is an int, too.
  if type(value) is not int or not 0 <= value < _MAX_COUNT:
    raise ValueError(
      f"{name}: expected a whole number from 0 to {_MAX_COUNT}, "
      f"got {str(value)[:40]!r}"
    )
  return value


def _told(error):
  if isinstance(error, KeyError):
    return f"expected an entry {error}"
  if isinstance(error, RecursionError):
    return "expected settings, counts and sizes, got brackets within brackets"
  return error


def unreadable(path: pathlib.Path, why: Any) -> ReplayError:
  """The error, in one line, for a file that is not what was saved."""
  return ReplayError(
    f"cannot restore the replay from {path}: {' '.join(str(why).split())}. "
    "Restore an older checkpoint, or start with an empty replay."
  )


def _sizes(directory):
  return {
    str(path.relative_to(directory)): path.stat().st_size
    for path in sorted(directory.rglob("*"))
    if path.is_file() and path.name != META_FILE
  }
