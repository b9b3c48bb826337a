"""Clocks around calls."""

from collections.abc import Callable
import time


def units_per_second(call: Callable[[], int], *, calls: int) -> float:
  """Units per second of `calls` calls, each of which returns its units.

  One call before the clock starts: what was begun before the round (lanes that
  step, batches that are fetched ahead) is not counted in it.
  """
  call()
  start = time.perf_counter()
  units = sum(call() for _ in range(calls))
  return units / (time.perf_counter() - start)


def calls_in(call: Callable[[], int], *, seconds: float) -> int:
  """How many calls take about `seconds`: for rounds of equal work."""
  start = time.perf_counter()
  calls = 0
  while time.perf_counter() - start < seconds:
    call()
    calls += 1
  return calls
