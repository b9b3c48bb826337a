"""Checkpoints: all that a run is, in directories that are whole or not there.

    checkpoints/<updates>-<steps>/
      learner/     LearnerState, written by orbax
      record.json  format, settings, counters
      ...          whatever the run adds: actors, replay

Everything is plain arrays and JSON: loading a checkpoint never runs code from
it.
"""

from collections.abc import Callable
import errno
import json
import os
import pathlib
import reprlib
import shutil
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp

from r2d2_jax.config import UserError, first_line
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.storage.files import PARTIAL, read_text, remove
from r2d2_jax.system.storage.quiet_orbax import quiet_checkpointer
from r2d2_jax.types import LearnerState

# Of record.json and what lies beside it. Raise it where an older reader would
# misunderstand.
FORMAT = 2
_RECORD = "record.json"


class CheckpointError(UserError, RuntimeError):
  """A checkpoint cannot be written or read: says which, why, and what to do."""


class SavedCheckpoint(NamedTuple):
  """One checkpoint on disk."""

  path: pathlib.Path
  num_updates: int
  steps: int


def list_checkpoints(directory: pathlib.Path) -> list[SavedCheckpoint]:
  """The whole ones in a directory, oldest first; other entries are left out."""
  found = []
  for path in directory.iterdir() if directory.is_dir() else ():
    updates, _, steps = path.name.partition("-")
    if updates.isdecimal() and steps.isdecimal():
      found.append(SavedCheckpoint(path, int(updates), int(steps)))
  return sorted(found, key=lambda c: (c.steps, c.num_updates))


def save_checkpoint(
  directory: pathlib.Path,
  state: LearnerState,
  record: dict[str, Any],
  *,
  max_to_keep: int,
  write_more: Callable[[pathlib.Path], None] = lambda path: None,
) -> SavedCheckpoint:
  """Writes one checkpoint, then removes the oldest ones.

  It is written under another name, flushed to the disk and renamed when it is
  whole: a save that fails or is cut off at any moment leaves those before it as
  they were. One writer per directory. An old one that cannot be removed is a
  warning.

  Args:
    directory: `checkpoints/` of the run; created if missing.
    state: host arrays.
    record: JSON, with `steps`, the agent steps so far.
    max_to_keep: how many remain, this one and the newest others.
    write_more: writes further files into the directory that it is given.

  Returns:
    The new one; an equal one that is there already is left alone.

  Raises:
    CheckpointError: the state is not finite, or it could not be written.
  """
  check_finite(state)
  num_updates, steps = int(state.num_updates), int(record["steps"])
  final = directory / f"{num_updates}-{steps}"
  saved = SavedCheckpoint(final, num_updates, steps)
  if final.exists():
    return saved
  partial = directory / f"{final.name}{PARTIAL}"
  if directory.is_symlink():
    raise CheckpointError(
      f"cannot save a checkpoint in {directory}: it is a link; expected a"
      " directory of the run's own"
    )
  try:
    directory.mkdir(exist_ok=True)
    for leftover in directory.glob(f"*{PARTIAL}"):
      _remove_or_warn(leftover)
    partial.mkdir()
    # First what is large: where the disk is full, it says so plainly.
    write_more(partial)
    _check_room(directory, state)
    with quiet_checkpointer() as checkpointer:
      # orbax wants absolute paths.
      checkpointer.save(
        (partial / "learner").absolute(), args=ocp.args.StandardSave(state)
      )
    text = json.dumps({"format": FORMAT, **record}, indent=1)
    (partial / _RECORD).write_text(text)
    flush_to_disk(partial)
    partial.rename(final)
  # ValueError is what orbax and its storage raise where the disk is full,
  # ReplayError what Reverb does.
  except (OSError, ValueError, ReplayError) as error:
    raise CheckpointError(
      f"cannot save a checkpoint in {directory}: {first_line(error)}. Those"
      " saved before are untouched; make room or give access, then go on"
    ) from error
  finally:
    # Best effort, whatever was raised: the space of half a checkpoint is given
    # back.
    shutil.rmtree(partial, ignore_errors=True)
  others = [c for c in list_checkpoints(directory) if c != saved]
  for old in others[: max(0, len(others) + 1 - max_to_keep)]:
    remove_checkpoint(old)
  return saved


def remove_checkpoint(checkpoint: SavedCheckpoint) -> None:
  """Removes it; of one moved and linked, the link. Warns if it cannot."""
  _remove_or_warn(checkpoint.path)


def _remove_or_warn(path: pathlib.Path) -> None:
  try:
    if path.suffix != PARTIAL:
      # Renamed first: a removal that is cut off must not leave half of one.
      path = path.rename(path.with_name(f"{path.name}{PARTIAL}"))
    remove(path)
  except OSError as error:
    warnings.warn(
      f"cannot remove {path}: {first_line(error)}; remove it yourself",
      stacklevel=2,
    )


def check_finite(state: LearnerState) -> None:
  """Raises CheckpointError where a state holds NaN or infinity."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if not np.isfinite(leaf).all():
      raise CheckpointError(
        f"the learner's state is not finite at {jax.tree_util.keystr(path)}:"
        " not saved"
      )


def read_record(checkpoint: SavedCheckpoint) -> dict[str, Any]:
  """What `save_checkpoint` was given as `record`.

  Raises:
    CheckpointError: missing, damaged, of another format, or of other steps than
      the directory's name says.
  """
  path = checkpoint.path / _RECORD
  try:
    record = json.loads(read_text(path))
    found = record["format"]
  # RecursionError: JSON of a thousand brackets.
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise damaged_record(checkpoint, first_line(error)) from error
  if found != FORMAT:
    raise CheckpointError(
      f"{checkpoint.path}: expected checkpoint format {FORMAT}, got"
      f" {reprlib.repr(found)}; it was written by another version of this"
      " program: use that one, or another run directory"
    )
  if (steps := record.get("steps")) != checkpoint.steps:
    raise damaged_record(
      checkpoint,
      f"steps: expected {checkpoint.steps} as in the directory's name, got"
      f" {reprlib.repr(steps)}",
    )
  return record


def damaged_record(checkpoint: SavedCheckpoint, why: str) -> CheckpointError:
  """The error for a record that is not what was saved."""
  return CheckpointError(
    f"cannot read {checkpoint.path / _RECORD}: {why}; {_way_out(checkpoint)}"
  )


def restore_learner(
  checkpoint: SavedCheckpoint, like: LearnerState
) -> LearnerState:
  """The learner's state.

  Args:
    checkpoint: from `list_checkpoints`.
    like: a state of the same structure, shapes and dtypes.

  Raises:
    CheckpointError: it belongs to another network, is of another update than
      the directory's name says, or cannot be read.
  """
  expected = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
  try:
    with quiet_checkpointer() as checkpointer:
      state = checkpointer.restore(
        (checkpoint.path / "learner").absolute(),
        args=ocp.args.StandardRestore(expected),
      )
    jax.tree_util.tree_map_with_path(_check_shape, expected, state)
  # Whatever orbax and its storage raise on damaged files or other shapes.
  except Exception as error:
    raise CheckpointError(
      f"cannot read {checkpoint.path} into this network:"
      f" {first_line(error)}; use the settings in the run's config.json; if"
      f" they are in use, {_way_out(checkpoint)}"
    ) from error
  if (found := int(state.num_updates)) != checkpoint.num_updates:
    raise CheckpointError(
      f"{checkpoint.path}: expected the learner of update"
      f" {checkpoint.num_updates} as in the directory's name, got that of"
      f" update {found}; {_way_out(checkpoint)}"
    )
  return state


def _check_room(directory: pathlib.Path, state: LearnerState) -> None:
  # orbax's storage, when it meets a full disk, prints pages of its own besides.
  need = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + 2**20
  free = shutil.disk_usage(directory).free
  if free < need:
    raise OSError(
      errno.ENOSPC, f"the learner's state needs {need} bytes, {free} are free"
    )


def _check_shape(path: tuple, expected: jax.ShapeDtypeStruct, x: Any) -> None:
  # orbax hands out whatever shape it finds.
  if x.shape != expected.shape:
    raise ValueError(
      f"{jax.tree_util.keystr(path)} has shape {x.shape}, expected"
      f" {expected.shape}"
    )


def _way_out(checkpoint: SavedCheckpoint) -> str:
  return (
    f"move {checkpoint.path} away to go on from the one before it, or use"
    " another run directory"
  )


def flush_to_disk(directory: pathlib.Path) -> None:
  """fsync of a directory, and of all that is in it."""
  for path in (*directory.rglob("*"), directory):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
