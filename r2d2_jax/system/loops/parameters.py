"""Parameters on their way from the learner to the actors."""

import threading
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from r2d2_jax.types import Params


class Published(NamedTuple):
  """Parameters to act with."""

  params: Params
  num_updates: int  # that made them


class Publisher(Protocol):
  """Takes the learner's parameters."""

  def publish(self, params: Params, num_updates: int) -> None:
    """Called by the learner after an update."""
    ...


class Source(Protocol):
  """Has parameters to act with."""

  def latest(self) -> Published:
    """What was published last."""
    ...


class ParameterStore:
  """The latest parameters, copied: the learner's are donated to its step."""

  def __init__(self, params: Params, num_updates: int = 0):
    """Args: the first ones, and how many updates made them."""
    self._copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p))
    self._lock = threading.Lock()
    self.publish(params, num_updates)

  def publish(self, params: Params, num_updates: int) -> None:
    """Copies them; called by the learner after an update.

    Where several devices hold the same parameters, the copy is on the first of
    them: actors and evaluation run on one device.
    """
    copied = self._copy(jax.tree.map(lambda x: x.addressable_data(0), params))
    with self._lock:
      self._latest = Published(copied, num_updates)

  def latest(self) -> Published:
    """What was published last; the parameters stay valid while held."""
    with self._lock:
      return self._latest
