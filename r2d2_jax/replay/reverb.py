"""Prioritised replay in a Reverb server.

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
import tensorflow as tf

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, check_priorities, foreign_item
from r2d2_jax.replay.meta import read_meta, settings_of, unreadable, write_meta
from r2d2_jax.replay.reverb_streams import (
  CLOSE_SECONDS,
  POLL_SECONDS,
  TABLE,
  BlockWriter,
  Layout,
  Reader,
)
from r2d2_jax.replay.sequences import Item

_SAVED = "reverb"  # Reverb's files within a saved replay
# Without an answer for so long a server counts as dead: as long as three of a run's
# heartbeats take. A machine that swaps, or a table that is being saved, is slow.
_CALL_SECONDS = 30.0
_START_SECONDS = 60.0  # for a server, which starts in a tenth of a second
_RESTORE_BYTES_PER_SECOND = 1e6  # a hundredth of what is usual
_START_THREADS = 64  # on two cores, a run that got 60 was ended by TensorFlow
_LEAST_PRIORITY = 1e-20


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
    self._layout = Layout(config, spec, core_state)
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
    self._writer = BlockWriter(
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
          self._reader = Reader(self.address, self._layout, batch_size)
        reader = self._reader
      remaining = max(deadline - time.monotonic(), 0.0)
      turn = min(remaining, POLL_SECONDS)
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
    self._call(lambda: self._client.mutate_priorities(TABLE, updates))

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
    stopper.join(CLOSE_SECONDS)

  def _stop(self):
    # The order matters: a writer or reader that outlives its server blocks.
    with self._write_lock:
      self._writer.wait_confirmed(POLL_SECONDS)
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
      lambda: self._client.server_info(whole_seconds)[TABLE], timeout_seconds
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
          raise foreign_item(f"item {item.key} has priority {item.priority}")
        columns = item.flat_trajectory.columns
        if [len(column.chunk_slices) for column in columns] != form:
          raise foreign_item(f"item {item.key} has other columns")

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
    while not poll(POLL_SECONDS):
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
            name=TABLE,
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
