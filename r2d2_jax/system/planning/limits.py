"""Memory and disk that a run may take on this machine."""

import pathlib
import shutil

from r2d2_jax.config import ConfigError
from r2d2_jax.system.storage.rundir import checkpoints_dir


def free_memory_bytes() -> float | None:
  """Host memory that could be had now; None where the system does not tell.

  Linux's MemAvailable, or what is left of the control group's limit
  (containers, cluster jobs) if that is less.
  """
  try:
    meminfo = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    groups = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8")
  except OSError:
    return None
  free = [
    1024.0 * int(line.split()[1])
    for line in meminfo.splitlines()
    if line.startswith("MemAvailable:")
  ]
  root = pathlib.Path("/sys/fs/cgroup")
  for line in groups.splitlines():
    if line.startswith("0::/"):
      own = root / line[len("0::/") :]
      found = (left_in_group(group) for group in (own, *own.parents))
      free += [left for left in found if left is not None]
  return min(free, default=None)


def left_in_group(group: pathlib.Path) -> float | None:
  """Memory left in a control group (version 2); None if it has no limit."""
  try:
    limit = (group / "memory.max").read_text(encoding="ascii").strip()
    used = int((group / "memory.current").read_text(encoding="ascii"))
    stat = (group / "memory.stat").read_text(encoding="ascii")
  except OSError:
    return None
  if limit == "max":
    return None
  # Cached files count as used, and go when memory is wanted.
  cached = dict(line.split() for line in stat.splitlines())["inactive_file"]
  return float(int(limit) - used + int(cached))


def free_disk_bytes(run_dir: pathlib.Path) -> float:
  """Free where a run's directory is or will be.

  Its old checkpoints, which will be replaced, count as free.

  Raises:
    ConfigError: the directory's name is too long.
  """
  existing = run_dir.absolute()
  try:
    while not existing.exists():
      existing = existing.parent
  except OSError as error:
    raise ConfigError(
      f"run.run_dir: expected the name of a directory, got {run_dir}:"
      f" {error.strerror}"
    ) from error
  old = checkpoints_dir(run_dir).rglob("*")
  return shutil.disk_usage(existing).free + sum(
    path.stat().st_size for path in old if path.is_file()
  )
