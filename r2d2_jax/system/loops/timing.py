"""Seconds spent in each leg of a loop, to see which one holds the others up."""

from collections.abc import Iterator
import contextlib
import threading
import time


class LegTimer:
  """Adds up wall-clock seconds by the name of the leg; read from any thread."""

  def __init__(self):
    self._lock = threading.Lock()
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def leg(self, name: str) -> Iterator[None]:
    """Counts the time inside the `with` block."""
    start = time.perf_counter()
    try:
      yield
    finally:
      elapsed = time.perf_counter() - start
      with self._lock:
        self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

  def seconds(self) -> dict[str, float]:
    """Seconds so far, by leg."""
    with self._lock:
      return dict(self._seconds)
