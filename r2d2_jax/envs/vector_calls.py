"""Calls of a Gymnasium vector environment that begin now and are awaited later.

With a deadline, so that an environment that hangs ends a run with its name.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import multiprocessing
import queue
import sys
import threading
import time
from typing import Any, Protocol

from gymnasium import vector

from r2d2_jax.envs.gymnasium_lanes import Lane, LaneError

_CLOSE_SECONDS = 5.0


class Calls(Protocol):
  """One call at a time."""

  @property
  def env(self) -> vector.VectorEnv:
    """The vector environment."""
    ...

  def begin(self, name: str, *args: Any, **kwargs: Any) -> None:
    """Starts a call of `env`."""

  def result(self) -> Any:
    """What it gave.

    Raises:
      LaneError: a lane raised, died, or did not answer in time.
    """

  def close(self) -> None:
    """Closes `env`, hanging or not."""


class ThreadCalls:
  """A vector environment that lives in a thread of its own.

  Made there too: what an environment draws with may belong to a thread.
  """

  def __init__(
    self,
    make: Callable[[], vector.VectorEnv],
    *,
    task: str,
    timeout_seconds: float,
  ):
    """Makes it.

    Args:
      make: the vector environment.
      task: for messages.
      timeout_seconds: for one call; 0 waits for ever.

    Raises:
      Exception: whatever `make` raises.
    """
    self._task = task
    self._timeout = timeout_seconds or None
    self._hangs = False
    self._orders: queue.SimpleQueue = queue.SimpleQueue()
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    # A daemon: one that hangs must not keep the process alive.
    self._thread = threading.Thread(
      target=_serve,
      args=(self._orders, self._answers),
      name="environments",
      daemon=True,
    )
    self._thread.start()
    self._orders.put(make)
    # However long that takes: a world that is being made is being waited for.
    self.env = self._value(self._answers.get())

  def begin(self, name: str, *args: Any, **kwargs: Any) -> None:
    """See `Calls.begin`."""
    self._orders.put(lambda: getattr(self.env, name)(*args, **kwargs))

  def result(self) -> Any:
    """See `Calls.result`."""
    try:
      return self._value(self._answers.get(timeout=self._timeout))
    except queue.Empty:
      lanes = [
        lane.index
        for lane in getattr(self.env, "envs", ())
        if isinstance(lane, Lane) and lane.is_busy
      ]
      self._hangs = True
      raise _hangs(self._task, lanes, self._timeout) from None

  def close(self) -> None:
    """See `Calls.close`; what hangs is left to end with the process."""
    if self._thread.is_alive() and not self._hangs:
      self._orders.put(self.env.close)
      self._orders.put(None)
      self._thread.join(_CLOSE_SECONDS)

  @staticmethod
  def _value(answer: tuple[bool, Any]) -> Any:
    ok, value = answer
    if not ok:
      raise value
    return value


def _serve(orders: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
  while (order := orders.get()) is not None:
    try:
      answers.put((True, order()))
    except BaseException as error:
      answers.put((False, error))


class Processes(vector.AsyncVectorEnv):
  """Gymnasium's own, which raises a lane's error instead of printing it."""

  def _raise_if_errors(self, successes: Iterable[bool]) -> None:
    if not all(successes):
      _, _, error, _ = self.error_queue.get()
      raise error


class ProcessCalls:
  """A process for each lane."""

  def __init__(
    self,
    make: Callable[[str], Processes],
    *,
    task: str,
    timeout_seconds: float,
  ):
    """Starts the processes.

    Args:
      make: the vector environment, from the name of a way to start processes.
      task: for messages.
      timeout_seconds: for one call; 0 waits for ever.

    Raises:
      LaneError: a process ended as it began.
      Exception: whatever making one environment raises.
    """
    self._task = task
    self._timeout = timeout_seconds or None
    self._pending = ""
    self._is_broken = False
    with _clean_start() as context, self._explained():
      self.env = make(context)

  def begin(self, name: str, *args: Any, **kwargs: Any) -> None:
    """See `Calls.begin`."""
    if name == "render":
      name, args = "call", ("render",)
    with self._explained():
      getattr(self.env, f"{name}_async")(*args, **kwargs)
    self._pending = name

  def result(self) -> Any:
    """See `Calls.result`."""
    name, self._pending = self._pending, ""
    with self._explained():
      return getattr(self.env, f"{name}_wait")(timeout=self._timeout)

  def close(self) -> None:
    """See `Calls.close`; processes that hang are killed."""
    if self.env.closed:
      return
    if self._pending and not self._is_broken:
      self._timeout = min(self._timeout or _CLOSE_SECONDS, _CLOSE_SECONDS)
      with contextlib.suppress(LaneError):
        self.result()
    if not self._is_broken:
      # Its own way asks each lane to close, and waits for all of them for ever.
      closer = threading.Thread(target=self.env.close, daemon=True)
      closer.start()
      closer.join(_CLOSE_SECONDS)
    self._kill()

  def _kill(self) -> None:
    for process in self.env.processes:
      process.kill()
    self.env.closed = True

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Errors of the lanes, in words of one sentence."""
    try:
      yield
    except multiprocessing.TimeoutError:
      self._is_broken = True
      lanes = [
        i for i, pipe in enumerate(self.env.parent_pipes) if not pipe.poll(0)
      ]
      raise _hangs(self._task, lanes, self._timeout) from None
    except LaneError:
      self._is_broken = True
      raise
    except (EOFError, ConnectionError) as error:
      self._is_broken = True
      raise LaneError(
        f"environment {self._task!r}: the process of {self._dead_lanes()}"
        " ended; what it wrote on stderr may say why"
      ) from error

  def _dead_lanes(self) -> str:
    time.sleep(0.1)  # a process that has closed its pipe may still be ending
    processes = getattr(getattr(self, "env", None), "processes", ())
    dead = [i for i, process in enumerate(processes) if not process.is_alive()]
    return _lanes(dead)


def _hangs(
  task: str, lanes: list[int], timeout_seconds: float | None
) -> LaneError:
  return LaneError(
    f"environment {task!r}, {_lanes(lanes)}: no answer within"
    f" {timeout_seconds:g} s; if it may take longer, raise"
    " env.step_timeout_seconds"
  )


def _lanes(lanes: list[int]) -> str:
  if not lanes:
    return "a lane"
  names = ", ".join(map(str, lanes[:8])) + ", ..." * (len(lanes) > 8)
  return f"lane{'s' * (len(lanes) > 1)} {names}"


@contextlib.contextmanager
def _clean_start() -> Iterator[str]:
  """Within it processes start clean: the name of the way in which they do.

  Not by fork: JAX's threads do not survive it, and the child would hear signals
  as this process does. And without this program's main module, which a child
  would import, JAX and all; functions from there travel by value (cloudpickle).
  """
  if "forkserver" in multiprocessing.get_all_start_methods():
    context = "forkserver"
    # Imported once, for all lanes; of no effect where the server runs already.
    multiprocessing.get_context(context).set_forkserver_preload(
      ["r2d2_jax.envs.gymnasium_lanes"]
    )
  else:
    context = "spawn"
  main = sys.modules["__main__"]
  hidden = {
    name: getattr(main, name)
    for name in ("__spec__", "__file__")
    if hasattr(main, name)
  }
  try:
    main.__spec__ = None
    main.__dict__.pop("__file__", None)
    yield context
  finally:
    main.__dict__.update(hidden)
