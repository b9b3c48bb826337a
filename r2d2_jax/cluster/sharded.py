"""A learner host's view of its replay shards: one replay to sample from.

With S shards, all of them giving the same share of the global batch, an item i
of shard s is drawn with probability

    P(i) = (1 / S) P_s(i),    P_s(i) = p_i^a / sum over j in s of p_j^a,

in each draw of the batch. Its importance weight is (N P(i))^-b over the largest
of the whole batch, where N and S cancel: weights computed from P are those of
that sampling exactly. They are not those of one big table, whose P would be
p_i^a over the sum of all shards: an item of a shard with a small sum is drawn
more often here, and weighs less for it. docs/cluster.md says how far apart the
two are.
"""

from collections.abc import Sequence
import queue
import threading
import time

import jax
import numpy as np

from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.interface import Replay
from r2d2_jax.types import ReplaySample

# Batches of priorities that may wait for a slow shard.
_MAX_WAITING = 16
_POLL_SECONDS = 0.2


class ShardedReplay:
  """Samples as many items from each of some shards; writes priorities back.

  Priorities are written in a thread for each shard: the learner does not wait
  for the network, and one that is dead costs it nothing. What cannot be written
  is dropped, and counted."""

  def __init__(self, shards: Sequence[Replay], *, num_shards: int):
    """See the module.

    Args:
      shards: this host's, joined.
      num_shards: S, of all hosts.
    """
    self._num_shards = num_shards
    self._shards = list(shards)
    self._lock = threading.Lock()
    self.num_dropped = 0  # priorities that were not written
    self._closed = threading.Event()
    self._waiting: list[queue.Queue[tuple[np.ndarray, np.ndarray]]] = [
      queue.Queue(_MAX_WAITING) for _ in shards
    ]
    for i in range(len(self._shards)):
      threading.Thread(
        target=self._write, args=[i], name="priorities", daemon=True
      ).start()

  def replace(self, place: int, shard: Replay) -> None:
    """Puts another replay in the place of one that died."""
    with self._lock:
      old, self._shards[place] = self._shards[place], shard
    old.close()

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> ReplaySample:
    """As `Replay.sample`; each shard holds min_size items at least.

    Raises:
      TimeoutError: one of the shards has no batch in that time.
      ReplayError: one of them cannot be read.
    """
    with self._lock:
      shards = list(self._shards)
    deadline = time.monotonic() + timeout_seconds
    each = batch_size // len(shards)
    samples = [
      shard.sample(
        each, max(0.0, deadline - time.monotonic()), min_size=min_size
      )
      for shard in shards
    ]
    sample = samples[0]
    if len(samples) > 1:
      sample = jax.tree.map(lambda *x: np.concatenate(x), *samples)
    return sample._replace(probability=sample.probability / self._num_shards)

  def update_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
    """Hands priorities to the threads that write them.

    Args:
      keys: uint64 [B], of one `sample`, in its order: keys of two shards may be
        the same, so their place says whose they are.
      priorities: [B].
    """
    parts = len(self._shards)
    for waiting, some_keys, some_priorities in zip(
      self._waiting,
      np.split(np.asarray(keys), parts),
      np.split(np.asarray(priorities), parts),
      strict=True,
    ):
      try:
        waiting.put_nowait((some_keys, some_priorities))
      except queue.Full:
        self.num_dropped += len(some_keys)

  def close(self) -> None:
    """Lets go of the shards."""
    self._closed.set()
    for shard in self._shards:
      shard.close()

  def _write(self, place: int) -> None:
    while not self._closed.is_set():
      try:
        keys, priorities = self._waiting[place].get(timeout=_POLL_SECONDS)
      except queue.Empty:
        continue
      with self._lock:
        shard = self._shards[place]
      try:
        shard.update_priorities(keys, priorities)
      except ReplayError:  # dead: told by whoever samples, and by the fleet
        self.num_dropped += len(keys)
