"""The compile cache: programs that JAX has compiled, kept for the next start.

JAX's own persistent cache, in the user's cache directory, with a size limit.
What it holds is machine code that later starts load and run: the directory is
the user's alone (docs/security.md).
"""

import contextlib
import importlib.util
import os
import pathlib
import stat
import tempfile
import warnings

import jax

# JAX writes a program and then, beside it, when it was last used.
_PROGRAM, _LAST_USE = "-cache", "-atime"
_LOCK_SECONDS = 10.0
# What a directory must have room for: about ten times a small network's update.
_TRIAL_BYTES = 2 * 2**20


def keep_compiled(limit_gib: float) -> pathlib.Path | None:
  """Keeps what JAX compiles from now on, and finds what was kept before.

  For the whole process. A program is found again by its content, the versions
  of JAX and XLA, their flags, and the kind of processor or accelerator. Where
  JAX has a cache already (JAX_COMPILATION_CACHE_DIR, the program around this
  one, an earlier run in it), that one stays as it is.

  Where no file can be written, or somebody else could write them, there is one
  warning and no cache.

  Args:
    limit_gib: GiB of disk that it may take, the least recently used leave
      first; 0 keeps nothing.

  Returns:
    The directory; None where nothing was changed.
  """
  # JAX adds its flags when it is imported.
  config = jax.config
  if config.jax_compilation_cache_dir or not limit_gib:  # pyright: ignore[reportAttributeAccessIssue]
    return None
  if importlib.util.find_spec("filelock") is None:
    return _without("JAX needs the package filelock: pip install filelock")
  try:
    directory = _directory()
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    if whose := _others_can_write(directory):
      return _without(f"{directory} {whose}; make it yours alone, mode 700")
    _remove_halves(directory)
    with tempfile.TemporaryFile(dir=directory) as trial:
      trial.write(bytes(_TRIAL_BYTES))
  # RuntimeError: the user has no home. FileExistsError: it is a file.
  except (OSError, RuntimeError) as error:
    return _without(str(error))
  # A full disk has been told, or comes later: not once for each program.
  warnings.filterwarnings(
    "ignore", message="Error (reading|writing) persistent compilation cache"
  )
  config.update("jax_compilation_cache_max_size", int(limit_gib * 2**30))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    # A start compiles more than a hundred small programs: together they take
    # as long as the large ones.
    config.update("jax_persistent_cache_min_compile_time_secs", 0)
  config.update("jax_compilation_cache_dir", str(directory))
  return directory


def _without(fault: str) -> None:
  warnings.warn(
    "what JAX compiles is not kept for the next start: "
    f"{fault}; run.compile_cache_gib of 0 keeps nothing, and says nothing",
    stacklevel=4,
  )


def _directory() -> pathlib.Path:
  """As the XDG Base Directory Specification has it: only absolute paths."""
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
  if not base.is_absolute():
    base = pathlib.Path.home() / ".cache"
  return base / "r2d2_jax" / "compiled"


def _others_can_write(directory: pathlib.Path) -> str:
  """How it is not this user's alone; "" where it is."""
  found = directory.stat()
  if found.st_uid != os.geteuid():
    return "belongs to another user"
  if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    return "can be written by others"
  return ""


def _remove_halves(directory: pathlib.Path) -> None:
  """Removes what a process that was killed has left half written.

  JAX would neither read nor replace it, and counts on both of its files.
  """
  import filelock  # an extra's, as is all that system/ needs on top

  with (
    contextlib.suppress(filelock.Timeout),
    # JAX's own lock of this directory.
    filelock.FileLock(directory / ".lockfile", timeout=_LOCK_SECONDS),
  ):
    names = {path.name for path in directory.iterdir()}
    for name in names:
      for suffix, other in (_PROGRAM, _LAST_USE), (_LAST_USE, _PROGRAM):
        whole = name.removesuffix(suffix)
        if whole != name and whole + other not in names:
          (directory / name).unlink(missing_ok=True)
