"""Deals what some Reverb servers have saved out to another number of them.

A checkpoint of Reverb is three lists of protocol buffers: the items, the chunks
that they refer to, and the table with its counts. Every part gets as many items
as the others, nearly, and from the whole time; neighbours that share a chunk
stay together as far as that allows, so that few chunks are written twice. An
item keeps its key and its priority, and the parts their order: the oldest are
still the first to go.
"""

from collections.abc import Iterator, Sequence
import pathlib
from typing import Any

from reverb.cc.checkpointing.checkpoint_pb2 import (
  PriorityTableCheckpoint,  # pyright: ignore[reportAttributeAccessIssue]
)
from reverb.cc.schema_pb2 import (
  ChunkData,  # pyright: ignore[reportAttributeAccessIssue]
  PrioritizedItem,  # pyright: ignore[reportAttributeAccessIssue]
)
import tensorflow as tf

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import foreign_item
from r2d2_jax.replay.meta import read_meta, unreadable, write_meta
from r2d2_jax.replay.reverb_server import SAVED, server_settings

# Items that a part may have more than another one, for its neighbours' sake.
_UNEVEN = 16


def deal_out(
  sources: Sequence[pathlib.Path],
  target: pathlib.Path,
  *,
  part: int,
  parts: int,
  config: Config,
  spec: types.EnvSpec,
  core_state: types.CoreState,
) -> None:
  """Writes one part of what was saved, as if a server of that part had.

  Args:
    sources: directories of all that was saved, each with the same share of the
      capacity.
    target: directory of the part; must not exist.
    part: which, from 0.
    parts: how many there are, each with the same share of the capacity; all of
      them are to be written from the same sources, here or elsewhere.
    config: of the whole replay, with the whole capacity.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension.

  Raises:
    ReplayError: what is in the sources is not whole, or of other settings.
  """

  def settings_of_share(shares: int) -> tuple[int, dict[str, Any]]:
    capacity = config.replay.capacity_sequences // shares
    share = config.updated({"replay.capacity_sequences": capacity})
    return capacity, server_settings(share, spec, core_state)

  _, saved_settings = settings_of_share(len(sources))
  for source in sources:
    read_meta(source, saved_settings, ("size", "num_inserted"))
  capacity, settings = settings_of_share(parts)
  try:
    items = _part(_read(sources, "items", PrioritizedItem), part, parts)
    items = items[-capacity:]
    (target / SAVED).mkdir(parents=True)
    _write(target, "items", items)
    missing = {key for item in items for key in _chunk_keys(item)}
    _write(target, "chunks", _wanted(sources, missing))
    if missing:
      raise foreign_item(f"{len(missing)} chunks of items are not there")
    table = next(_read(sources, "tables", PriorityTableCheckpoint))
  # What TensorFlow raises on damaged files, and protobuf (DecodeError).
  except (tf.errors.OpError, ValueError, StopIteration) as error:
    raise unreadable(sources[0] / SAVED, error) from error
  table.max_size = capacity
  table.num_deleted_episodes = 0
  table.num_unique_samples = sum(item.times_sampled > 0 for item in items)
  limiter = table.rate_limiter
  limiter.insert_count, limiter.delete_count = len(items), 0
  limiter.sample_count = 0
  _write(target, "tables", [table])
  (target / SAVED / "DONE").touch()
  counts = {"size": len(items), "num_inserted": len(items)}
  write_meta(target, settings, counts)


def _part(items: Iterator[Any], part: int, parts: int) -> list[Any]:
  """One part's items, in the order in which they were inserted."""
  ordered = sorted(
    items, key=lambda x: (x.inserted_at.seconds, x.inserted_at.nanos, x.key)
  )
  loads = [0] * parts
  part_of: dict[int, int] = {}  # by chunk: where it is, or was last put
  found = []
  for item in ordered:
    keys = _chunk_keys(item)
    emptiest = loads.index(min(loads))
    place = next((part_of[key] for key in keys if key in part_of), emptiest)
    if loads[place] > loads[emptiest] + _UNEVEN:
      place = emptiest
    loads[place] += 1
    part_of.update(dict.fromkeys(keys, place))
    if place == part:
      found.append(item)
  return found


def _chunk_keys(item: Any) -> list[int]:
  return [
    piece.chunk_key
    for column in item.flat_trajectory.columns
    for piece in column.chunk_slices
  ]


def _wanted(sources: Sequence[pathlib.Path], missing: set[int]) -> Iterator:
  """Chunks of these keys; takes what it has found out of `missing`."""
  for chunk in _read(sources, "chunks", ChunkData):
    if chunk.chunk_key in missing:
      missing.discard(chunk.chunk_key)
      yield chunk


def _read(
  sources: Sequence[pathlib.Path], name: str, message: Any
) -> Iterator[Any]:
  for source in sources:
    records = tf.data.TFRecordDataset(
      str(source / SAVED / f"{name}.tfrecord"), compression_type="ZLIB"
    )
    for record in records.as_numpy_iterator():
      yield message.FromString(record)


def _write(target: pathlib.Path, name: str, messages: Any) -> None:
  # Chunks are compressed already: the least is enough.
  options = tf.io.TFRecordOptions(compression_type="ZLIB", compression_level=1)
  path = str(target / SAVED / f"{name}.tfrecord")
  with tf.io.TFRecordWriter(path, options) as writer:
    for message in messages:
      writer.write(message.SerializeToString())
