"""Replay in this process: numpy, seeded, no server, no open port.

One of the two memories behind `interface.Replay`. Nothing is compressed: a row
costs its raw size (7 kB for an Atari frame), so it is the memory for tests, for
reproducible runs and for small machines.
"""

import pathlib
import threading
import time
from typing import Any

import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, check_priorities
from r2d2_jax.replay.items import (
  Item,
  as_sample,
  core_from_leaves,
  core_leaves,
  stored_specs,
)
from r2d2_jax.replay.local_files import Contents, LocalFiles
from r2d2_jax.replay.sum_tree import SumTree


class LocalReplay:
  """A `Replay` of numpy arrays.

  Blocks are held by reference, so that rows shared by neighbouring items are
  there once. As a queue (`replay.order`) it hands out the oldest items, gives
  each the probability 1, and forgets it.

  Args:
    config: capacity, exponent, lengths of items.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
    seed: of the sampling.
    restore_from: directory of a `save`, to go on from; None starts empty.

  Raises:
    ReplayError: what is in `restore_from` is not whole, or of other settings.
  """

  def __init__(
    self,
    config: Config,
    spec: types.EnvSpec,
    core_state: types.CoreState,
    *,
    seed: int = 0,
    restore_from: pathlib.Path | None = None,
  ):
    self._is_queue = config.replay.order == "fifo"
    self._capacity = config.replay.capacity_sequences
    self._exponent = config.replay.priority_exponent
    self._item_rows = config.item_rows
    self._block_rows = config.block_rows
    self._item_blocks = config.item_rows // config.block_rows
    self._specs = stored_specs(config, spec, core_state)
    self._core_state = core_state
    self._leaf_specs = [(x.shape[1:], x.dtype) for x in core_leaves(core_state)]
    self._files = LocalFiles(config, spec, core_state)
    self._seed = seed

    # Items are numbered from 0 as they come; item i lives in slot i % capacity
    # until item i + capacity takes it. Its key is i + 1.
    self._items: list[Any] = [None] * self._capacity
    self._tree = SumTree(self._capacity)
    self._times_sampled = np.zeros(self._capacity, np.int32)
    self._num_inserted = 0
    self._num_draws = 0
    self._num_taken = 0  # out of the queue
    self._closed = False
    self._changed = threading.Condition()
    if restore_from is not None:
      self._restore(self._files.read(restore_from))

  def insert(self, items: list[Item], priorities: np.ndarray) -> None:
    """See `Replay`."""
    priorities = check_priorities(priorities, len(items), self._exponent)
    if self._is_queue and len(items) > self._capacity:
      raise ValueError(
        f"expected at most replay.capacity_sequences ({self._capacity}) items"
        f" at once, got {len(items)}"
      )
    with self._changed:
      self._check_open()
      while self._is_queue and self._size() + len(items) > self._capacity:
        self._changed.wait()
        self._check_open()
      slots = (self._num_inserted + np.arange(len(items))) % self._capacity
      for slot, item in zip(slots, items, strict=True):
        self._items[slot] = item
      self._tree.set(slots, priorities**self._exponent)
      self._times_sampled[slots] = 0
      self._num_inserted += len(items)
      self._changed.notify_all()

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> types.ReplaySample:
    """See `Replay`."""
    deadline = time.monotonic() + timeout_seconds
    if self._is_queue:
      min_size = batch_size
    with self._changed:
      self._check_open()
      while self._size() < min_size:
        if not self._changed.wait(deadline - time.monotonic()):
          raise TimeoutError(
            f"expected at least {min_size} items within {timeout_seconds} s; "
            + (f"got {self._size()}" if self._size() else "the replay is empty")
            + ". Insert before sampling, or wait "
            "longer."
          )
        self._check_open()
      slots, probability = (
        self._oldest(batch_size) if self._is_queue else self._drawn(batch_size)
      )
      items = [self._items[slot] for slot in slots]
      times_sampled = np.empty(batch_size, np.int32)
      # A batch may draw an item more than once.
      for i, slot in enumerate(slots):
        self._times_sampled[slot] += 1
        times_sampled[i] = self._times_sampled[slot]
      # The newest number that lives in the slot.
      newest = self._num_inserted - 1
      keys = (newest - (newest - slots) % self._capacity + 1).astype(np.uint64)
      if self._is_queue:
        for slot in slots:
          self._items[slot] = None
        self._num_taken += batch_size
        self._changed.notify_all()
    return as_sample(
      *self._stack(items),
      probability=probability,
      keys=keys,
      times_sampled=times_sampled,
    )

  def _oldest(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots and probabilities of a queue's next batch."""
    return self._held_slots()[:batch_size], np.ones(batch_size)

  def _drawn(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots and probabilities of items drawn by priority."""
    # One generator per draw: a count is then all that a checkpoint has to keep.
    uniform = np.random.default_rng((self._seed, self._num_draws)).random(
      batch_size
    )
    self._num_draws += 1
    if self._tree.total > 0.0:
      slots = self._tree.find(uniform)
      return slots, self._tree.get(slots) / self._tree.total
    slots = (uniform * self._size()).astype(np.int64)
    return slots, np.full(batch_size, 1.0 / self._size())

  def update_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
    """See `Replay`."""
    keys = np.asarray(keys)
    priorities = check_priorities(priorities, len(keys), self._exponent)
    number = keys.astype(np.int64) - 1
    with self._changed:
      self._check_open()
      held = (number >= self._num_inserted - self._size()) & (
        number < self._num_inserted
      )
      self._tree.set(
        number[held] % self._capacity, priorities[held] ** self._exponent
      )

  def size(self) -> int:
    """See `Replay`."""
    with self._changed:
      return self._size()

  def num_inserted(self) -> int:
    """See `Replay`."""
    with self._changed:
      return self._num_inserted

  def check_alive(self, timeout_seconds: float) -> None:
    """See `Replay`."""
    del timeout_seconds
    self._check_open()

  def close(self) -> None:
    """See `Replay`."""
    with self._changed:
      self._closed = True
      self._items = []
      self._changed.notify_all()

  def save(self, directory: pathlib.Path) -> None:
    """See `Replay`."""
    with self._changed:
      self._check_open()
      slots = self._held_slots()
      contents = Contents(
        [self._items[slot] for slot in slots],
        self._tree.get(slots),
        self._times_sampled[slots],
        self._num_inserted,
        self._num_draws,
      )
    self._files.write(directory, contents)

  def _restore(self, contents: Contents) -> None:
    """The next samples are what would have come."""
    self._num_inserted = contents.num_inserted
    self._num_draws = contents.num_draws
    if self._is_queue:
      self._num_taken = self._num_inserted - len(contents.items)
    slots = self._held_slots()
    for slot, item in zip(slots, contents.items, strict=True):
      self._items[slot] = item
    self._tree.set(slots, contents.weights)
    self._times_sampled[slots] = contents.times_sampled

  def _size(self):
    return min(self._num_inserted - self._num_taken, self._capacity)

  def _held_slots(self) -> np.ndarray:
    """Where items are: of a queue, from the oldest to the newest."""
    first = self._num_taken if self._is_queue else 0
    return (first + np.arange(self._size())) % self._capacity

  def _check_open(self):
    if self._closed:
      raise ReplayError("the replay is closed")

  def _stack(self, items):
    """The items' rows [B, L, ...] and their core states [B, ...], copied."""
    rows = {}
    for name, (shape, dtype) in self._specs.items():
      out = np.empty((len(items), self._item_rows) + shape, dtype)
      blocked = out.reshape(
        (len(items), self._item_blocks, self._block_rows) + shape
      )
      for i, item in enumerate(items):
        for j, block in enumerate(item.blocks):
          blocked[i, j] = getattr(block, name)
      rows[name] = out
    leaves = [
      np.empty((len(items),) + shape, dtype)
      for shape, dtype in self._leaf_specs
    ]
    for i, item in enumerate(items):
      for leaf, value in zip(leaves, core_leaves(item.core_state), strict=True):
        leaf[i] = value
    return rows, core_from_leaves(leaves, self._core_state)
