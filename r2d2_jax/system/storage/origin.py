"""Where numbers come from: commit, command, versions and machine of a start.

Every start of a run appends a line to `starts.jsonl` in its directory, so that
each result says later by which code, on what and by which command it was made.
"""

import datetime
import functools
from importlib import metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import textwrap

from r2d2_jax.config import FileError
from r2d2_jax.system.storage.files import open_to_write, read_text

STARTS_FILE = "starts.jsonl"
_ROOT = pathlib.Path(__file__).parents[3]  # of the clone, if there is one
_PACKAGES = (
  "r2d2-jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "numpy",
  "envpool",
  "dm-reverb",
  "tensorflow-cpu",
)
_GIT_SECONDS = 10.0
_COMMAND_LENGTH = 500


def describe() -> dict:
  """The program and the machine as they are now; plain values for JSON.

  Returns:
    date (local time), command (the program's name and arguments), commit (None
    where the package does not lie in a clone) and modified (whether tracked
    files differ from it), processor, cores that this process may use,
    memory_gib, system, python, versions of packages ("missing" for those that
    are not installed).
  """
  commit, modified = _commit()
  return {
    "date": datetime.datetime.now().isoformat(timespec="seconds"),
    # Without the directory, which says nothing to others; and without the
    # whole settings that a study hands to its runs.
    "command": textwrap.shorten(
      " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
      _COMMAND_LENGTH,
      placeholder=" ...",
    ),
    "commit": commit,
    "modified": modified,
    "processor": _processor(),
    "cores": num_cores(),
    "memory_gib": round(
      os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
    ),
    "system": platform.platform(),
    "python": platform.python_version(),
    "versions": {name: _version(name) for name in _PACKAGES},
  }


def record_start(run_dir: pathlib.Path) -> None:
  """Appends `describe()` to the run's starts.jsonl.

  Raises:
    OSError: it cannot be written.
  """
  with open_to_write(run_dir / STARTS_FILE, append=True) as file:
    file.write(f"{json.dumps(describe())}\n".encode())


def read_starts(run_dir: pathlib.Path) -> list[dict]:
  """All starts of a run, oldest first; none of a run that recorded none.

  Raises:
    FileError: starts.jsonl is damaged.
  """
  path = run_dir / STARTS_FILE
  if not path.exists():
    return []
  try:
    starts = [json.loads(line) for line in read_text(path).splitlines()]
    if not all(isinstance(start, dict) for start in starts):
      raise ValueError("expected an object in each line")
  # RecursionError: JSON of a thousand brackets.
  except (OSError, ValueError, RecursionError) as error:
    raise FileError(f"{path} cannot be read: {error}") from error
  return starts


def num_cores() -> int:
  """Cores that this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # macOS
    return os.cpu_count() or 1


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
  """Commit of the clone that the package lies in, and whether it was changed.

  Asked once in a process, which goes on with the code that it began with.
  """
  if not (_ROOT / ".git").exists():
    return None, None
  head = _git(_ROOT, "rev-parse", "HEAD")
  changes = _git(_ROOT, "status", "--porcelain", "--untracked-files=no")
  return head, None if changes is None else bool(changes)


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  """What git answers; None where it cannot."""
  try:
    return subprocess.run(
      ["git", "-C", str(root), *arguments],
      check=True,
      capture_output=True,
      text=True,
      timeout=_GIT_SECONDS,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  for line in lines:
    name, _, value = line.partition(":")
    if name.strip() == "model name":
      return value.strip()
  return platform.processor() or platform.machine()


def _version(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return "missing"
