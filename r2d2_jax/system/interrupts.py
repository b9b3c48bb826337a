"""Ctrl-C and a cluster's SIGTERM: asked politely once, obeyed at once the next time."""

import contextlib
import signal
import threading
import time
from typing import Callable, Iterator

_SAME_WISH_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts(ask_to_stop: Callable[[], None]) -> Iterator[None]:
  """Within it the first signal calls `ask_to_stop`, a later one acts as before.

  One that follows at once is the same wish, sent to the process and to its group.

  So no step of the run is cut in two, and what is saved is the state between two
  steps. Only the main thread can do this; elsewhere nothing changes.

  Args:
    ask_to_stop: called in the main thread, between two of its instructions.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.getsignal(number) for number in _SIGNALS}

  def restore() -> None:
    for number, handler in before.items():
      signal.signal(number, handler)

  asked_at: list[float] = []

  def handle(number, frame) -> None:
    if not asked_at:
      asked_at.append(time.monotonic())
      ask_to_stop()
    elif time.monotonic() - asked_at[0] > _SAME_WISH_SECONDS:
      before[number](number, frame)

  for number in _SIGNALS:
    # A signal that the process ignores or leaves to the system stays as it is.
    if callable(before[number]):
      signal.signal(number, handle)
  try:
    yield
  finally:
    restore()
