"""Where and with what the numbers were taken."""

import datetime
from importlib import metadata
import os
import pathlib
import platform
import time

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


def busy_cores(seconds: float = 1.0) -> float:
  """How many of this process's cores others keep busy, while it sleeps."""
  start, before = time.monotonic(), _busy_seconds()
  time.sleep(seconds)
  return (_busy_seconds() - before) / (time.monotonic() - start)


def _busy_seconds() -> float:
  """Seconds that these cores have worked since the machine began."""
  cores = {f"cpu{i}" for i in os.sched_getaffinity(0)}
  ticks = 0
  for line in pathlib.Path("/proc/stat").read_text().splitlines():
    name, *counts = line.split()
    if name in cores:
      user, nice, system, _, _, *interrupts = map(int, counts[:8])
      ticks += user + nice + system + sum(interrupts)
  return ticks / os.sysconf("SC_CLK_TCK")


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
