"""Replay in a Reverb server, prioritised or a queue.

Rows are written in blocks: one append of one writer per block, and an item
refers to the blocks of its lane by the cells that the writer handed back. Rows
shared by neighbouring items are then stored once, compressed, and no lane needs
a writer of its own. One append per row is five times slower and six times
larger, and every column more costs time in each append: a row is packed into
one string of bytes, a state into another.

What guards against Reverb's ways, each pinned by a test:
* A dead server makes calls block for ever, without an error and deaf to Ctrl-C.
  What may block runs in a daemon thread here, or with a deadline.
* A start that fails to get a thread may hang in the same way, and holds
  Python's lock: threads are tried before, and the start has a deadline of the
  system's.
* A priority that is not finite damages the table for good: `check_priorities`.
  Another process can set one: sampled and saved items are checked.
* The sums of priorities are kept by differences, and a rest of rounding beside
  priorities of 0 gives probabilities of 0: they are raised to a floor.
* An item that has one cell twice in a row cannot be read: that is taken for two
  rows of its chunk. Of blank blocks in a row every other one is a twin, stored
  once more.
* Sampling prefetches: a batch's probabilities, and the priorities that it was
  drawn by, are some batches old.
* A checkpoint deletes whatever else is in its directory but the entry that
  sorts last: it gets a directory of its own, and what it wrote is moved away at
  once.
* Nor does it notice that the last bytes of a file found no room on the disk:
  its files are read once more before they count as saved.
* A server takes capacity, exponent and limiter from the checkpoint that it
  starts with, and without a word stays empty where files of it are missing:
  meta.json is compared before the server starts, the table's counts after.
"""

import pathlib
import queue
import threading
import time

import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError, check_priorities
from r2d2_jax.replay.items import Item
from r2d2_jax.replay.reverb_calls import (
  CLOSE_SECONDS,
  POLL_SECONDS,
  TABLE,
  Connection,
)
from r2d2_jax.replay.reverb_server import ReverbServer
from r2d2_jax.replay.reverb_streams import (
  BlockWriter,
  Layout,
  Reader,
  joined,
)

_LEAST_PRIORITY = 1e-20


class ReverbReplay:
  """A `Replay` in a Reverb server, this process's own or another's.

  Args:
    config: capacity, exponent, lengths of items, port, lanes.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
    samples_per_insert: None: whoever samples keeps the replay ratio. A number:
      the server lets each item be sampled so many times on average, for actors
      in other processes; writers and readers then wait for each other, and what
      was prefetched counts as sampled.
    error_buffer: with samples_per_insert: by how many samples its balance may
      be off, at least max(1, samples_per_insert).
    address: None starts a server in this process; "host:port" joins another
      one, whose capacity, exponent and limits then hold.
    restore_from: directory of a `save`, to go on from; None starts empty. Its
      files are linked, never changed.
    scratch: where the server writes what `save` then moves to its place: a
      directory of its own on the same file system, emptied here and removed by
      `close`. None takes a temporary one.

  Raises:
    ValueError: error_buffer is missing or too small; restore_from or scratch
      although the server is another's.
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
    address: str | None = None,
    restore_from: pathlib.Path | None = None,
    scratch: pathlib.Path | None = None,
  ):
    if address is not None and (restore_from or scratch):
      raise ValueError(
        "expected restore_from and scratch where the server starts; got them "
        f"with address={address!r}. Give them to the process of that server."
      )
    self._exponent = config.replay.priority_exponent
    self._layout = Layout(config, spec, core_state)
    self._server = None
    if address is None:
      self._server = ReverbServer(
        config,
        spec,
        core_state,
        samples_per_insert=samples_per_insert,
        error_buffer=error_buffer,
        restore_from=restore_from,
        scratch=scratch,
      )
      self._connection = self._server.connection
    else:
      self._connection = Connection(address)
    self.address = self._connection.address
    # While a block has items to come, all lanes write the blocks that
    # neighbouring items share; half as much again for lanes that run at another
    # pace. No more: Reverb sends the list of what is kept with every item.
    shared_rows = config.item_rows - (
      config.agent.trace_length - config.agent.overlap
    )
    shared_blocks = config.env.num_envs * shared_rows // config.block_rows
    if self._layout.is_queue:
      shared_blocks = 0
    self._writer = BlockWriter(
      self._connection.client,
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
      self._connection.check_open()
      for item, priority in zip(items, priorities, strict=True):
        self._writer.write(
          joined(item) if self._layout.is_queue else item, priority
        )
      if items:
        self._connection.wait(self._writer.wait_confirmed)

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> types.ReplaySample:
    """See `Replay`."""
    deadline = time.monotonic() + timeout_seconds
    while True:
      with self._read_lock:
        self._connection.check_open()
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
        if size >= min_size or self._layout.is_queue:
          return batch
        self._connection.pause(turn)
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
    self._connection.check_open()
    if self._layout.is_queue:  # they are gone
      return
    updates = dict(zip(keys.tolist(), priorities, strict=True))
    self._connection.call(
      lambda: self._connection.client.mutate_priorities(TABLE, updates)
    )

  def size(self) -> int:
    """See `Replay`."""
    return self._connection.info().current_size

  def num_inserted(self) -> int:
    """See `Replay`."""
    return self._connection.info().rate_limiter_info.insert_stats.completed

  def check_alive(self, timeout_seconds: float) -> None:
    """See `Replay`."""
    self._connection.info(timeout_seconds)

  def save(self, directory: pathlib.Path) -> None:
    """See `Replay`."""
    if self._server is None:
      raise ReplayError(
        f"the Reverb server at {self.address} belongs to another process, "
        "which alone can save it. Call save there."
      )
    self._server.save(directory)

  def close(self) -> None:
    """See `Replay`."""
    if self._connection.close():
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
      self._server.close()

  def _raised(self, priorities, expected):
    priorities = check_priorities(priorities, expected, self._exponent)
    return np.maximum(priorities, _LEAST_PRIORITY).tolist()
