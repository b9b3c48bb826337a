"""A Reverb server in this process: its table, its start, what it saves."""

from concurrent import futures
import math
import os
import pathlib
import shutil
import tempfile
import threading
from typing import Any
import warnings
import zlib

from google.protobuf.message import DecodeError
import reverb

# protobuf makes its classes when it is imported, without stubs.
from reverb.cc.checkpointing.checkpoint_pb2 import (
  PriorityTableCheckpoint,  # pyright: ignore[reportAttributeAccessIssue]
)
from reverb.cc.schema_pb2 import (
  PrioritizedItem,  # pyright: ignore[reportAttributeAccessIssue]
)
from reverb.platform.checkpointers_lib import DefaultCheckpointer
import tensorflow as tf

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, foreign_item
from r2d2_jax.replay.items import stored_specs
from r2d2_jax.replay.meta import read_meta, settings_of, unreadable, write_meta
from r2d2_jax.replay.reverb_calls import (
  CLOSE_SECONDS,
  TABLE,
  Connection,
  check_port,
  check_threads,
  in_thread,
  interruptible,
)

SAVED = "reverb"  # directory of Reverb's files within a saved replay
_START_SECONDS = 60.0  # for a server, which starts in a tenth of a second
_RESTORE_BYTES_PER_SECOND = 1e6  # a hundredth of what is usual


class ReverbServer:
  """The table of a prioritised replay, which other processes write and read.

  It opens no writer and no reader: those are `ReverbReplay(address=...)`, with
  "HOST:PORT" of this server, here or on another machine.

  Args:
    config: capacity, exponent, lengths of items, port.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
    samples_per_insert: see `ReverbReplay`.
    error_buffer: see `ReverbReplay`.
    restore_from: see `ReverbReplay`.
    scratch: see `ReverbReplay`.

  Raises:
    ValueError: error_buffer is missing or too small.
    ReplayError: what is in `restore_from` is not whole, or of other settings;
      the server does not start.
  """

  def __init__(
    self,
    config: Config,
    spec: types.EnvSpec,
    core_state: types.CoreState,
    *,
    samples_per_insert: float | None = None,
    error_buffer: float | None = None,
    restore_from: pathlib.Path | None = None,
    scratch: pathlib.Path | None = None,
  ):
    self._item_blocks = config.item_rows // config.chunk_rows
    self._settings = server_settings(config, spec, core_state) | {
      "samples_per_insert": samples_per_insert,
      "error_buffer": error_buffer,
    }
    table = _table(config, _rate_limiter(samples_per_insert, error_buffer))
    counts = self._read_saved(restore_from) if restore_from else None
    self._scratch = pathlib.Path(scratch or tempfile.mkdtemp())
    self._server: reverb.Server | None = _start_server(
      config, table, self._scratch, restore_from
    )
    self.port: int = self._server.port
    self.connection = Connection(f"localhost:{self.port}")
    self._save_lock = threading.Lock()
    if counts is not None:
      self._check_restored(restore_from, counts)

  def check_alive(self, timeout_seconds: float) -> None:
    """See `Replay`."""
    self.connection.info(timeout_seconds)

  def save(self, directory: pathlib.Path) -> None:
    """See `Replay`."""
    with self._save_lock:
      path = in_thread(self.connection.client.checkpoint)
      self.connection.wait(
        lambda seconds: bool(futures.wait([path], seconds).done)
      )
      if error := path.exception():
        self.connection.info()
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
      # A rename, unless `scratch` is a temporary directory elsewhere.
      shutil.move(path.result(), directory / SAVED)
    write_meta(directory, self._settings, counts)

  def _read_saved(self, directory):
    """The counts of a saved replay, once it has been looked through."""
    counts = read_meta(directory, self._settings, ("size", "num_inserted"))
    try:
      self._check_items(directory / SAVED)
    # What TensorFlow and protobuf raise on damaged files.
    except (ReplayError, tf.errors.OpError, DecodeError) as error:
      raise unreadable(directory / SAVED, error) from error
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
    form = [1, self._item_blocks]  # places of "core" and "rows"
    for several in records.batch(1024).as_numpy_iterator():
      for record in several:
        item = PrioritizedItem.FromString(record)
        if not 0.0 <= item.priority < math.inf:
          raise foreign_item(f"item {item.key} has priority {item.priority}")
        columns = item.flat_trajectory.columns
        if [len(column.chunk_slices) for column in columns] != form:
          raise foreign_item(f"item {item.key} has other columns")

  def _check_restored(self, restore_from, expected):
    info = self.connection.info()
    got = {
      "size": info.current_size,
      "num_inserted": info.rate_limiter_info.insert_stats.completed,
    }
    if got != expected:
      self._stop()
      raise unreadable(restore_from / SAVED, f"expected {expected}, got {got}")

  def close(self) -> None:
    """Stops the server. Close its writers and readers first: they would block.

    Twice is fine; takes less than a second.
    """
    self.connection.close()
    stopper = threading.Thread(target=self._stop, daemon=True)
    stopper.start()
    stopper.join(CLOSE_SECONDS)

  def _stop(self):
    if self._server is not None:
      self._server.stop()
      self._server = None  # else its destructor complains at interpreter exit
      shutil.rmtree(self._scratch, ignore_errors=True)


def server_settings(
  config: Config, spec: types.EnvSpec, core_state: types.CoreState
) -> dict[str, Any]:
  """What must be the same where a server saves and where one is restored.

  Of one whose limiter lets everybody go on.
  """
  rows = stored_specs(config, spec, core_state)
  return settings_of("reverb", config, rows, core_state) | {
    "samples_per_insert": None,
    "error_buffer": None,
  }


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


def _table(config, rate_limiter):
  capacity = config.replay.capacity_sequences
  if config.replay.order == "fifo":
    # Its limiter holds writers where it is full, readers where it is empty.
    return reverb.Table.queue(TABLE, capacity)
  return reverb.Table(
    name=TABLE,
    sampler=reverb.selectors.Prioritized(config.replay.priority_exponent),
    remover=reverb.selectors.Fifo(),
    max_size=capacity,
    rate_limiter=rate_limiter,
  )


def _start_server(config, table, scratch, restore_from):
  _make_empty(scratch)
  restored = scratch / "restored"
  seconds = _START_SECONDS
  try:
    if restore_from is not None:
      shutil.copytree(restore_from / SAVED, restored, copy_function=_link)
      seconds += (
        sum(x.stat().st_size for x in restored.iterdir())
        / _RESTORE_BYTES_PER_SECOND
      )
    check_threads()
    check_port(config.replay.port)
    with interruptible(seconds):
      server = reverb.Server(
        [table],
        port=config.replay.port or None,
        checkpointer=DefaultCheckpointer(str(scratch)),
      )
  except ReplayError:
    raise
  except (OSError, RuntimeError, ValueError) as error:
    if restore_from is not None:
      raise unreadable(restore_from / SAVED, error) from error
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
    "credentials: whoever reaches it can read and write the replay. Use it in "
    "a trusted network only, or take the replay backend 'local', which opens "
    "no port.",
    stacklevel=3,
  )
  return server


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

  Reverb writes the rest of a file as it closes it, and does not look whether
  there was room for that.
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
  table = PriorityTableCheckpoint.FromString(next(records.as_numpy_iterator()))
  counts = table.rate_limiter
  return {
    "size": counts.insert_count - counts.delete_count,
    "num_inserted": counts.insert_count,
  }
