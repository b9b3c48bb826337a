"""How busy the machine is that the numbers are taken on."""

import os
import pathlib
import time


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
