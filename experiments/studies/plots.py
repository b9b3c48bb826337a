"""What the studies' plots share: groups of seeds, curves, ranges, legends."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.studies.results import Record
from r2d2_jax.analysis.plots import draw_curves
from r2d2_jax.system.metrics.learning_curve import frames_or_steps, in_thousands

# matplotlib is imported where it is used: it takes a second.


class Spread(NamedTuple):
  """One quantity over the seeds."""

  mean: float
  least: float
  greatest: float


def new_figure(rows: int, columns: int, *, panel_inches: tuple[float, float]):
  """A figure and its axes [rows, columns]."""
  # Not pyplot: no display may be assumed, and figures are freed by themselves.
  from matplotlib.figure import Figure

  width, height = panel_inches
  figure = Figure(
    figsize=(columns * width, rows * height + 0.4), layout="constrained"
  )
  return figure, figure.subplots(rows, columns, squeeze=False)


def by_task(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
  """Task -> arm -> the records of its seeds, in their order."""
  tasks: dict[str, dict[str, list[Record]]] = {}
  for record in records:
    arms = tasks.setdefault(record.run.task, {})
    arms.setdefault(record.arm, []).append(record)
  return tasks


def spread(records: Sequence[Record], column: str) -> Spread | None:
  """Of the finished runs; None where there is none with a number."""
  values = [r.values[column] for r in records if r.finished]
  values = [value for value in values if np.isfinite(value)]
  if not values:
    return None
  return Spread(float(np.mean(values)), min(values), max(values))


def draw_curve(
  axes, records: Sequence[Record], column: str, *, smooth: int = 1, **style
) -> None:
  """A column of the logs against frames: mean of the seeds, and their range.

  As far as the shortest of them goes.

  Args:
    axes: to draw in.
    records: the seeds of one arm.
    column: of log.csv.
    smooth: rows over which the median is taken.
    **style: color, linestyle, label.
  """
  curves = []
  for record in records:
    ys = _running_median(record.log[column], smooth)
    known = np.isfinite(ys)
    if known.any():
      curves.append((record.log["frames"][known], ys[known]))
  if curves:
    draw_curves(axes, curves, **style)


def draw_tasks(
  records: Sequence[Record],
  arms: Sequence[str],
  path: pathlib.Path,
  *,
  name: Callable[[str], str] = str,
) -> None:
  """Returns of training against frames: a panel per task, a curve per arm.

  Args:
    records: of `results.read_records`.
    arms: their names, in their colours' order.
    path: the PNG to write.
    name: a task -> the panel's title.
  """
  tasks = by_task(records)
  figure, ((*panels,),) = new_figure(1, len(tasks), panel_inches=(4.0, 3.1))
  for (task, records_of), axes in zip(tasks.items(), panels, strict=True):
    for i, arm in enumerate(arms):
      style: dict[str, Any] = dict(color=f"C{i}", label=arm)
      draw_curve(axes, records_of.get(arm, []), "return_mean", **style)
    axes.set_title(f"{name(task)}: return, all lanes", fontsize="medium")
    axes.grid(alpha=0.3)
    label_frames(axes, records_of)
    note_empty(axes)
  legend_below(figure, panels, columns=4)
  figure.savefig(path, dpi=130)


def error_bars(spreads: Sequence[Spread]) -> list[list[float]]:
  """Distances from the means to least and greatest, [2, n], as matplotlib's."""
  mean, least, greatest = np.array(spreads).T
  return [(mean - least).tolist(), (greatest - mean).tolist()]


def label_frames(axes, arms: Mapping[str, Sequence[Record]]) -> None:
  """Frames below the horizontal axis, in thousands or millions.

  Args:
    axes: of one task.
    arms: its runs; a task without frame skip has steps.
  """
  logs = [record.log for records in arms.values() for record in records]
  axes.set_xlabel(frames_or_steps(*logs))
  axes.xaxis.set_major_formatter(in_thousands)
  axes.locator_params(axis="x", nbins=5)


def legend_below(figure, axes_with_labels, *, columns: int) -> None:
  """One legend for all panels, below them; each label once."""
  handles = {}
  for axes in axes_with_labels:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  if handles:
    figure.legend(
      handles.values(),
      handles.keys(),
      loc="outside lower center",
      frameon=False,
      ncols=min(columns, len(handles)),
      fontsize="small",
    )


def note_empty(axes) -> None:
  """Says so where nothing is drawn yet."""
  if not axes.has_data():
    axes.text(
      0.5,
      0.5,
      "nothing yet",
      ha="center",
      va="center",
      color="gray",
      transform=axes.transAxes,
    )


def _running_median(values: np.ndarray, rows: int) -> np.ndarray:
  """The median of the last `rows` values that are numbers."""
  out = np.full(len(values), np.nan)
  for i in range(len(values)):
    window = values[max(0, i + 1 - rows) : i + 1]
    window = window[np.isfinite(window)]
    if window.size:
      out[i] = np.median(window)
  return out
