"""A run of an hour: neither memory, nor threads, nor open files may grow."""

import pathlib
import time

import numpy as np
import psutil

from experiments.drills.drill import check, check_logs, small_run, started

# The memory is full, everything compiled, every kind of chore done.
_WARM_UP_SHARE = 0.25
_SAMPLE_SECONDS = 2.0


def soak(
  directory: pathlib.Path, *, minutes: float = 60.0, backend: str = "reverb"
) -> str:
  """Trains, saves and evaluates all the time; watches the process from outside.

  Returns:
    What was measured, in a line.
  """
  config = small_run(
    directory / f"soak-{backend}",
    {
      "run.total_steps": 10**9,
      "run.max_minutes": minutes,
      "checkpoint.period_minutes": 0.25,
      "evaluation.period_steps": 100_000,
      "log.tensorboard": True,
    },
    backend=backend,
  )
  log = directory / f"soak-{backend}.txt"
  seen = []
  with started(config, log) as process:
    watched = psutil.Process(process.pid)
    while process.poll() is None:
      try:
        seen.append(
          (
            watched.memory_info().rss / 2**20,
            watched.num_threads(),
            watched.num_fds(),
          )
        )
      except psutil.Error:
        break
      time.sleep(_SAMPLE_SECONDS)
    check(process.wait(120) == 0, "it ends well", log.read_text()[-2000:])
  check_logs(directory / f"soak-{backend}")
  # The end, with its last save and evaluation, is left out.
  table = np.array(seen[int(_WARM_UP_SHARE * len(seen)) : -5], float)
  check(len(table) >= 20, "enough samples", len(table))
  third = len(table) // 3
  early, late = (
    np.median(table[:third], axis=0),
    np.median(table[-third:], axis=0),
  )
  measured = (
    f"{backend}, {minutes:g} minutes, medians of the first and last third"
    f" after warm-up: memory {early[0]:.0f} -> {late[0]:.0f} MiB, threads"
    f" {early[1]:.0f} -> {late[1]:.0f}, open files {early[2]:.0f} ->"
    f" {late[2]:.0f}"
  )
  check(late[0] < 1.05 * early[0] + 10, "memory does not grow", measured)
  check(late[1] <= early[1] + 2, "threads do not grow", measured)
  check(late[2] <= early[2] + 2, "open files do not grow", measured)
  return measured
