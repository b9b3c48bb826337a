"""Ctrl-C and a cluster's SIGTERM: asked politely once, obeyed at once the next time."""

import contextlib
import signal
import threading
from typing import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts(ask_to_stop: Callable[[], None]) -> Iterator[None]:
  """Within it the first signal calls `ask_to_stop`, further ones act as before.

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

  def first(number, frame) -> None:
    del number, frame
    restore()
    ask_to_stop()

  for number in _SIGNALS:
    # A signal that the process ignores or leaves to the system stays as it is.
    if callable(before[number]):
      signal.signal(number, first)
  try:
    yield
  finally:
    restore()
