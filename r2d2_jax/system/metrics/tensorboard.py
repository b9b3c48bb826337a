"""The sink for TensorBoard: event files in the run's directory."""

import pathlib
import socket
import struct
import time

import numpy as np

from r2d2_jax.system.metrics.columns import Row, tag
from r2d2_jax.system.metrics.points import Histograms, bars, scalars
from r2d2_jax.system.storage.files import open_to_write


class TensorBoardSink:
  """Event files. A row is on disk, and whole, when `write` returns.

  Written here and not with tensorboardX's SummaryWriter: its thread dies on a
  full disk, and a dead thread's queue blocks the run.
  """

  def __init__(self, directory: pathlib.Path, *, steps: int):
    """Begins a new event file at the first row.

    Args:
      directory: created if missing; may hold the files of the run's earlier
        starts.
      steps: that the run goes on from: TensorBoard hides later rows of the
        earlier files.
    """
    # protobuf makes its classes when it is imported, without stubs.
    from tensorboardX.proto.event_pb2 import (
      Event,  # pyright: ignore[reportAttributeAccessIssue]
      SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
    )

    now = time.time_ns()
    # TensorBoard reads files in the order of their names.
    self._path = directory / (
      f"events.out.tfevents.{now // 10**9:010d}.{socket.gethostname()}"
      f".{now % 10**9:09d}"
    )
    self._size_bytes = 0  # of the whole records
    self._unwritten = _record(
      Event(wall_time=time.time(), file_version="brain.Event:2")
    ) + _record(
      # Hides what is at this step or later. A row at the checkpoint's own step
      # is part of what was saved.
      Event(
        wall_time=time.time(),
        step=steps + 1 if steps else 0,
        session_log=SessionLog(status=SessionLog.START),
      )
    )

  def write(self, row: Row, histograms: Histograms) -> None:
    """See `Sink`. OSError: it could not be written; earlier rows are whole."""
    from tensorboardX.proto.event_pb2 import (
      Event,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboardX.proto.summary_pb2 import (
      HistogramProto,  # pyright: ignore[reportAttributeAccessIssue]
      Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )

    values = [
      Summary.Value(tag=name, simple_value=value)
      for name, value in scalars(row).items()
    ]
    for name, array in histograms.items():
      heights, edges = bars(name, array)
      used = np.flatnonzero(heights)
      if not used.size:
        continue
      # TensorBoard drops empty bars at both ends, and takes min and max for the
      # outer edges of the rest.
      first, last = used[0], used[-1]
      values.append(
        Summary.Value(
          tag=tag(name),
          histo=HistogramProto(
            min=edges[first],
            max=edges[last + 1],
            num=heights.sum(),
            bucket_limit=edges[first + 1 : last + 2],
            bucket=heights[first : last + 1],
          ),
        )
      )
    event = Event(
      wall_time=time.time(), step=row["steps"], summary=Summary(value=values)
    )
    self._append(_record(event))

  def close(self) -> None:
    """See `Sink`."""

  def _append(self, record: bytes) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    data = self._unwritten + record
    with open_to_write(self._path, append=True) as f:
      # Away with what a full disk left half-written: nothing after it would be
      # readable.
      f.truncate(self._size_bytes)
      f.write(data)
    self._size_bytes += len(data)
    self._unwritten = b""


def _record(event) -> bytes:
  """An event as TensorBoard's files hold it: length, data, checksums."""
  from tensorboardX.record_writer import masked_crc32c

  data = event.SerializeToString()
  length = struct.pack("<Q", len(data))
  return b"".join(
    (
      length,
      struct.pack("<I", masked_crc32c(length)),
      data,
      struct.pack("<I", masked_crc32c(data)),
    )
  )
