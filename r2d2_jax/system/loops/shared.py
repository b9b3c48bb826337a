"""The parameters and the optimiser that asynchronous workers share (A3C)."""

import threading

import jax
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.system.loops.learner import Batch, packed_output
from r2d2_jax.system.loops.parameters import Published
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.system.loops.timing import LegTimer
from r2d2_jax.system.metrics.health import (
  DivergedError,
  check_priorities_are_sane,
  diagnosis,
)
from r2d2_jax.system.metrics.learner_stats import LearnerStats
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.types import LearnerState


class SharedLearner:
  """Applies the gradients of workers, each taken at parameters of its own.

  As algorithm S3 of A3C, with the optimiser's mean of squares shared too, and
  with one update at a time: the paper's threads write without a lock. It has
  the methods of `LearnerLoop` that a run's log and saves call.
  """

  latest_batch = None  # with states of its rows, for dQ: a policy has none

  def __init__(
    self,
    config: Config,
    *,
    agent: Agent,
    state: LearnerState,
    ratio: ReplayRatio,
    samples: SampleStats,
  ):
    """See the class.

    Args:
      config: the run's settings.
      agent: who learns; has `gradient` and `apply_gradient`.
      state: to go on from.
      ratio: counts the rows that are trained on.
      samples: counts how old the gradients are: the lag of a row is the number
        of updates since its worker last took the shared parameters, at least.

    Raises:
      ConfigError: the agent has no such halves.
    """
    apply = agent.apply_gradient
    if agent.gradient is None or apply is None:
      raise ConfigError(
        "agent.make_agent: expected an agent with gradient and apply_gradient,"
        f" as agent.algorithm '{config.agent.algorithm}' asks for, got one"
        " without; see make_impala_agent"
      )
    self._gradient = jax.jit(agent.gradient)

    def applied(state, grads, output):
      state, output = apply(state, grads, output)
      return state, output, packed_output(output)

    # Nothing is donated: workers hold older parameters.
    self._apply = jax.jit(applied)
    self._state = jax.device_put(state)
    self._ratio = ratio
    self._samples = samples
    self._max_td_error = config.limits.max_td_error
    self._stats = LearnerStats()
    self._lock = threading.Lock()
    self._stats_lock = threading.Lock()
    self.num_updates = int(state.num_updates)
    self.timer = LegTimer()  # empty: a worker times its own legs

  def latest(self) -> Published:
    """The shared parameters; they stay valid while held."""
    with self._lock:
      return Published(self._state.params, self.num_updates)

  def learn(self, batch: Batch, local: Published) -> Published:
    """One asynchronous update, from any thread.

    Args:
      batch: what a worker has played.
      local: its parameters, at which the gradient is taken.

    Returns:
      The shared parameters after it, which the worker goes on with.

    Raises:
      DivergedError: the update went wrong.
    """
    assert batch.origin is not None
    grads, output = self._gradient(local.params, batch.on_device)
    with self._lock:
      self._ratio.start()
      self._ratio.add_trained_rows(batch.trained_rows)
      self._samples.add(
        batch.origin,
        batch.is_trained,
        num_updates=self.num_updates,
        steps=self._ratio.env_steps,
      )
      self._state, output, packed = self._apply(self._state, grads, output)
      self.num_updates += 1
      after = Published(self._state.params, self.num_updates)
    numbers = np.asarray(packed)
    metrics = dict(zip(sorted(output.metrics), numbers, strict=False))
    with self._stats_lock:
      self._stats.add(metrics, numbers[len(metrics) :])
    try:
      check_priorities_are_sane(
        np.asarray(output.priorities), max_td_error=self._max_td_error
      )
    except DivergedError as error:
      metrics = {k: float(v) for k, v in metrics.items()}
      raise DivergedError(
        f"{error}\n{diagnosis(self.state(), batch.on_device, metrics)}"
      ) from None
    return after

  def flush(self) -> None:
    """Nothing is outstanding."""

  def state(self) -> LearnerState:
    """A host copy of the state; safe from any thread."""
    with self._lock:
      state = self._state
    return jax.device_get(state)

  def metrics(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What the updates since the last call said: see `LearnerStats.pop`."""
    return self._stats.pop()

  def metrics_state_dict(self) -> dict[str, np.ndarray]:
    """What the next `metrics` is made of, so far."""
    return self._stats.state_dict()

  def load_metrics_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `metrics_state_dict`; {} for nothing yet."""
    self._stats.load_state_dict(state)
