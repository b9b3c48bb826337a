"""The rows of a run, for TensorBoard and for Weights & Biases.

Both get the same names, `group/column`, over the same axis, environment steps.
docs/metrics.md explains every column and histogram.
"""

from collections.abc import Callable
import importlib.util
import pathlib
from typing import Protocol

from r2d2_jax.config import Config, first_line, to_dict
from r2d2_jax.system.metrics.columns import Row
from r2d2_jax.system.metrics.points import Histograms
from r2d2_jax.system.metrics.tensorboard import TensorBoardSink
from r2d2_jax.system.metrics.wandb import WandbSink

_TENSORBOARD_DIR = "tensorboard"


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
    steps: environment steps of the checkpoint that the run goes on from, 0
      where there is none.
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
    except Exception as error:
      if not self._has_failed:
        self._say(
          f"warning: {self._name} misses something, log.csv has every row:"
          f" {first_line(error)}"
        )
      self._has_failed = True
