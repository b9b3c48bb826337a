"""Items into a Reverb table and out of it: the columns, a writer, a reader."""

import queue
import threading
from typing import Any, cast

import numpy as np
import reverb
from reverb.errors import DeadlineExceededError
from reverb.trajectory_writer import TrajectoryColumn
import tensorflow as tf

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, foreign_item, wrong_rows
from r2d2_jax.replay.items import (
  Block,
  Item,
  as_sample,
  core_from_leaves,
  core_leaves,
  new_uid,
  stored_specs,
)
from r2d2_jax.replay.reverb_calls import CLOSE_SECONDS, POLL_SECONDS, TABLE


class Layout:
  """How blocks and states lie in Reverb's columns, and back.

  Columns, both uint8: "rows" [R, bytes], the observation and then the small
  fields of each row; "core" [bytes], the leaves of the state one after the
  other, only with blocks where an item starts.
  """

  columns = ("rows", "core")

  def __init__(
    self, config: Config, spec: types.EnvSpec, core_state: types.CoreState
  ):
    self.row_specs = stored_specs(config, spec, core_state)
    self._row = np.dtype(
      [(name, dtype, shape) for name, (shape, dtype) in self.row_specs.items()]
    )
    self._core = np.dtype(
      [
        (f"leaf_{k}", x.dtype, x.shape[1:])
        for k, x in enumerate(core_leaves(core_state))
      ]
    )
    self._core_state = core_state
    self._num_actions = spec.num_actions
    self._block_rows = config.chunk_rows
    self.item_blocks = config.item_rows // config.chunk_rows
    self.is_queue = config.replay.order == "fifo"

  def encode(self, block: Block) -> dict[str, np.ndarray]:
    rows = np.empty(self._block_rows, self._row)
    for name in self._row.names or ():
      rows[name] = getattr(block, name)
    columns = {"rows": _to_bytes(rows)}
    if block.core_state is not None:
      core = np.empty(1, self._core)
      for name, leaf in zip(
        self._core.names or (), core_leaves(block.core_state), strict=True
      ):
        core[name] = leaf
      columns["core"] = _to_bytes(core)[0]
    return columns

  def item_specs(self) -> dict[str, tuple[int, ...]]:
    """Shape of an item's columns."""
    return {
      "rows": (self.item_blocks, self._block_rows, self._row.itemsize),
      "core": (self._core.itemsize,),
    }

  def decode(
    self, items: list[dict[str, np.ndarray]]
  ) -> tuple[dict[str, np.ndarray], types.CoreState]:
    """Rows [B, L, ...] and core states [B, ...] from the columns of B items.

    Raises:
      ReplayError: values that no run writes.
    """
    num_rows = self.item_blocks * self._block_rows
    rows = _empty_fields((len(items), num_rows), self._row)
    core = _empty_fields((len(items),), self._core)
    for i, item in enumerate(items):
      for fields, packed in (
        (rows, np.ndarray(num_rows, self._row, item["rows"])),
        (core, np.ndarray((), self._core, item["core"])),
      ):
        for name, array in fields.items():
          array[i] = packed[name]
    if fault := wrong_rows(rows, self._num_actions):
      raise foreign_item(fault)
    return rows, core_from_leaves(list(core.values()), self._core_state)


def _to_bytes(records: np.ndarray) -> np.ndarray:
  """uint8 [N, bytes of a record]."""
  shape = (len(records), records.dtype.itemsize)
  # Of a copy: numpy does not lend the memory of bfloat16.
  return np.ndarray(shape, np.uint8, records.tobytes())


def _empty_fields(lead, dtype: np.dtype) -> dict[str, np.ndarray]:
  """An array [*lead, ...] of its own for each field of a record."""
  return {
    name: np.empty(lead + dtype[name].shape, dtype[name].base)
    for name in dtype.names or ()
  }


def joined(item: Item) -> Item:
  """The same item as one block of its own, for a queue: nothing is shared."""
  rows = {
    name: np.concatenate([getattr(block, name) for block in item.blocks])
    for name in Block._fields
    if name not in ("core_state", "uid")
  }
  block = Block(**rows, core_state=item.core_state, uid=new_uid())
  return Item((block,), item.core_state)


class BlockWriter:
  """Appends each block once, as long as the writer still knows its cells.

  Not for several threads at once.
  """

  def __init__(self, client: reverb.Client, layout: Layout, keep_blocks: int):
    self._layout = layout
    self._keep_blocks = keep_blocks
    self._writer = client.trajectory_writer(keep_blocks, validate_items=False)
    for column in layout.columns:
      self._writer.configure(
        (column,), num_keep_alive_refs=keep_blocks, max_chunk_length=1
      )
    # (uid, is a twin) -> (number of the append, column -> cell), oldest first.
    self._cells = {}
    self._num_appended = 0

  def write(self, item: Item, priority: float) -> None:
    cells, before, is_twin = [], None, False
    for block in item.blocks:
      is_twin = block.uid == before and not is_twin
      cells.append(self._append(block, is_twin))
      before = block.uid
    self._writer.create_item(
      TABLE,
      priority,
      {
        "rows": TrajectoryColumn([c["rows"] for c in cells]),
        "core": TrajectoryColumn([cells[0]["core"]], squeeze=True),
      },
    )

  def _append(self, block: Block, is_twin: bool) -> dict[str, Any]:
    # The writer forgets the oldest cell with each append. One that could go
    # while the rest of this item is appended is too old, and is stored again.
    key = (block.uid, is_twin)
    known = self._cells.get(key)
    fresh = self._num_appended - self._keep_blocks + self._layout.item_blocks
    if known and known[0] >= fresh:
      return known[1]
    columns = self._layout.encode(block)
    self._writer.append(columns)
    history = cast(dict[str, Any], self._writer.history)
    cells = {name: next(iter(history[name][-1])) for name in columns}
    self._cells.pop(key, None)
    self._cells[key] = (self._num_appended, cells)
    self._num_appended += 1
    if len(self._cells) > self._keep_blocks:
      del self._cells[next(iter(self._cells))]
    return cells

  def wait_confirmed(self, timeout_seconds: float) -> bool:
    """True when the server has all items, False when it is not done in time."""
    try:
      self._writer.flush(0, timeout_ms=int(1000 * timeout_seconds))
    except DeadlineExceededError:
      return False
    return True

  def close(self) -> None:
    self._writer.close()


class Reader:
  """Prefetches batches of one size in a daemon thread."""

  def __init__(self, address: str, layout: Layout, batch_size: int):
    self.batch_size = batch_size
    self._layout = layout
    shapes = layout.item_specs()
    self._dataset = reverb.TrajectoryDataset(
      server_address=address,
      table=TABLE,
      dtypes=dict.fromkeys(shapes, tf.uint8),
      shapes={name: tf.TensorShape(shape) for name, shape in shapes.items()},
      # One keeps a queue's order.
      num_workers_per_iterator=1 if layout.is_queue else 2,
      max_in_flight_samples_per_worker=max(1, batch_size // 2),
      # The dataset ends where it would wait, so that this thread can stop.
      rate_limiter_timeout_ms=int(1000 * POLL_SECONDS),
    )
    self._batches = queue.Queue(maxsize=1)
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def get(self, timeout_seconds: float) -> tuple[types.ReplaySample, int]:
    """The next batch, and the least size of the table while it was drawn.

    Raises:
      queue.Empty: there is none in time.
      ReplayError: reading failed.
    """
    batch = self._batches.get(timeout=timeout_seconds)
    if isinstance(batch, ReplayError):
      raise batch
    # Items of other shapes than those that were asked for.
    if isinstance(batch, tf.errors.InvalidArgumentError):
      raise foreign_item(batch) from batch
    if isinstance(batch, Exception):
      raise ReplayError(f"reading from Reverb failed: {batch}") from batch
    return batch

  def stop(self) -> None:
    # Dropping the dataset's iterator waits for what its workers have in flight.
    self._stopped.set()
    self._thread.join(CLOSE_SECONDS / 2)

  def _run(self):
    try:
      for batch in self._read():
        self._put(batch)
    except Exception as error:  # whatever it is, the caller must hear of it
      self._put(error)

  def _put(self, value):
    while not self._stopped.is_set():
      try:
        return self._batches.put(value, timeout=POLL_SECONDS)
      except queue.Full:
        pass

  def _read(self):
    elements = self._elements()
    while True:
      items = []
      probability = np.empty(self.batch_size, np.float64)
      keys = np.empty(self.batch_size, np.uint64)
      times_sampled = np.empty(self.batch_size, np.int32)
      table_size = np.empty(self.batch_size, np.int64)
      for i in range(self.batch_size):
        element = next(elements, None)
        if element is None:
          return
        columns, info, k = element
        items.append({name: column[k] for name, column in columns.items()})
        probability[i] = info.probability[k]
        keys[i] = info.key[k]
        times_sampled[i] = info.times_sampled[k]
        table_size[i] = info.table_size[k]
      yield (
        as_sample(
          *self._layout.decode(items),
          probability=probability,
          keys=keys,
          times_sampled=times_sampled,
        ),
        table_size.min(),
      )

  def _elements(self):
    """The columns and infos of several items, and the place of one of them."""
    # TensorFlow 2.15 leaks about 110 bytes at each step of an iterator:
    # gigabytes in days where each item is a step of its own.
    dataset = self._dataset.batch(self.batch_size)
    while not self._stopped.is_set():
      for several in dataset.as_numpy_iterator():
        for k in range(len(several.info.key)):
          if self._stopped.is_set():
            return
          yield several.data, several.info, k
