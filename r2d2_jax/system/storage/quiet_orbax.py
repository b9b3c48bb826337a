"""orbax's checkpointer, of whose errors one hears once."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import sys
from typing import Any

import orbax.checkpoint as ocp


@contextlib.contextmanager
def quiet_checkpointer() -> Iterator[ocp.Checkpointer]:
  """Of orbax; what it prints besides the errors that it raises is left out."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  hook = sys.unraisablehook
  if not isinstance(hook, _WithoutLateAnswers):
    sys.unraisablehook = _WithoutLateAnswers(hook)
  try:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      yield checkpointer
    # After an error it stays: nobody can tell when the last answer comes.
    sys.unraisablehook = hook
  finally:
    logger.setLevel(level)


class _WithoutLateAnswers:
  """A `sys.unraisablehook` that leaves out the echoes of an error of orbax.

  At the first file that fails orbax closes its event loop, and each of the
  others, answering later, finds it closed and would print a traceback.
  """

  def __init__(self, hook: Callable[[Any], None]):
    """`hook` gets everything else."""
    self._hook = hook

  def __call__(self, unraisable: Any) -> None:
    """As `sys.unraisablehook`."""
    is_late = (
      isinstance(unraisable.exc_value, RuntimeError)
      and str(unraisable.exc_value) == "Event loop is closed"
      and unraisable.object is None
    )
    if not is_late:
      self._hook(unraisable)
