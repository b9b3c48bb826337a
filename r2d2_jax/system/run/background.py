"""One job at a time in a thread beside the run: saving, evaluating, closing."""

from collections.abc import Callable
import threading


class Background:
  """Runs jobs one after the other, and keeps the first error until asked."""

  def __init__(self, name: str):
    """Args: the thread's name."""
    self._name = name
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None

  @property
  def is_busy(self) -> bool:
    """Whether a job is running."""
    return self._thread is not None and self._thread.is_alive()

  def start(self, job: Callable[[], object]) -> None:
    """Starts a job; not while another one runs."""
    assert not self.is_busy

    def run() -> None:
      try:
        job()
      except BaseException as error:
        self._error = self._error or error

    # A daemon: what it writes can be cut off at any moment anyway.
    self._thread = threading.Thread(target=run, name=self._name, daemon=True)
    self._thread.start()

  def join(self, timeout_seconds: float | None = None) -> None:
    """Waits for the job, if there is one; at most so long, None for ever."""
    if self._thread is not None:
      self._thread.join(timeout_seconds)

  def raise_error(self) -> None:
    """Raises what a job has raised, once."""
    error, self._error = self._error, None
    if error is not None:
      raise error
