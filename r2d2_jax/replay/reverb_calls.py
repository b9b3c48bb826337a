"""What keeps this process from hanging in a call into Reverb."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import faulthandler
import math
import signal
import socket
import threading
import time
from typing import Any

import reverb

from r2d2_jax.replay.checks import ReplayError

TABLE = "items"
POLL_SECONDS = 0.2  # how often those who wait look whether to stop
CLOSE_SECONDS = 0.9
# Without an answer for so long a server counts as dead: as long as three of a
# run's heartbeats take. A machine that swaps, or a table being saved, is slow.
CALL_SECONDS = 30.0
_START_THREADS = 64  # on two cores, a run that got 60 was ended by TensorFlow


class Connection:
  """A client of the server at `address`; calls come back from a dead one too.

  All methods may be called from any thread.
  """

  def __init__(self, address: str):
    self.address = address
    self.client = reverb.Client(address)
    self._closed = threading.Event()

  def close(self) -> bool:
    """Wakes those who wait; False where it was closed before."""
    was_open = not self._closed.is_set()
    self._closed.set()
    return was_open

  def check_open(self) -> None:
    """Raises ReplayError once closed."""
    if self._closed.is_set():
      raise ReplayError("the replay is closed")

  def pause(self, seconds: float) -> None:
    """Sleeps, but not past `close`."""
    self._closed.wait(seconds)

  def info(self, timeout_seconds: float | None = None) -> Any:
    """What the server says of the table; ReplayError where it is dead."""
    self.check_open()
    seconds = CALL_SECONDS if timeout_seconds is None else timeout_seconds
    # Reverb takes whole seconds, and 0 for ever.
    whole_seconds = max(1, math.ceil(seconds))
    return self.call(
      lambda: self.client.server_info(whole_seconds)[TABLE], seconds
    )

  def wait(self, poll: Callable[[float], bool]) -> None:
    """Calls `poll(seconds)` until it is true, as long as the server lives."""
    checked = time.monotonic()
    while not poll(POLL_SECONDS):
      self.check_open()
      if time.monotonic() - checked > CALL_SECONDS / 2:
        self.info(CALL_SECONDS / 2)
        checked = time.monotonic()

  def call(
    self, function: Callable[[], Any], timeout_seconds: float = CALL_SECONDS
  ) -> Any:
    """Calls Reverb; the caller neither waits for ever nor misses Ctrl-C."""
    answer = in_thread(function)
    if not futures.wait([answer], timeout_seconds).done:
      error = f"no answer within {timeout_seconds} s"
    elif not (error := answer.exception()):
      return answer.result()
    raise ReplayError(
      f"the Reverb server at {self.address} is dead or out of reach: {error}. "
      "Its content is lost; start again from the last checkpoint."
    )


def in_thread(function: Callable[[], Any]) -> futures.Future:
  """Calls it in a daemon thread, left behind if it never returns."""
  answer = futures.Future()

  def run():
    try:
      answer.set_result(function())
    except Exception as error:  # whoever takes the answer must hear of it
      answer.set_exception(error)

  threading.Thread(target=run, daemon=True).start()
  return answer


def check_port(port: int) -> None:
  """Raises OSError where it is taken: two servers would share it silently."""
  with socket.socket() as trial:
    # As Reverb does: connections of an earlier server may still be closing.
    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    trial.bind(("", port))


def check_threads() -> None:
  """Raises ReplayError where a server would wait in vain for threads."""
  may_end = threading.Event()
  threads = [
    threading.Thread(target=may_end.wait, daemon=True)
    for _ in range(_START_THREADS)
  ]
  started = 0
  try:
    for thread in threads:
      thread.start()
      started += 1
  except RuntimeError as error:
    raise ReplayError(
      "the Reverb server cannot start: expected room for "
      f"{_START_THREADS} more threads, {started} could be "
      "started. Raise the limits of memory and threads (`ulimit -v`, "
      "`ulimit -u`), or take the replay backend 'local'."
    ) from error
  finally:
    may_end.set()
    for thread in threads[:started]:
      thread.join()


@contextlib.contextmanager
def interruptible(seconds: float) -> Iterator[None]:
  """Within it the process ends at a signal, and after `seconds` in any case.

  For calls that may hang with Python's lock in their hands: no Python can run
  then, neither a handler of signals nor another thread. Only the main thread
  can listen to signals.
  """
  before = {}
  if threading.current_thread() is threading.main_thread():
    before = {
      number: signal.getsignal(number)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
  # Those that are ignored, or not Python's, stay as they are.
  before = {number: x for number, x in before.items() if callable(x)}
  for number in before:
    signal.signal(number, signal.SIG_DFL)
  # Says where it hangs, on the standard error output, and exits with code 1.
  faulthandler.dump_traceback_later(seconds, exit=True, file=2)
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()
    for number, handler in before.items():
      signal.signal(number, handler)
