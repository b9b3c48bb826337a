"""The rows of a run, for TensorBoard and for Weights & Biases.

Both get the same names, `group/column`, over the same axis, environment steps.
docs/metrics.md explains every column and histogram.
"""

import importlib.util
import math
import pathlib
import secrets
import socket
import struct
import time
from typing import Callable, Protocol

import numpy as np

from r2d2_jax.config import Config, ConfigError, to_dict, first_line
from r2d2_jax.system.storage.files import open_to_write, read_text, replace_file

Row = dict[str, float | int | str]
Histograms = dict[str, np.ndarray]

_TENSORBOARD_DIR = "tensorboard"
_WANDB_ID_FILE = "wandb_id"
# The newest W&B wants a newer protobuf than TensorFlow, which Reverb needs.
_INSTALL_WANDB = "pip install wandb 'protobuf<5'"
# Bars of a histogram that is counted here, and the most that W&B takes.
_BARS = 50
_MAX_BARS = 512

# Columns and histograms by group; share_* is legs/, the rest train/.
_GROUPS = {
    "learner": {
        "loss", "grad_norm", "update_norm", "params_norm", "td_abs_mean",
        "td_abs_max", "q_max_mean", "td_abs_by_row",
    },
    "replay": {
        "replay_size", "replay_ratio", "importance_weight_mean",
        "effective_sample_size", "reuse_mean", "age_steps_mean",
        "sampled_eps_1", "sampled_eps_2", "sampled_eps_3", "sampled_eps_4",
        "samples_by_lane",
    },
    "health": {
        "td_first", "td_last", "dq_first", "dq_last", "lag_p10", "lag_p50",
        "lag_p90", "lag_updates",
    },
}  # fmt: skip


class Sink(Protocol):
  """Somewhere that rows go to."""

  def write(self, row: Row, histograms: Histograms) -> None:
    """Takes one row.

    Args:
      row: of `RunReport.row`; what is NaN or text is left out.
      histograms: "lag_updates", int [any], raw values; "td_abs_by_row", float
        [T-1], and "samples_by_lane", int [N], a height for each place. Any may
        be missing.
    """
    ...

  def close(self) -> None:
    """Nothing is written any more."""
    ...


def make_sinks(
    config: Config,
    run_dir: pathlib.Path,
    *,
    steps: int,
    say: Callable[[str], None],
) -> list[Sink]:
  """The sinks that the settings ask for; to be called before a run starts.

  A sink that fails later says so once and ends nothing.

  Args:
    config: `log.tensorboard` and `log.wandb_project` are read; all of it is
      handed to W&B.
    run_dir: exists.
    steps: environment steps of the checkpoint that the run goes on from, 0 where
      there is none.
    say: takes a line for the user.

  Raises:
    ConfigError: W&B was asked for and cannot start.
  """
  sinks = []
  if config.log.tensorboard:
    # On unless turned off: what nobody asked for must not refuse to start.
    if importlib.util.find_spec("tensorboardX") is None:
      say("no files for TensorBoard: they need `pip install tensorboardX`")
    else:
      sink = TensorBoardSink(run_dir / _TENSORBOARD_DIR, steps=steps)
      sinks.append(_Unfailing(sink, "TensorBoard", say))
  if config.log.wandb_project:
    sink = WandbSink(config.log.wandb_project, run_dir, to_dict(config))
    sinks.append(_Unfailing(sink, "Weights & Biases", say))
  return sinks


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
    # pylint: disable=g-import-not-at-top
    from tensorboardX.proto.event_pb2 import Event, SessionLog

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
    """See `Sink`. OSError: it could not be written; the rows before are whole."""
    # pylint: disable=g-import-not-at-top
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

    values = [
        Summary.Value(tag=tag, simple_value=value)
        for tag, value in _scalars(row).items()
    ]
    for name, array in histograms.items():
      heights, edges = _bars(name, array)
      used = np.flatnonzero(heights)
      if not used.size:
        continue
      # TensorBoard drops empty bars at both ends, and takes min and max for the
      # outer edges of the rest.
      first, last = used[0], used[-1]
      values.append(
          Summary.Value(
              tag=_tag(name),
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


class WandbSink:
  """A run of Weights & Biases; a resumed run goes on in the same one.

  W&B cannot take back what it was given. So rows that a resumed run repeats are
  left out until it is past the last one before the interruption.
  """

  def __init__(self, project: str, run_dir: pathlib.Path, config_dict: dict):
    """Starts or continues the W&B run; WANDB_MODE=offline needs no network.

    Args:
      project: of W&B.
      run_dir: keeps the run's id, and W&B's own files.
      config_dict: the settings, for W&B's tables.

    Raises:
      ConfigError: the package is missing, or W&B would not start.
    """
    try:
      import wandb  # pylint: disable=g-import-not-at-top
    except ImportError as error:
      raise ConfigError(
          f"log.wandb_project: {project!r} needs the package wandb:"
          f" {first_line(error)}; {_INSTALL_WANDB}, or leave log.wandb_project"
          " empty"
      ) from error
    id_file = run_dir / _WANDB_ID_FILE
    run_id = read_text(id_file) if id_file.exists() else ""
    if not run_id:
      run_id = secrets.token_hex(4)
      replace_file(id_file, run_id.encode())
    try:
      self._run = wandb.init(
          project=project,
          dir=str(run_dir),
          id=run_id,
          name=run_dir.name,
          config=config_dict,
          allow_val_change=True,  # a resumed run may have changed settings
          resume="allow",
          # The live display redraws itself: no text for a log.
          settings={"console": "off"},
      )
    except Exception as error:  # pylint: disable=broad-except
      raise ConfigError(
          f"log.wandb_project: W&B would not start: {first_line(error)}; log in"
          " with `wandb login`, set WANDB_MODE=offline to upload later with"
          " `wandb sync`, or leave log.wandb_project empty"
      ) from error
    self._histogram = wandb.Histogram

  def write(self, row: Row, histograms: Histograms) -> None:
    """See `Sink`."""
    if row["steps"] < self._run.step:
      return
    bars = {
        _tag(name): self._histogram(np_histogram=_bars(name, array))
        for name, array in histograms.items()
    }
    self._run.log({**_scalars(row), **bars}, step=row["steps"])

  def close(self) -> None:
    """Waits until everything is uploaded."""
    self._run.finish()


class _Unfailing:
  """A sink whose failures are told once, and end nothing."""

  def __init__(self, sink: Sink, name: str, say: Callable[[str], None]):
    self._sink = sink
    self._name = name
    self._say = say
    self._has_failed = False

  def write(self, row: Row, histograms: Histograms) -> None:
    self._attempt(lambda: self._sink.write(row, histograms))

  def close(self) -> None:
    self._attempt(self._sink.close)

  def _attempt(self, action: Callable[[], None]) -> None:
    try:
      action()
    except Exception as error:  # pylint: disable=broad-except
      if not self._has_failed:
        self._say(
            f"warning: {self._name} misses something, log.csv has every row:"
            f" {first_line(error)}"
        )
      self._has_failed = True


def _tag(column: str) -> str:
  """The column with its group in front."""
  if column.startswith("share_"):
    return f"legs/{column}"
  for group, columns in _GROUPS.items():
    if column in columns:
      return f"{group}/{column}"
  return f"train/{column}"


def _scalars(row: Row) -> dict[str, float]:
  """The numbers of a row, by tag."""
  return {
      _tag(column): float(value)
      for column, value in row.items()
      if not isinstance(value, str) and not math.isnan(value)
  }


def _bars(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Heights [n] and edges [n + 1] of a histogram."""
  if name == "lag_updates":
    return np.histogram(values, bins=_BARS, range=(0, values.max(initial=0) + 1))
  # Heights already, by position or lane; too many are added up in groups.
  places = np.arange(len(values))
  width = max(1, math.ceil(len(values) / _MAX_BARS))
  heights = np.add.reduceat(values, places[::width]) if values.size else values
  return heights, np.append(places[::width], len(values))


def _record(event) -> bytes:
  """An event as TensorBoard's files hold it: length, data, a checksum for each."""
  # pylint: disable=g-import-not-at-top
  from tensorboardX.record_writer import masked_crc32c

  data = event.SerializeToString()
  length = struct.pack("<Q", len(data))
  return b"".join((
      length,
      struct.pack("<I", masked_crc32c(length)),
      data,
      struct.pack("<I", masked_crc32c(data)),
  ))
