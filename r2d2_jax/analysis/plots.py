"""Plots of many runs, from their logs."""

from collections.abc import Sequence
import math
import pathlib
import textwrap
from typing import Any, NamedTuple

import numpy as np

from r2d2_jax.analysis.comparison import group_runs, same_runs
from r2d2_jax.analysis.yardsticks import draw_yardsticks
from r2d2_jax.config import ConfigError
from r2d2_jax.system.metrics.columns import label as label_of
from r2d2_jax.system.metrics.learning_curve import (
  NOTHING,
  RETURNS,
  finite,
  frames_or_steps,
  in_thousands,
  new_figure,
  rounded,
)
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.rundir import read_config

_CIRCLES: dict[str, Any] = dict(
  marker="o", markersize=4, fillstyle="none", linestyle="none"
)
# Runs whose lengths differ by less than this part ended together.
_SAME_LENGTH = 0.98


class Drawn(NamedTuple):
  """What a reader of a plot must know beside it."""

  left_out: list[pathlib.Path]  # runs that have nothing to draw yet
  notes: list[str]  # one line each


def plot_runs(
  run_dirs: list[pathlib.Path],
  png_path: pathlib.Path,
  *,
  column: str = "",
  x: str = "frames",
  title: str = "",
  yardsticks: bool = False,
) -> Drawn:
  """Draws many runs: the mean of each group of seeds, and its range.

  Each task has a panel. In it, runs whose settings differ in nothing that
  changes the training but the seed form a group, named after the settings in
  which the groups differ (where more than three do, after the first one's
  directory). Runs that have the seed in common too are one: the longest is
  drawn. Where a training return is drawn, the mean returns of evaluations are
  added as circles, one for each run and evaluation.

  Args:
    run_dirs: directories of runs.
    png_path: where to write.
    column: of log.csv, for the vertical axis; empty takes return_exploit or,
      where no run has numbers in it yet, return_mean or eval_return.
    x: column for the horizontal axis: frames, steps, updates or minutes.
    title: above the plot.
    yardsticks: draw what others reached on each task, as labelled lines; for
      columns of returns only.

  Returns:
    The runs that were left out, and notes.

  Raises:
    ConfigError: a directory holds no run, a log lacks the column, or no run has
      numbers in it.
  """
  configs = {d: read_config(d) for d in run_dirs}
  wanted = {
    x,
    "steps",
    "frames",
    "eval_return",
    *([column] if column else RETURNS),
  }
  logs = {d: _read_columns(d / "log.csv", wanted) for d in run_dirs}
  notes = []
  if not column:
    column = next((c for c in RETURNS if _has_numbers(logs, x, c)), RETURNS[0])
    if column != RETURNS[0]:
      notes.append(
        f"no run has numbers in {RETURNS[0]} yet: {column} is drawn instead"
      )
  curves = {d: _curve(log, x, column, d) for d, log in logs.items()}
  drawn = {d: configs[d] for d, (xs, _) in curves.items() if len(xs)}
  if not drawn:
    raise ConfigError(_nothing_to_draw(run_dirs, x, column))
  left_out = [run_dir for run_dir in curves if run_dir not in drawn]
  for same in same_runs(drawn):
    if len(same) > 1:
      longest = max(same, key=lambda d: curves[d][0][-1])
      notes.append(
        f"{', '.join(map(str, same))}: same seed and settings, one run of them"
        f" is drawn, {longest}"
      )
      drawn = {d: c for d, c in drawn.items() if d not in same or d == longest}
  is_return = column in RETURNS
  points = {
    run_dir: finite(logs[run_dir], x, "eval_return") if is_return else NOTHING
    for run_dir in drawn
  }
  panels = group_runs(drawn)
  units = {
    task: x
    if x != "frames"
    else frames_or_steps(*(logs[d] for runs in groups.values() for d in runs))
    for task, groups in panels.items()
  }
  labels = sorted({label for groups in panels.values() for label in groups})
  colors = dict(zip(labels, _colors(len(labels)), strict=True))
  uneven = set()
  figure, grid = _panels(len(panels))
  for i, (axes, (task, groups)) in enumerate(
    zip(grid.flat, panels.items(), strict=False)
  ):
    for label, members in groups.items():
      draw_curves(axes, [curves[d] for d in members], color=colors[label])
      for xs, ys in (points[d] for d in members if len(points[d][0])):
        axes.plot(xs, ys, color=colors[label], **_CIRCLES)
      ends = [curves[d][0][-1] for d in members]
      if min(ends) < _SAME_LENGTH * max(ends):
        uneven.add(label)
        notes.append(
          f"{task}{f', {label}' if label else ''}: runs of"
          f" {rounded(min(ends))} to {rounded(max(ends))}"
          f" {units[task]}, their mean is drawn as far as the shortest goes"
        )
    if yardsticks and is_return:
      draw_yardsticks(axes, task)
    axes.set_title(task, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(in_thousands)
    axes.yaxis.set_major_formatter(in_thousands)
    is_lowest = i + grid.shape[1] >= len(panels)
    if is_lowest or len(set(units.values())) > 1:
      axes.set_xlabel(label_of(units[task]))
  for axes in grid[:, 0]:
    axes.set_ylabel(
      textwrap.fill(label_of(column), 40 if len(panels) == 1 else 20)
    )
  _legend(
    figure,
    colors,
    panels,
    uneven,
    circles=any(len(xs) for xs, _ in points.values()),
  )
  if title:
    figure.suptitle(title)
  figure.savefig(png_path, dpi=130)
  return Drawn(left_out, notes)


def _read_columns(path: pathlib.Path, names: set[str]) -> dict[str, np.ndarray]:
  """Those of the columns that the log has; {} where there is no row yet."""
  if not path.exists():
    return {}
  log = read_log(path, columns=names)
  return {name: np.array(values) for name, values in log.items()}


def _curve(
  log: dict[str, np.ndarray], x: str, column: str, run_dir: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
  """The rows in which both columns are finite; none of an empty log."""
  for name in (x, column):
    if log and name not in log:
      raise ConfigError(
        f"{run_dir}/log.csv: expected a column {name!r}, got none"
      )
  return finite(log, x, column)


def _has_numbers(
  logs: dict[pathlib.Path, dict[str, np.ndarray]], x: str, column: str
) -> bool:
  return any(len(finite(log, x, column)[0]) for log in logs.values())


def _nothing_to_draw(
  run_dirs: Sequence[pathlib.Path], x: str, column: str
) -> str:
  """Why, and what could be drawn."""
  logs = {}
  for run_dir in run_dirs:
    path = run_dir / "log.csv"
    columns = read_log(path) if path.exists() else {}
    logs[run_dir] = {name: np.array(values) for name, values in columns.items()}
  names = dict.fromkeys(name for log in logs.values() for name in log)
  known = [name for name in names if name != x and _has_numbers(logs, x, name)]
  return f"no log has numbers in column {column!r} yet" + (
    f"; these have some: {', '.join(known)}" if known else ""
  )


def draw_curves(
  axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], **style
) -> None:
  """Mean of several curves, and their range, as far as the shortest goes.

  Args:
    axes: to draw in.
    curves: (xs, ys) of each, at least one point, xs ascending.
    **style: color, linestyle, label: matplotlib's.
  """
  end = min(xs[-1] for xs, _ in curves)
  start = min(max(xs[0] for xs, _ in curves), end)
  # A single point is no line.
  grid = np.linspace(start, end, 200) if start < end else np.array([end])
  if start == end:
    style = {"marker": "."} | style
  values = np.stack([np.interp(grid, xs, ys) for xs, ys in curves])
  draw_range(axes, grid, values, **style)


def draw_range(axes, xs: np.ndarray, values: np.ndarray, **style) -> None:
  """Mean of values [curves, len(xs)], and a band from lowest to highest."""
  axes.plot(xs, values.mean(axis=0), **style)
  if len(values) > 1:
    axes.fill_between(
      xs,
      values.min(axis=0),
      values.max(axis=0),
      color=style["color"],
      alpha=0.2,
      linewidth=0,
    )


def _panels(number: int):
  """A figure and its axes [rows, columns]; those beyond `number` are empty."""
  columns = math.ceil(math.sqrt(number))
  rows = math.ceil(number / columns)
  figure = new_figure(*((7, 4.2) if number == 1 else (3 * columns, 2.4 * rows)))
  grid = figure.subplots(rows, columns, squeeze=False)
  for unused in grid.flat[number:]:
    unused.set_axis_off()
  return figure, grid


def _colors(number: int) -> list:
  from matplotlib import colormaps

  if number <= 10:
    return [f"C{i}" for i in range(number)]
  return list(colormaps["turbo"](np.linspace(0.05, 0.95, number)))


def _legend(
  figure, colors: dict, panels: dict, uneven: set[str], *, circles: bool
) -> None:
  """Below the panels, once for all of them."""
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  handles, most = [], 1
  for label, color in colors.items():
    runs = {len(groups[label]) for groups in panels.values() if label in groups}
    few, many = min(runs), max(runs)
    most = max(most, many)
    text = f"{few} to {many} runs" if few < many else f"{many} runs"
    text = f"mean of {text}" if many > 1 else "1 run"
    if label in uneven:
      text += ", as far as the shortest goes"
    text = f"{label}, {text}" if label else text
    handles.append(Line2D([], [], color=color, label=text))
  if most > 1:
    handles.append(
      Patch(facecolor="gray", alpha=0.2, label="range of the runs")
    )
  if circles:
    handles.append(Line2D([], [], color="gray", label="evaluation", **_CIRCLES))
  longest = max(len(handle.get_label()) for handle in handles)
  columns = int(figure.get_figwidth() / (0.07 * longest + 0.6))
  figure.legend(
    handles=handles,
    loc="outside lower center",
    frameon=False,
    ncols=max(1, min(columns, len(handles))),
    fontsize="small",
  )
