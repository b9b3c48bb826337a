"""The learner loop: replay -> learner_step -> parameters and priorities."""

import contextlib
import queue
import threading

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.agent.learning import (
  compile_learner,
  learner_shardings,
)
from r2d2_jax.config import Config
from r2d2_jax.replay.interface import SampledReplay
from r2d2_jax.system.loops.parameters import Publisher
from r2d2_jax.system.loops.timing import LegTimer
from r2d2_jax.system.metrics.health import (
  DivergedError,
  check_priorities_are_sane,
  diagnosis,
)
from r2d2_jax.system.metrics.learner_stats import (
  LearnerStats,
  check_are_scalars,
)
from r2d2_jax.types import LearnerOutput, LearnerState, ReplaySample


class Batch:
  """A sampled batch on the device, with what stays on the host.

  With a mesh its items are split between the devices, each getting its own
  straight from the host. Where the mesh spans several processes, the sample is
  this process's part of the batch.
  """

  def __init__(
    self,
    sample: ReplaySample,
    burn_in: int,
    mesh: Mesh | None = None,
    *,
    lookahead_rows: int = 0,
  ):
    self.is_trained = sample.sequence.valid_t.copy()
    self.is_trained[:, :burn_in] = False
    if lookahead_rows:
      self.is_trained[:, -lookahead_rows:] = False
    self.trained_rows = int(
      np.count_nonzero(self.is_trained[:, 1:] & self.is_trained[:, :-1])
    )
    self.keys = sample.keys
    self.origin = sample.origin
    self.row_carry = sample.row_carry
    arrays = ReplaySample(
      sample.sequence, sample.probability.astype(np.float32), None
    )
    split = learner_shardings(mesh)[1] if mesh else None
    if split is None or split.is_fully_addressable:
      self.on_device = jax.device_put(arrays, split)
    else:
      self.on_device = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(split, x), arrays
      )


class Prefetcher:
  """Samples and copies to the device in a thread, ahead of the learner."""

  def __init__(
    self,
    replay: SampledReplay,
    config: Config,
    *,
    mesh: Mesh | None,
    depth: int = 2,
    batch_size: int = 0,
  ):
    """See the class.

    Args:
      replay: to sample from.
      config: the run's settings.
      mesh: that the batches are split over.
      depth: batches that may wait.
      batch_size: items that this process samples; 0 for a whole batch.
    """
    self._batch_size = batch_size or config.agent.batch_size
    self._replay = replay
    self._config = config
    self._mesh = mesh
    self._queue: queue.Queue[Batch] = queue.Queue(depth)
    self.timer = LegTimer()

  def run(self, stop: threading.Event) -> None:
    """The thread's body: fills the queue until the event is set."""
    while not stop.is_set():
      with self.timer.leg("sample"):
        try:
          sample = self._replay.sample(
            self._batch_size,
            timeout_seconds=1.0,
            # Each time: another process can empty a table.
            min_size=self._config.replay.min_sequences,
          )
        except TimeoutError:
          continue
      with self.timer.leg("copy"):
        batch = Batch(
          sample,
          self._config.agent.burn_in,
          self._mesh,
          lookahead_rows=self._config.agent.lookahead_rows,
        )
      while not stop.is_set():
        try:
          self._queue.put(batch, timeout=0.1)
          break
        except queue.Full:
          pass

  @property
  def num_ready(self) -> int:
    """Batches that wait."""
    return self._queue.qsize()

  def get(self, timeout_seconds: float) -> Batch | None:
    """The next batch; None if there was none in time."""
    try:
      return self._queue.get(timeout=timeout_seconds)
    except queue.Empty:
      return None


class LearnerLoop:
  """Updates, publishes parameters and writes priorities back, a step late.

  The priorities and the metrics of an update are fetched when the next one has
  been dispatched, so that the accelerator never waits for the host.
  """

  def __init__(
    self,
    config: Config,
    *,
    agent: Agent,
    state: LearnerState,
    replay: SampledReplay,
    parameters: Publisher,
    mesh: Mesh | None,
  ):
    """Places the state on the learner's devices.

    Args:
      config: the run's settings.
      agent: who learns.
      state: to go on from; not to be used afterwards, the learner donates it.
      replay: takes the priorities.
      parameters: gets the new ones after each update.
      mesh: from `learner_mesh`; the batches given to `step` are split over it.
    """
    self._learner = compile_learner(
      agent.learner_step, batch_size=config.agent.batch_size, mesh=mesh
    )
    self._state = (
      jax.device_put(state, learner_shardings(mesh)[0]) if mesh else state
    )
    self._copy = jax.jit(lambda s: jax.tree.map(jnp.copy, s))
    self._pack = jax.jit(packed_output)
    self._lock = threading.Lock()
    self._replay = replay
    self._parameters = parameters
    self._max_td_error = config.limits.max_td_error
    # The batch of the latest update, its output, and the output's numbers
    # packed.
    self._unwritten: tuple[Batch, LearnerOutput, jax.Array] | None = None
    # With the states of its rows, for dQ.
    self.latest_batch: Batch | None = None
    self._stats = LearnerStats()
    self.num_updates = int(state.num_updates)
    self.timer = LegTimer()
    self._compiling: threading.Thread | None = None

  def compile_ahead(self, batch: ReplaySample) -> None:
    """Compiles the update in a thread, before there is anything to learn from.

    The first `step` waits for it, and finds it compiled.

    Args:
      batch: from `batch_shapes`.
    """

    def run() -> None:
      # What it raises the first update raises again, where it is heard.
      with contextlib.suppress(Exception):
        # Under these very arguments JAX remembers what it has compiled.
        self._learner.lower(self._state, batch).compile()

    self._compiling = threading.Thread(target=run, name="compiler", daemon=True)
    self._compiling.start()

  def wait_for_compiler(self, timeout_seconds: float | None = None) -> None:
    """Until `compile_ahead` is done, at most so long; None for ever."""
    if self._compiling is not None:
      self._compiling.join(timeout_seconds)

  def step(self, batch: Batch) -> None:
    """One update on this batch; writes the priorities of the one before."""
    leg = self.timer.leg
    with leg("step"):
      self.wait_for_compiler()
    with self._lock, leg("step"):
      self._state, output = self._learner(self._state, batch.on_device)
      self.num_updates += 1
      self._parameters.publish(self._state.params, self.num_updates)
      if batch.row_carry is not None:
        self.latest_batch = batch
      packed = self._pack(output)
    # Waiting for the update before is what keeps the queue of work short.
    with leg("step"):
      if self._unwritten is not None:
        jax.block_until_ready(self._unwritten[1].priorities)
    with leg("write_back"):
      self.flush()
      self._unwritten = (batch, output, packed)

  def flush(self) -> None:
    """Writes outstanding priorities back, and counts their update's metrics.

    Raises:
      DivergedError: the update behind them went wrong.
    """
    if self._unwritten is None:
      return
    batch, output, packed = self._unwritten
    self._unwritten = None
    priorities, numbers = _own_part(output.priorities), np.asarray(packed)
    metrics = dict(zip(sorted(output.metrics), numbers, strict=False))
    self._stats.add(metrics, numbers[len(metrics) :])
    try:
      check_priorities_are_sane(priorities, max_td_error=self._max_td_error)
    except DivergedError as error:
      metrics = {k: float(v) for k, v in metrics.items()}
      raise DivergedError(
        f"{error}\n{diagnosis(self.state(), batch.on_device, metrics)}"
      ) from None
    self._replay.update_priorities(batch.keys, priorities)

  def state(self) -> LearnerState:
    """A host copy of the state; safe from any thread.

    The learner waits only until its device was told to copy.
    """
    with self._lock:
      # Every device has all of it: one that is of this process.
      state = self._copy(
        jax.tree.map(lambda x: x.addressable_data(0), self._state)
      )
    return jax.device_get(state)

  def metrics(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What the updates since the last call said: see `LearnerStats.pop`.

    The update whose priorities are not written back yet is not among them.
    """
    return self._stats.pop()

  def metrics_state_dict(self) -> dict[str, np.ndarray]:
    """What the next `metrics` is made of, so far."""
    return self._stats.state_dict()

  def load_metrics_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `metrics_state_dict`; {} for nothing yet."""
    self._stats.load_state_dict(state)


def _own_part(x: jax.Array) -> np.ndarray:
  """An array on the host: of one split over processes, this process's part."""
  if x.is_fully_addressable:
    return np.asarray(x)
  shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def packed_output(output: LearnerOutput) -> jax.Array:
  """All but the priorities in one float32 [M + T - 1], to be fetched at once.

  Fetching a dozen arrays one by one costs several times as much.

  Returns:
    The M metrics in the order of their names, then td_abs_by_row.
  """
  check_are_scalars(output.metrics)
  metrics = [output.metrics[name] for name in sorted(output.metrics)]
  return jnp.concatenate(
    [jnp.array(metrics, jnp.float32), output.td_abs_by_row]
  )
