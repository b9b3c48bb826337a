"""Signals that ask a program to stop: noted, and obeyed between two steps.

An exception that a signal handler raises is dropped where it meets a garbage
collector's callback, and cuts in two whatever else it meets. So a handler here
sets a flag, which is looked at where stopping is safe; it raises only where
there is nothing to lose, or at a second wish.
"""

from collections.abc import Collection, Iterator
import contextlib
import os
import select
import signal
import sys
import threading
import time

# Ctrl-C; what clusters send before they kill (SLURM: SIGTERM, or SIGUSR1 with
# --signal=USR1@120); a terminal or a connection that is gone.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# What follows within this time is the same wish: sent to a process and to its
# group, by one who presses Ctrl-C twice, by a scheduler that sends two signals.
SECOND_WISH_SECONDS = 5.0


class StopRequest:
  """Whether somebody has asked the program to stop.

  Attributes:
    asked: set by the first signal; a plain bool, since a handler that takes a
      lock may wait for the very code that it interrupts.
  """

  def __init__(self):
    """Nobody has asked."""
    self.asked = False
    self._asked_at = 0.0
    self._deferrals = 0
    self._shields = 0

  def check(self) -> None:
    """Raises KeyboardInterrupt if somebody has asked."""
    if self.asked:
      raise KeyboardInterrupt

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Within it the first signal sets the flag alone, and the user is told.

    A signal more than `SECOND_WISH_SECONDS` after it raises KeyboardInterrupt.
    """
    self._deferrals += 1
    try:
      yield
    finally:
      self._deferrals -= 1

  @contextlib.contextmanager
  def shielded(self) -> Iterator[None]:
    """Within it no signal raises, however many come."""
    self._shields += 1
    try:
      yield
    finally:
      self._shields -= 1

  def handle(self, number: int, frame: object) -> None:
    """The handler of all `SIGNALS`."""
    del number, frame
    now = time.monotonic()
    if not self.asked:
      self._asked_at = now
      self.asked = True
      if not self._deferrals + self._shields:
        raise KeyboardInterrupt
      _tell(
        "stopping: what is at hand is finished and saved; another signal after"
        f" {SECOND_WISH_SECONDS:.0f} seconds ends at once"
      )
    elif now - self._asked_at > SECOND_WISH_SECONDS:
      if not self._shields:
        raise KeyboardInterrupt
      _tell("still saving, and there is no other checkpoint: not cut short")


# Handlers belong to the process, and so does what they note.
_heard: StopRequest | None = None


@contextlib.contextmanager
def heard_signals(
  *, even_ignored: Collection[int] = ()
) -> Iterator[StopRequest]:
  """Within it `SIGNALS` are noted in the request that it hands out.

  Nested, it hands out the same one: what came before a part of the program
  began is known to that part. At the end of the outermost the handlers are what
  they were. Only the main thread hears signals: elsewhere nobody ever asks.

  Args:
    even_ignored: signals that are heard although the process was started with
      them ignored. Others stay so: SIGHUP after `nohup`.
  """
  global _heard
  if threading.current_thread() is not threading.main_thread():
    yield StopRequest()
    return
  if _heard is not None:
    yield _heard
    return
  request = StopRequest()
  before = {number: signal.getsignal(number) for number in SIGNALS}
  heard = [
    number
    for number, handler in before.items()
    # None: of a library in C, which could not be put back.
    if handler is not None
    and (handler is not signal.SIG_IGN or number in even_ignored)
  ]
  _heard = request
  try:
    for number in heard:
      signal.signal(number, request.handle)
    yield request
  finally:
    for number in heard:
      signal.signal(number, before[number])
    _heard = None


def _tell(text: str) -> None:
  """A line to standard error, past the objects that the handler interrupts."""
  stderr = sys.__stderr__
  if stderr is None:  # closed when the process began
    return
  with contextlib.suppress(OSError, ValueError):
    descriptor = stderr.fileno()
    # A pipe that nobody reads, a terminal held by Ctrl-S: not waited for.
    if select.select([], [descriptor], [], 0)[1]:
      os.write(descriptor, f"\n{text}\n".encode())
