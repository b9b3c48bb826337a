"""A thread that looks whether a run still moves."""

from collections.abc import Callable, Iterator
import contextlib
import threading


@contextlib.contextmanager
def watchdog(
  progress: Callable[[], object],
  say: Callable[[float], None],
  *,
  period_minutes: float,
) -> Iterator[None]:
  """Within it a thread looks every so often whether anything has moved.

  A thread of its own, since any other one may be what hangs.

  Args:
    progress: what differs after any step.
    say: told the minutes without one, at least, at each look that found none.
    period_minutes: between two looks.
  """
  stop = threading.Event()

  def watch() -> None:
    before, minutes = progress(), 0.0
    while not stop.wait(60 * period_minutes):
      now = progress()
      minutes = minutes + period_minutes if now == before else 0.0
      before = now
      if minutes:
        say(minutes)

  thread = threading.Thread(target=watch, name="watchdog", daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
