"""Parameters between processes: what the learner hands out, what the
coordinator passes on, what an actor holds.

The first and the last have the interface of `loops.parameters.ParameterStore`.
"""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import ray

from r2d2_jax.system.loops.parameters import Published
from r2d2_jax.types import LearnerState, Params


class SentParameters:
  """On a learner host: the parameters of the last update."""

  def __init__(self):
    self._latest: Published | None = None

  def publish(self, params: Params, num_updates: int) -> None:
    """Notes them; nothing is copied."""
    self._latest = Published(params, num_updates)

  def take(self) -> tuple[Any, int] | None:
    """Copies to the host what was published last; None before any update.

    Not beside an update, which donates the parameters.
    """
    if self._latest is None:
      return None
    params, num_updates = self._latest
    own = jax.tree.map(lambda x: x.addressable_data(0), params)
    return jax.device_get(own), num_updates


class Newest:
  """At the coordinator: what learner and actor hosts begin and go on with.

  State and parameters stay in Ray's object store; here are references."""

  def __init__(self, state: LearnerState):
    """Args: of the learner, to begin with."""
    self.first_state: LearnerState = jax.device_get(state)
    self._has: dict[int, Any] = {}  # by actor host
    self.put(self.first_state)

  def put(self, state: LearnerState) -> None:
    """Takes the state that learner hosts begin with from now on."""
    state = jax.device_get(state)
    self.state = ray.put(state)
    self.parameters: Any = ray.put((state.params, int(state.num_updates)))

  def first_for(self, actor: int) -> Any:
    """The parameters for a new actor host."""
    self._has[actor] = self.parameters
    return self.parameters

  def news_for(self, actor: int) -> Any:
    """The parameters, unless this host has them: then None."""
    if self._has.get(actor) is self.parameters:
      return None
    return self.first_for(actor)


class HeldParameters:
  """On an actor host: the newest that came."""

  def __init__(self, params: Params, num_updates: int):
    """Args: host arrays, and how many updates made them."""
    self._lock = threading.Lock()
    self.put(params, num_updates)

  def put(self, params: Params, num_updates: int) -> None:
    """Takes newer ones: host arrays, which may be another process's memory."""
    # Copied: on a CPU JAX would otherwise keep that memory.
    copied = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    with self._lock:
      self._latest = Published(copied, num_updates)

  def latest(self) -> Published:
    """What came last."""
    with self._lock:
      return self._latest
