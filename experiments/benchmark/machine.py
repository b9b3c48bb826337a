"""Where and with what the numbers were taken."""

import datetime
from importlib import metadata
import os
import pathlib
import platform

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "numpy",
  "envpool",
  "dm-reverb",
  "tensorflow-cpu",
)


def describe() -> dict:
  """Processor, memory, versions, date; plain values for JSON."""
  return {
    "date": datetime.datetime.now().isoformat(timespec="seconds"),
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0)),
    "memory_gib": round(
      os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
    ),
    "system": platform.platform(),
    "python": platform.python_version(),
    "versions": {name: _version(name) for name in _PACKAGES},
  }


def load_average() -> float:
  """Processes that wanted a core, mean of the last minute."""
  return round(os.getloadavg()[0], 2)


def _processor() -> str:
  for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
    name, _, value = line.partition(":")
    if name.strip() == "model name":
      return value.strip()
  return platform.machine()


def _version(name: str) -> str:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return "missing"
