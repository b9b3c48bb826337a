"""Whether a run shall stop: a signal asked, or whoever called it."""

import contextlib
import threading

from r2d2_jax.system.run.interrupts import StopRequest


class Stop:
  """What the run's loops ask between two steps.

  Attributes:
    ended: set when the loops are to end, whatever the reason; wakes whoever
      waits.
  """

  def __init__(
    self, request: StopRequest, event: threading.Event | None = None
  ):
    """Args: what signals note, and an event of the caller's own."""
    self._request = request
    self._event = event
    self.ended = threading.Event()

  @property
  def asked(self) -> bool:
    """Whether somebody has asked the run to stop."""
    return self._request.asked or (
      self._event is not None and self._event.is_set()
    )

  def check(self) -> None:
    """Raises KeyboardInterrupt if a signal has come: nothing is lost."""
    self._request.check()

  def shielded(self) -> contextlib.AbstractContextManager[None]:
    """Within it no signal raises, however many come."""
    return self._request.shielded()
