"""Replay in this process: numpy, seeded, no server, no open port.

One of the two memories behind `interface.Replay`. Nothing is compressed: a row
costs its raw size (7 kB for an Atari frame), so it is the memory for tests, for
reproducible runs and for small machines.
"""

import pathlib
import threading
import time
from typing import Any

import jax
import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import (
  MAX_WEIGHT,
  ReplayError,
  check_priorities,
  wrong_rows,
)
from r2d2_jax.replay.meta import read_meta, settings_of, unreadable, write_meta
from r2d2_jax.replay.sequences import (
  Block,
  Item,
  as_sample,
  core_from_leaves,
  core_leaves,
  new_uid,
  row_specs,
  with_dtype,
)


class SumTree:
  """Weights in the leaves of a binary tree, partial sums above them.

  Sums are recomputed from the children, never adjusted by differences: they
  don't drift.

  Args:
    size: leaves asked for; all weights start at 0.
  """

  def __init__(self, size: int):
    self._depth = max(size - 1, 1).bit_length()
    self._first_leaf = 1 << self._depth
    # nodes[1] is the root, the children of i are 2 i and 2 i + 1.
    self._nodes = np.zeros(2 * self._first_leaf, np.float64)

  @property
  def total(self) -> float:
    """The sum of all weights."""
    return float(self._nodes[1])

  def get(self, index: np.ndarray) -> np.ndarray:
    """Weights of the leaves `index`."""
    return self._nodes[self._first_leaf + index]

  def set(self, index: np.ndarray, weights: np.ndarray) -> None:
    """Sets the leaves `index` (int [B]); of equal indices the last counts."""
    node = self._first_leaf + index
    self._nodes[node] = weights
    for _ in range(self._depth):
      node = np.unique(node >> 1)
      self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

  def find(self, uniform: np.ndarray) -> np.ndarray:
    """Leaves drawn with probability weight / total, by `uniform` [B] < 1."""
    target = uniform * self._nodes[1]
    node = np.ones(target.shape, np.int64)
    for _ in range(self._depth):
      left = self._nodes[2 * node]
      # Rounding can carry a target past the last weight: never into an empty
      # side.
      right = (target >= left) & (self._nodes[2 * node + 1] > 0.0)
      target = np.where(right, target - left, target)
      node = 2 * node + right
    return node - self._first_leaf


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
    self._num_actions = spec.num_actions
    self._specs = row_specs(
      spec, core_state, config.replay.row_states, config.agent.has_policy
    )
    self._core_state = core_state
    self._leaf_specs = [(x.shape[1:], x.dtype) for x in core_leaves(core_state)]
    self._settings = settings_of("local", config, self._specs, core_state)
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
      self._restore(restore_from)

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
      size, slots = self._size(), self._held_slots()
      items = [self._items[slot] for slot in slots]
      weights = self._tree.get(slots)
      times_sampled = self._times_sampled[slots]
      counts = {
        "size": size,
        "num_inserted": self._num_inserted,
        "num_draws": self._num_draws,
      }
    blocks = {block.uid: block for item in items for block in item.blocks}
    place = {uid: i for i, uid in enumerate(blocks)}
    counts["num_blocks"] = len(blocks)
    shapes = self._saved_shapes(counts)

    def write(name, arrays):
      _write_stack(directory / f"{name}.npy", *shapes[name], arrays)

    write("weights", [weights])
    write("times_sampled", [times_sampled])
    write(
      "item_blocks", ([place[b.uid] for b in item.blocks] for item in items)
    )
    for name in self._specs:
      write(name, (getattr(block, name) for block in blocks.values()))
    for k in range(len(self._leaf_specs)):
      write(
        f"core_state_{k}", (core_leaves(item.core_state)[k] for item in items)
      )
    write_meta(directory, self._settings, counts)

  def _restore(self, directory):
    """The inverse of `save`: the next samples are what would have come."""
    counts = read_meta(
      directory,
      self._settings,
      ("size", "num_inserted", "num_draws", "num_blocks"),
    )
    size = min(counts["num_inserted"], self._capacity)
    if self._is_queue:  # which may have been read
      size = min(counts["size"], size)
    if counts["size"] != size:
      raise unreadable(
        directory,
        f"expected {size} items, since "
        f"{counts['num_inserted']} were inserted; got "
        f"{counts['size']}",
      )
    saved = {
      name: _read_stack(_saved_file(directory, name), shape, dtype)
      for name, (shape, dtype) in self._saved_shapes(counts).items()
    }
    self._check_saved(directory, saved, counts["num_blocks"])
    # The actor's values are not kept: initial priorities were computed long
    # ago.
    no_q = np.zeros((self._block_rows, 0), np.float32)
    # Copies, each of one block: rows leave one by one, a whole file would not.
    blocks = [
      Block(
        **{name: saved[name][i].copy() for name in self._specs},
        q_t=no_q,
        core_state=None,
        uid=new_uid(),
      )
      for i in range(counts["num_blocks"])
    ]
    self._num_inserted = counts["num_inserted"]
    self._num_draws = counts["num_draws"]
    if self._is_queue:
      self._num_taken = self._num_inserted - size
    slots = self._held_slots()
    for i, (slot, places) in enumerate(
      zip(slots, saved["item_blocks"], strict=True)
    ):
      self._items[slot] = Item(
        tuple(blocks[j] for j in places),
        core_from_leaves(
          [
            saved[f"core_state_{k}"][i].copy()
            for k in range(len(self._leaf_specs))
          ],
          self._core_state,
        ),
      )
    self._tree.set(slots, saved["weights"])
    self._times_sampled[slots] = saved["times_sampled"]

  def _check_saved(self, directory, saved, num_blocks):
    """Refuses contents that no replay writes, where they are small."""

    def check(name, ok, expected):
      if not ok.all():
        raise unreadable(
          directory / f"{name}.npy",
          f"expected {expected}, got {saved[name][~ok].flat[0]}",
        )

    weights, places = saved["weights"], saved["item_blocks"]
    check(
      "weights",
      (weights >= 0.0) & (weights <= MAX_WEIGHT),
      f"weights in [0, {MAX_WEIGHT}]",
    )
    check("times_sampled", saved["times_sampled"] >= 0, "counts >= 0")
    check(
      "item_blocks",
      (places >= 0) & (places < num_blocks),
      f"places of blocks in [0, {num_blocks})",
    )
    for k in range(len(self._leaf_specs)):
      name = f"core_state_{k}"
      if jax.numpy.issubdtype(saved[name].dtype, np.floating):  # bfloat16, too
        check(name, np.isfinite(saved[name]), "finite states")
    if fault := wrong_rows(saved, self._num_actions):
      raise unreadable(directory, fault)

  def _saved_shapes(
    self, counts: dict[str, int]
  ) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """File name -> (shape, dtype)."""
    size = counts["size"]
    blocks = (counts["num_blocks"], self._block_rows)
    return (
      {
        "weights": ((size,), np.dtype(np.float64)),
        "times_sampled": ((size,), np.dtype(np.int32)),
        "item_blocks": ((size, self._item_blocks), np.dtype(np.int64)),
      }
      | {
        name: (blocks + shape, dtype)
        for name, (shape, dtype) in self._specs.items()
      }
      | {
        f"core_state_{k}": ((size,) + shape, dtype)
        for k, (shape, dtype) in enumerate(self._leaf_specs)
      }
    )

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


def _write_stack(path, shape, dtype, arrays):
  """The arrays one after the other as one .npy file of this shape."""
  # Not through a memory map: there, a full disk kills the process (SIGBUS).
  with open(path, "wb") as file:
    np.lib.format.write_array_header_1_0(
      file,
      {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
      },
    )
    for array in arrays:
      file.write(np.asarray(array, dtype).tobytes())


def _saved_file(directory, name):
  """Where `save` put it, today or in version 0.1."""
  path, older = directory / f"{name}.npy", directory / "row_lstm.npy"
  return older if name == "row_carry" and older.exists() else path


def _read_stack(path, shape, dtype):
  """What `_write_stack` wrote, read from the disk as it is used."""
  try:
    if not path.is_file():  # opening a pipe would wait for its writer
      raise FileNotFoundError("expected a file")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except Exception as error:  # numpy raises all kinds on a damaged header
    raise unreadable(path, error) from error
  array = with_dtype(array, dtype)
  if (array.shape, array.dtype) != (shape, dtype):
    raise unreadable(
      path,
      f"expected {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}",
    )
  return np.asarray(array)
