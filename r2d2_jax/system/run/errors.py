"""Errors that end a run, in the words of someone who wants it to go on."""

import pathlib
import traceback

from r2d2_jax.config import first_line
from r2d2_jax.envs.rows import BadRowsError
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.metrics.health import DivergedError
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.files import open_to_write
from r2d2_jax.system.storage.rundir import CRASH_FILE, checkpoints_dir

# Errors whose message says it all.
EXPLAINED = (DivergedError, BadRowsError, ReplayError)


class RunError(RuntimeError):
  """The run had to stop: says why, and where it can go on from."""


def explained(error: BaseException, run_dir: pathlib.Path) -> RunError:
  """The error that ends a run, with the checkpoint that it can go on from."""
  if isinstance(error, (*EXPLAINED, RunError)):
    what = str(error)
  elif isinstance(error, KeyboardInterrupt):
    what = "a second signal ended the run before its last save was done"
  else:
    what = (
      f"the run failed with {type(error).__name__}: {first_line(error)};"
      f" {write_crash(error, run_dir)}"
    )
  saved = list_checkpoints(checkpoints_dir(run_dir))
  if not saved:
    return RunError(f"{what}\nno checkpoint had been saved yet")
  return RunError(
    f"{what}\nlast good checkpoint: {saved[-1].path} (update"
    f" {saved[-1].num_updates}, step {saved[-1].steps}); the same command"
    f" with --run.run-dir {run_dir} goes on from there"
  )


def write_crash(error: BaseException, run_dir: pathlib.Path) -> str:
  """Writes the traceback to a file; returns words that say where it is."""
  path = run_dir / CRASH_FILE
  text = "".join(traceback.format_exception(error))
  try:
    with open_to_write(path) as file:
      file.write(text.encode())
  except OSError as full:
    return f"{path} cannot be written ({full}), so here it is:\n{text}"
  return f"the traceback is in {path}"
