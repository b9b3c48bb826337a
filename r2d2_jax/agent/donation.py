"""Compiled functions that take over the state which they are given."""

from collections.abc import Callable
from typing import Any

import jax


class Donating:
  """A jit-compiled function; with `donate`, one argument's buffers are reused.

  The caller's arrays are gone then, and a second call with them says so. What
  else a jitted function has (`lower`, ...) it has too.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    *,
    argument: int,
    donate: bool,
    **options: Any,
  ):
    """See the class.

    Args:
      function: pure, of positional arguments.
      argument: number of the one that is donated.
      donate: False leaves the caller what it gave.
      **options: of `jax.jit`.
    """
    self._jitted = jax.jit(
      function, donate_argnums=argument if donate else (), **options
    )

  def __call__(self, *args: Any) -> Any:
    try:
      return self._jitted(*args)
    except (RuntimeError, ValueError) as error:
      if "deleted" not in str(error):
        raise
      raise RuntimeError(
        "this state was given to an earlier call, which reused its memory"
        " (donation): go on with the state that the call returned, or build the"
        f" function with donate=False. JAX says: {error}"
      ) from error

  def __getattr__(self, name: str) -> Any:
    return getattr(self._jitted, name)
