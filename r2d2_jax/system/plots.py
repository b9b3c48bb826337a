"""Plots of runs, from their logs."""

from collections.abc import Sequence
import math
import pathlib

import numpy as np

from r2d2_jax.config import ConfigError
from r2d2_jax.system.comparison import group_runs
from r2d2_jax.system.rundir import read_config
from r2d2_jax.system.runlog import read_log

# matplotlib is imported where it is used: it takes a second. `Figure`, not
# pyplot: no display may be assumed, and figures are freed by themselves.

_NOTHING = (np.zeros(0), np.zeros(0))
_CIRCLES = dict(marker="o", markersize=4, fillstyle="none", linestyle="none")


def plot_learning_curve(
    log_path: pathlib.Path, png_path: pathlib.Path, *, title: str
) -> None:
  """Draws one run: returns in training and evaluation against frames.

  Args:
    log_path: the run's log.csv.
    png_path: where to write.
    title: the task.
  """
  log = read_log(log_path)
  figure = _figure(7, 4.2)
  axes = figure.subplots()
  frames = np.array(log.get("frames", [])) / 1e6
  for column, label, style in (
      ("return_mean", "training, all lanes", dict(color="tab:gray")),
      (
          "return_exploit",
          "training, lanes that explore least",
          dict(color="tab:blue"),
      ),
      (
          "eval_return",
          "evaluation, whole games",
          dict(color="tab:red", marker="o", linestyle="none"),
      ),
  ):
    values = np.array(log.get(column, []))
    known = ~np.isnan(values)
    if known.any():
      axes.plot(frames[known], values[known], label=label, **style)
  if frames.size:
    title += f": {frames[-1]:.2f}M frames in {log['minutes'][-1]:.0f} minutes"
  axes.set_xlabel("frames (millions)")
  axes.set_ylabel("raw return")
  axes.set_title(title)
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(frameon=False)
  figure.savefig(png_path, dpi=130)


def plot_runs(
    run_dirs: list[pathlib.Path],
    png_path: pathlib.Path,
    *,
    column: str = "return_exploit",
    x: str = "frames",
    title: str = "",
) -> list[pathlib.Path]:
  """Draws many runs: the mean of each group of seeds, and its range.

  Each task has a panel. In it, runs whose settings differ in nothing but section
  `run` (seed, directory) form a group, named after the settings in which the
  groups differ (where more than three do, after the first one's directory).
  Where a training return is drawn, the mean returns of evaluations are added as
  circles, one for each run and evaluation.

  Args:
    run_dirs: directories of runs.
    png_path: where to write.
    column: of log.csv, for the vertical axis.
    x: column for the horizontal axis: frames, steps, updates or minutes.
    title: above the plot.

  Returns:
    The runs that were left out, for they have nothing to draw yet.

  Raises:
    ConfigError: a directory holds no run, a log lacks the column, or no run has
      numbers in it.
  """
  configs = {d: read_config(d) for d in run_dirs}
  curves, points = {}, {}
  for run_dir in run_dirs:
    log = _read_columns(run_dir / "log.csv", (x, column, "eval_return"))
    curves[run_dir] = _curve(log, x, column, run_dir)
    points[run_dir] = (
        _curve(log, x, "eval_return", run_dir)
        if column.startswith(("return_", "eval_")) and "eval_return" in log
        else _NOTHING
    )
  drawn = [run_dir for run_dir in curves if len(curves[run_dir][0])]
  if not drawn:
    raise ConfigError(f"no log has numbers in column {column!r} yet")
  panels = group_runs({run_dir: configs[run_dir] for run_dir in drawn})
  labels = sorted({label for groups in panels.values() for label in groups})
  colors = dict(zip(labels, _colors(len(labels))))
  figure, grid = _panels(len(panels))
  for axes, (task, groups) in zip(grid.flat, panels.items()):
    for label, members in groups.items():
      draw_curves(axes, [curves[d] for d in members], color=colors[label])
      for xs, ys in (points[d] for d in members if len(points[d][0])):
        axes.plot(xs, ys, color=colors[label], **_CIRCLES)
    axes.set_title(task, fontsize="medium")
    axes.grid(alpha=0.3)
    if x != "minutes":
      axes.xaxis.set_major_formatter(_in_thousands)
  for axes in grid[:, 0]:
    axes.set_ylabel(column.replace("_", " "))
  for i in range(grid.shape[1]):  # the lowest panel of each column
    grid[(len(panels) - 1 - i) // grid.shape[1], i].set_xlabel(x)
  _legend(
      figure, colors, panels, circles=any(len(xs) for xs, _ in points.values())
  )
  if title:
    figure.suptitle(title)
  figure.savefig(png_path, dpi=130)
  return [run_dir for run_dir in curves if run_dir not in drawn]


def _read_columns(
    path: pathlib.Path, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
  """Those of the columns that the log has; {} where there is no row yet."""
  if not path.exists():
    return {}
  log = read_log(path, columns=names)
  return {name: np.array(values) for name, values in log.items()}


def _curve(
    log: dict[str, np.ndarray], x: str, column: str, run_dir: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
  """The rows in which both columns are finite; none of an empty log."""
  if not log:
    return _NOTHING
  for name in (x, column):
    if name not in log:
      raise ConfigError(f"{run_dir}/log.csv: expected a column {name!r}, got none")
  known = np.isfinite(log[x]) & np.isfinite(log[column])
  return log[x][known], log[column][known]


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
  grid = np.linspace(start, end, 200)
  values = np.stack([np.interp(grid, xs, ys) for xs, ys in curves])
  draw_range(axes, grid, values, **style)


def draw_range(axes, xs: np.ndarray, values: np.ndarray, **style) -> None:
  """Mean of values [curves, len(xs)], and a band from the lowest to the highest."""
  axes.plot(xs, values.mean(axis=0), **style)
  if len(values) > 1:
    axes.fill_between(
        xs, values.min(axis=0), values.max(axis=0),
        color=style["color"], alpha=0.2, linewidth=0,
    )  # fmt: skip


def _figure(width_inches: float, height_inches: float):
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top

  return Figure(figsize=(width_inches, height_inches), layout="constrained")


def _panels(number: int):
  """A figure and its axes [rows, columns]; those beyond `number` are empty."""
  columns = math.ceil(math.sqrt(number))
  rows = math.ceil(number / columns)
  figure = _figure(*((7, 4.2) if number == 1 else (3 * columns, 2.4 * rows)))
  grid = figure.subplots(rows, columns, squeeze=False)
  for unused in grid.flat[number:]:
    unused.set_axis_off()
  return figure, grid


def _colors(number: int) -> list:
  from matplotlib import colormaps  # pylint: disable=g-import-not-at-top

  if number <= 10:
    return [f"C{i}" for i in range(number)]
  return list(colormaps["turbo"](np.linspace(0.05, 0.95, number)))


def _legend(figure, colors: dict, panels: dict, *, circles: bool) -> None:
  """Below the panels, once for all of them."""
  from matplotlib.lines import Line2D  # pylint: disable=g-import-not-at-top

  handles = []
  for label, color in colors.items():
    runs = {len(groups[label]) for groups in panels.values() if label in groups}
    few, many = min(runs), max(runs)
    count = f"{few} to {many} runs" if few < many else f"{many} run(s)"
    text = f"{label}, {count}" if label else count
    handles.append(Line2D([], [], color=color, label=text))
  if circles:
    handles.append(
        Line2D([], [], color="gray", label="evaluation", **_CIRCLES)
    )
  figure.legend(
      handles=handles, loc="outside lower center", frameon=False,
      ncols=min(len(handles), 3), fontsize="small",
  )  # fmt: skip


def _in_thousands(x: float, position: int) -> str:
  """2500000 -> '2.5M'."""
  del position
  for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(x) >= unit:
      return f"{x / unit:g}{letter}"
  return f"{x:g}"
