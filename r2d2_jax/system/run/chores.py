"""What the watching thread does every so often: log, save, evaluate, warn."""

from collections.abc import Callable
import time
from typing import NamedTuple

# How often counts are looked at.
_POLL_SECONDS = 0.2


class _Chore(NamedTuple):
  job: Callable[[], None]
  period: float
  clock: Callable[[], float]
  by_count: bool


class Chores:
  """Jobs with periods, in the order in which they were added.

  A job is due when its clock passes a multiple of its period. Counts that are
  resumed from a checkpoint therefore keep the same multiples.
  """

  def __init__(self):
    self._chores: list[_Chore] = []
    self._due: list[float] = []
    self._start = time.monotonic()

  def add_by_seconds(self, job: Callable[[], None], period: float) -> None:
    """Does the job every `period` seconds from now on."""
    clock = lambda: time.monotonic() - self._start
    self._add(_Chore(job, period, clock, by_count=False))

  def add_by_count(
    self, job: Callable[[], None], period: int, count: Callable[[], int]
  ) -> None:
    """Does the job whenever `count()` has passed a multiple of the period."""
    self._add(_Chore(job, period, count, by_count=True))

  def seconds_to_next(self) -> float:
    """How long the caller may sleep."""
    seconds = [
      _POLL_SECONDS if chore.by_count else due - chore.clock()
      for chore, due in zip(self._chores, self._due, strict=True)
    ]
    return max(0.0, min(seconds))

  def do(self) -> None:
    """Does what is due."""
    for i, chore in enumerate(self._chores):
      if chore.clock() >= self._due[i]:
        chore.job()
        self._due[i] = _next_multiple(chore)

  def _add(self, chore: _Chore) -> None:
    self._chores.append(chore)
    self._due.append(_next_multiple(chore))


def _next_multiple(chore: _Chore) -> float:
  return (chore.clock() // chore.period + 1) * chore.period
