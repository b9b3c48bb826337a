"""Prioritised replay in a Reverb server; the only module that imports reverb.

Rows are written in blocks: one append of one writer per block, and an item refers
to the blocks of its lane by the cells that the writer handed back. Rows shared by
neighbouring items are then stored once, compressed, and no lane needs a writer of
its own. One append per row is five times slower and six times larger, and every
column more costs time in each append: a row is packed into one string of bytes, a
state into another.

What guards against Reverb's ways, each pinned by a test:
* A dead server makes calls block for ever, without an error and deaf to Ctrl-C.
  What may block runs in a daemon thread here, or with a deadline.
* A start that fails to get a thread may hang in the same way, and holds Python's
  lock: threads are tried before, and the start has a deadline of the system's.
* A priority that is not finite damages the table for good: `check_priorities`.
  Another process can set one: sampled and saved items are checked.
* The sums of priorities are kept by differences, and a rest of rounding beside
  priorities of 0 gives probabilities of 0: they are raised to a floor.
* An item that has one cell twice in a row cannot be read: that is taken for two
  rows of its chunk. Of blank blocks in a row every other one is a twin, stored
  once more.
* Sampling prefetches: a batch's probabilities, and the priorities that it was
  drawn by, are some batches old.
* A checkpoint deletes whatever else is in its directory but the entry that sorts
  last: it gets a directory of its own, and what it wrote is moved away at once.
* Nor does it notice that the last bytes of a file found no room on the disk: its
  files are read once more before they count as saved.
* A server takes capacity, exponent and limiter from the checkpoint that it starts
  with, and without a word stays empty where files of it are missing: meta.json is
  compared before the server starts, the table's counts after.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import faulthandler
import math
import os
import pathlib
import queue
import shutil
import signal
import socket
import tempfile
import threading
import time
from typing import Any, Optional
import warnings
import zlib

from google.protobuf.message import DecodeError
import numpy as np
import reverb
from reverb.cc import schema_pb2
from reverb.cc.checkpointing import checkpoint_pb2
from reverb.platform.checkpointers_lib import DefaultCheckpointer
from reverb.trajectory_writer import TrajectoryColumn
import tensorflow as tf

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, check_priorities, wrong_rows
from r2d2_jax.replay.meta import read_meta, settings_of, unreadable, write_meta
from r2d2_jax.replay.sequences import (
  Block,
  Item,
  as_sample,
  core_from_leaves,
  core_leaves,
  row_specs,
)

_TABLE = "items"
_SAVED = "reverb"  # Reverb's files within a saved replay
# Without an answer for so long a server counts as dead: as long as three of a run's
# heartbeats take. A machine that swaps, or a table that is being saved, is slow.
_CALL_SECONDS = 30.0
_POLL_SECONDS = 0.2  # how often those who wait look whether to stop
_CLOSE_SECONDS = 0.9
_START_SECONDS = 60.0  # for a server, which starts in a tenth of a second
_RESTORE_BYTES_PER_SECOND = 1e6  # a hundredth of what is usual
_START_THREADS = 64  # on two cores, a run that got 60 was ended by TensorFlow
_LEAST_PRIORITY = 1e-20


class _Layout:
  """How blocks and states lie in Reverb's columns, and back.

  Columns, both uint8: "rows" [R, bytes], the observation and then the small
  fields of each row; "core" [bytes], the leaves of the state one after the other,
  only with blocks where an item starts.
  """

  columns = ("rows", "core")

  def __init__(
    self, config: Config, spec: types.EnvSpec, core_state: types.CoreState
  ):
    self.row_specs = row_specs(spec, core_state, config.replay.row_states)
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
    self._block_rows = config.block_rows
    self.item_blocks = config.item_rows // config.block_rows

  def encode(self, block: Block) -> dict[str, np.ndarray]:
    rows = np.empty(self._block_rows, self._row)
    for name in self._row.names:
      rows[name] = getattr(block, name)
    columns = {"rows": _to_bytes(rows)}
    if block.core_state is not None:
      core = np.empty(1, self._core)
      for name, leaf in zip(self._core.names, core_leaves(block.core_state)):
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
      raise _foreign_item(fault)
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
    for name in dtype.names
  }


class _BlockWriter:
  """Appends each block once, as long as its cells are still known to the writer.

  Not for several threads at once.
  """

  def __init__(self, client: reverb.Client, layout: _Layout, keep_blocks: int):
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
      _TABLE,
      priority,
      {
        "rows": TrajectoryColumn([c["rows"] for c in cells]),
        "core": TrajectoryColumn([cells[0]["core"]], squeeze=True),
      },
    )

  def _append(self, block: Block, is_twin: bool) -> dict[str, Any]:
    # The writer forgets the oldest cell with each append. One that could go while
    # the rest of this item is appended is already too old, and is stored again.
    key = (block.uid, is_twin)
    known = self._cells.get(key)
    fresh = self._num_appended - self._keep_blocks + self._layout.item_blocks
    if known and known[0] >= fresh:
      return known[1]
    columns = self._layout.encode(block)
    self._writer.append(columns)
    history = self._writer.history
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
    except reverb.errors.DeadlineExceededError:
      return False
    return True

  def close(self) -> None:
    self._writer.close()


class _Reader:
  """Prefetches batches of one size in a daemon thread."""

  def __init__(self, address: str, layout: _Layout, batch_size: int):
    self.batch_size = batch_size
    self._layout = layout
    shapes = layout.item_specs()
    self._dataset = reverb.TrajectoryDataset(
      server_address=address,
      table=_TABLE,
      dtypes=dict.fromkeys(shapes, tf.uint8),
      shapes={name: tf.TensorShape(shape) for name, shape in shapes.items()},
      num_workers_per_iterator=2,
      max_in_flight_samples_per_worker=max(1, batch_size // 2),
      # The dataset ends where it would wait, so that this thread can stop.
      rate_limiter_timeout_ms=int(1000 * _POLL_SECONDS),
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
      raise _foreign_item(batch) from batch
    if isinstance(batch, Exception):
      raise ReplayError(f"reading from Reverb failed: {batch}") from batch
    return batch

  def stop(self) -> None:
    # Dropping the dataset's iterator waits for what its workers have in flight.
    self._stopped.set()
    self._thread.join(_CLOSE_SECONDS / 2)

  def _run(self):
    try:
      for batch in self._read():
        self._put(batch)
    except Exception as error:  # whatever it is, the caller must hear of it
      self._put(error)

  def _put(self, value):
    while not self._stopped.is_set():
      try:
        return self._batches.put(value, timeout=_POLL_SECONDS)
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
    # TensorFlow 2.15 leaks about 110 bytes at each step of an iterator: gigabytes
    # in days where each item is a step of its own.
    dataset = self._dataset.batch(self.batch_size)
    while not self._stopped.is_set():
      for several in dataset.as_numpy_iterator():
        for k in range(len(several.info.key)):
          if self._stopped.is_set():
            return
          yield several.data, several.info, k


class ReverbReplay:
  """A `Replay` in a Reverb server, this process's own or another's.

  Args:
    config: capacity, exponent, lengths of items, port, lanes.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
    samples_per_insert: None: whoever samples keeps the replay ratio. A number: the
      server lets each item be sampled so many times on average, for actors in
      other processes; writers and readers then wait for each other, and what was
      prefetched counts as sampled.
    error_buffer: with samples_per_insert: by how many samples its balance may be
      off, at least max(1, samples_per_insert).
    address: None starts a server in this process; "host:port" joins another one,
      whose capacity, exponent and limits then hold.
    restore_from: directory of a `save`, to go on from; None starts empty. Its
      files are linked, never changed.
    scratch: where the server writes what `save` then moves to its place: a
      directory of its own on the same file system, emptied here and removed by
      `close`. None takes a temporary one.

  Raises:
    ValueError: error_buffer is missing or too small; restore_from or scratch
      although the server is another's.
    ReplayError: what is in `restore_from` is not whole, or of other settings; the
      server does not start.
  """

  def __init__(
    self,
    config: Config,
    spec: types.EnvSpec,
    core_state: types.CoreState,
    *,
    samples_per_insert: float | None = None,
    error_buffer: float | None = None,
    address: str | None = None,
    restore_from: pathlib.Path | None = None,
    scratch: pathlib.Path | None = None,
  ):
    if address is not None and (restore_from or scratch):
      raise ValueError(
        "expected restore_from and scratch where the server starts; got them "
        f"with address={address!r}. Give them to the process of that server."
      )
    self._closed = threading.Event()
    self._exponent = config.replay.priority_exponent
    self._layout = _Layout(config, spec, core_state)
    self._settings = settings_of(
      "reverb", config, self._layout.row_specs, core_state
    ) | {"samples_per_insert": samples_per_insert, "error_buffer": error_buffer}
    self._server = self._scratch = None
    if address is None:
      limiter = _rate_limiter(samples_per_insert, error_buffer)
      counts = restore_from and self._read_saved(restore_from)
      self._scratch = pathlib.Path(scratch or tempfile.mkdtemp())
      self._server = _start_server(config, limiter, self._scratch, restore_from)
      address = f"localhost:{self._server.port}"
    self.address = address
    self._client = reverb.Client(address)
    if restore_from is not None:
      self._check_restored(restore_from, counts)
    self._save_lock = threading.Lock()
    # While a block has items to come, all lanes write the blocks that neighbouring
    # items share; half as much again for lanes that run at another pace. No more,
    # since Reverb sends the list of what is kept with every item.
    shared_rows = config.item_rows - (
      config.agent.trace_length - config.agent.overlap
    )
    shared_blocks = config.env.num_envs * shared_rows // config.block_rows
    self._writer = _BlockWriter(
      self._client,
      self._layout,
      shared_blocks * 3 // 2 + 2 * self._layout.item_blocks,
    )
    self._write_lock = threading.Lock()
    self._reader = None
    self._read_lock = threading.Lock()

  def insert(self, items: list[Item], priorities: np.ndarray) -> None:
    """See `Replay`."""
    priorities = self._raised(priorities, len(items))
    with self._write_lock:
      self._check_open()
      for item, priority in zip(items, priorities):
        self._writer.write(item, priority)
      if items:
        self._wait(self._writer.wait_confirmed)

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> types.ReplaySample:
    """See `Replay`."""
    deadline = time.monotonic() + timeout_seconds
    while True:
      with self._read_lock:
        self._check_open()
        if self._reader is None or self._reader.batch_size != batch_size:
          if self._reader is not None:
            self._reader.stop()
          self._reader = _Reader(self.address, self._layout, batch_size)
        reader = self._reader
      remaining = max(deadline - time.monotonic(), 0.0)
      turn = min(remaining, _POLL_SECONDS)
      try:
        batch, size = reader.get(turn)
      except queue.Empty:
        pass
      else:
        if size >= min_size:
          return batch
        self._closed.wait(turn)
      if not remaining:
        raise TimeoutError(
          f"no batch of {batch_size} items within {timeout_seconds} s: the "
          f"table is empty or holds less than {min_size}, the rate limiter "
          "holds it back, or the server is dead. Insert before sampling, or "
          "wait longer."
        )

  def update_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
    """See `Replay`."""
    keys = np.asarray(keys)
    priorities = self._raised(priorities, len(keys))
    self._check_open()
    updates = dict(zip(keys.tolist(), priorities))
    self._call(lambda: self._client.mutate_priorities(_TABLE, updates))

  def size(self) -> int:
    """See `Replay`."""
    return self._info(_CALL_SECONDS).current_size

  def num_inserted(self) -> int:
    """See `Replay`."""
    return self._info(_CALL_SECONDS).rate_limiter_info.insert_stats.completed

  def check_alive(self, timeout_seconds: float) -> None:
    """See `Replay`."""
    self._info(timeout_seconds)

  def save(self, directory: pathlib.Path) -> None:
    """See `Replay`."""
    if self._scratch is None:
      raise ReplayError(
        f"the Reverb server at {self.address} belongs to another process, "
        "which alone can save it. Call save there."
      )
    with self._save_lock:
      path = _in_thread(self._client.checkpoint)
      self._wait(lambda seconds: bool(futures.wait([path], seconds).done))
      if error := path.exception():
        self.check_alive(_CALL_SECONDS)
        _make_empty(self._scratch)  # it may be what fills the disk
        raise ReplayError(
          f"Reverb could not write its checkpoint to {self._scratch}: {error}. "
          "Is the disk full?"
        ) from error
      try:
        _check_whole(pathlib.Path(path.result()))
        self._check_items(path.result())
      except ReplayError:
        _make_empty(self._scratch)
        raise
      counts = _read_counts(path.result())
      # A rename, unless `scratch` was left to be a temporary directory elsewhere.
      shutil.move(path.result(), directory / _SAVED)
    write_meta(directory, self._settings, counts)

  def close(self) -> None:
    """See `Replay`."""
    if self._closed.is_set():
      return
    self._closed.set()
    stopper = threading.Thread(target=self._stop, daemon=True)
    stopper.start()
    stopper.join(_CLOSE_SECONDS)

  def _stop(self):
    # The order matters: a writer or reader that outlives its server blocks.
    with self._write_lock:
      self._writer.wait_confirmed(_POLL_SECONDS)
      self._writer.close()
    with self._read_lock:
      if self._reader is not None:
        self._reader.stop()
        self._reader = None
    if self._server is not None:
      self._server.stop()
      self._server = None  # else its destructor complains at interpreter exit
      shutil.rmtree(self._scratch, ignore_errors=True)

  def _check_open(self):
    if self._closed.is_set():
      raise ReplayError("the replay is closed")

  def _info(self, timeout_seconds):
    self._check_open()
    # Reverb takes whole seconds, and 0 for ever.
    whole_seconds = max(1, math.ceil(timeout_seconds))
    return self._call(
      lambda: self._client.server_info(whole_seconds)[_TABLE], timeout_seconds
    )

  def _raised(self, priorities, expected):
    priorities = check_priorities(priorities, expected, self._exponent)
    return np.maximum(priorities, _LEAST_PRIORITY).tolist()

  def _read_saved(self, directory):
    """The counts of a saved replay, once it has been looked through."""
    counts = read_meta(directory, self._settings, ("size", "num_inserted"))
    try:
      self._check_items(directory / _SAVED)
    # What TensorFlow and protobuf raise on damaged files.
    except (ReplayError, tf.errors.OpError, DecodeError) as error:
      raise unreadable(directory / _SAVED, error) from error
    return counts

  def _check_items(self, checkpoint):
    """Refuses a checkpoint whose table this run did not make.

    Raises:
      ReplayError: an item with a priority that damages the table, or of another
        form.
    """
    records = tf.data.TFRecordDataset(
      os.path.join(checkpoint, "items.tfrecord"), compression_type="ZLIB"
    )
    form = [1, self._layout.item_blocks]  # places of "core" and "rows"
    for several in records.batch(1024).as_numpy_iterator():
      for record in several:
        item = schema_pb2.PrioritizedItem.FromString(record)
        if not 0.0 <= item.priority < math.inf:
          raise _foreign_item(f"item {item.key} has priority {item.priority}")
        columns = item.flat_trajectory.columns
        if [len(column.chunk_slices) for column in columns] != form:
          raise _foreign_item(f"item {item.key} has other columns")

  def _check_restored(self, restore_from, expected):
    info = self._info(_CALL_SECONDS)
    got = {
      "size": info.current_size,
      "num_inserted": info.rate_limiter_info.insert_stats.completed,
    }
    if got != expected:
      self._server.stop()
      self._server = None
      raise unreadable(restore_from / _SAVED, f"expected {expected}, got {got}")

  def _wait(self, poll: Callable[[float], bool]) -> None:
    """Calls `poll(seconds)` until it is true, as long as the server lives."""
    checked = time.monotonic()
    while not poll(_POLL_SECONDS):
      self._check_open()
      if time.monotonic() - checked > _CALL_SECONDS / 2:
        self.check_alive(_CALL_SECONDS / 2)
        checked = time.monotonic()

  def _call(
    self, function: Callable[[], Any], timeout_seconds: float = _CALL_SECONDS
  ) -> Any:
    """Calls Reverb so that the caller neither waits for ever nor misses Ctrl-C."""
    answer = _in_thread(function)
    if not futures.wait([answer], timeout_seconds).done:
      error = f"no answer within {timeout_seconds} s"
    elif not (error := answer.exception()):
      return answer.result()
    raise ReplayError(
      f"the Reverb server at {self.address} is dead or out of reach: {error}. "
      "Its content is lost; start again from the last checkpoint."
    )


def _in_thread(function: Callable[[], Any]) -> futures.Future:
  """Calls it in a daemon thread, which may be left behind if it never returns."""
  answer = futures.Future()

  def run():
    try:
      answer.set_result(function())
    except Exception as error:  # whoever takes the answer must hear of it
      answer.set_exception(error)

  threading.Thread(target=run, daemon=True).start()
  return answer


def _foreign_item(why: Any) -> ReplayError:
  """The error for what came into the table through the port."""
  return ReplayError(
    "the replay is at fault, not the training: it holds an item that this run "
    f"did not write ({' '.join(str(why).split())}). Another process can write "
    "through Reverb's port (see docs/security.md): go on from the last "
    "checkpoint, with the port closed to others or with the replay backend "
    "'local'."
  )


def _rate_limiter(samples_per_insert, error_buffer):
  if samples_per_insert is None:
    return reverb.rate_limiters.MinSize(1)
  least = max(1.0, samples_per_insert)
  if error_buffer is None or error_buffer < least:
    raise ValueError(
      f"expected error_buffer >= {least} = max(1, samples_per_insert), smaller "
      f"ones block all readers or writers; got {error_buffer}"
    )
  return reverb.rate_limiters.SampleToInsertRatio(
    samples_per_insert, min_size_to_sample=1, error_buffer=float(error_buffer)
  )


def _start_server(config, rate_limiter, scratch, restore_from):
  _make_empty(scratch)
  restored = scratch / "restored"
  seconds = _START_SECONDS
  try:
    if restore_from is not None:
      shutil.copytree(restore_from / _SAVED, restored, copy_function=_link)
      seconds += (
        sum(x.stat().st_size for x in restored.iterdir())
        / _RESTORE_BYTES_PER_SECOND
      )
    _check_threads()
    _check_port(config.replay.port)
    with _interruptible(seconds):
      server = reverb.Server(
        [
          reverb.Table(
            name=_TABLE,
            sampler=reverb.selectors.Prioritized(
              config.replay.priority_exponent
            ),
            remover=reverb.selectors.Fifo(),
            max_size=config.replay.capacity_sequences,
            rate_limiter=rate_limiter,
          )
        ],
        port=config.replay.port or None,
        checkpointer=DefaultCheckpointer(str(scratch)),
      )
  except ReplayError:
    raise
  except (OSError, RuntimeError, ValueError) as error:
    if restore_from is not None:
      raise unreadable(restore_from / _SAVED, error) from error
    raise ReplayError(
      f"the Reverb server does not start: {error}. Is its port taken "
      f"(replay.port {config.replay.port}, 0 is any), or are memory or threads "
      "short (`ulimit -v`, `ulimit -u`)? The replay backend 'local' needs no "
      "server."
    ) from error
  finally:
    shutil.rmtree(restored, ignore_errors=True)
  warnings.warn(
    f"Reverb listens on port {server.port} of every network interface, without "
    "credentials: whoever reaches it can read and write the replay. Use it in a "
    "trusted network only, or take the replay backend 'local', which opens no "
    "port.",
    stacklevel=3,
  )
  return server


def _check_port(port: int) -> None:
  """Raises OSError where it is taken; two servers would share it without a word."""
  with socket.socket() as trial:
    # As Reverb does: connections of an earlier server may still be closing.
    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    trial.bind(("", port))


def _check_threads():
  """Raises ReplayError where a server would wait for threads that don't come."""
  may_end = threading.Event()
  threads = [
    threading.Thread(target=may_end.wait, daemon=True)
    for _ in range(_START_THREADS)
  ]
  started = 0
  try:
    for thread in threads:
      thread.start()
      started += 1
  except RuntimeError as error:
    raise ReplayError(
      f"the Reverb server cannot start: expected room for {_START_THREADS} more "
      f"threads, {started} could be started. Raise the limits of memory and "
      "threads (`ulimit -v`, `ulimit -u`), or take the replay backend 'local'."
    ) from error
  finally:
    may_end.set()
    for thread in threads[:started]:
      thread.join()


@contextlib.contextmanager
def _interruptible(seconds: float) -> Iterator[None]:
  """Within it the process ends at a signal, and after `seconds` in any case.

  For calls that may hang with Python's lock in their hands: no Python can run
  then, neither a handler of signals nor another thread. Only the main thread can
  listen to signals.
  """
  before = {}
  if threading.current_thread() is threading.main_thread():
    before = {
      number: signal.getsignal(number)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
  # Those that are ignored, or not Python's, stay as they are.
  before = {number: x for number, x in before.items() if callable(x)}
  for number in before:
    signal.signal(number, signal.SIG_DFL)
  # Says where it hangs, on the standard error output, and exits with code 1.
  faulthandler.dump_traceback_later(seconds, exit=True, file=2)
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()
    for number, handler in before.items():
      signal.signal(number, handler)


def _make_empty(directory):
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(mode=0o700, parents=True)


def _link(source, destination):
  try:
    os.link(source, destination)
  except OSError:  # another file system, or one without links
    shutil.copyfile(source, destination)


def _check_whole(checkpoint):
  """Raises ReplayError where a file of a checkpoint has no end.

  Reverb writes the rest of a file as it closes it, and does not look whether there
  was room for that.
  """
  for path in sorted(checkpoint.glob("*.tfrecord")):
    stream = zlib.decompressobj()
    with path.open("rb") as file:
      while data := stream.unconsumed_tail or file.read(2**20):
        stream.decompress(data, 2**24)
    if not stream.eof:
      raise ReplayError(
        f"Reverb could not write all of {path}. Is the disk full?"
      )


def _read_counts(checkpoint):
  """What a checkpoint of one table says of itself, {"size", "num_inserted"}."""
  records = tf.data.TFRecordDataset(
    os.path.join(checkpoint, "tables.tfrecord"), compression_type="ZLIB"
  )
  table = checkpoint_pb2.PriorityTableCheckpoint.FromString(
    next(records.as_numpy_iterator())
  )
  counts = table.rate_limiter
  return {
    "size": counts.insert_count - counts.delete_count,
    "num_inserted": counts.insert_count,
  }
