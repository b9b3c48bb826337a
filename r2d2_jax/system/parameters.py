"""Parameters on their way from the learner to the actors."""

import threading

import jax
import jax.numpy as jnp

from r2d2_jax.types import Params


class ParameterStore:
  """The latest parameters, copied: the learner's own are donated to its step."""

  def __init__(self, params: Params):
    self._copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p))
    self._lock = threading.Lock()
    self.publish(params)

  def publish(self, params: Params) -> None:
    """Copies them; called by the learner after an update.

    Where several devices hold the same parameters, the copy is on the first of
    them: actors and evaluation run on one device.
    """
    copied = self._copy(jax.tree.map(lambda x: x.addressable_data(0), params))
    with self._lock:
      self._latest = copied

  def latest(self) -> Params:
    """The parameters published last; they stay valid for as long as held."""
    with self._lock:
      return self._latest
