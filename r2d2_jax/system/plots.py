"""Plots of runs, from their logs."""

import pathlib

import numpy as np

from r2d2_jax.config import to_dict
from r2d2_jax.system.rundir import read_config
from r2d2_jax.system.runlog import read_log

# matplotlib is imported where it is used: it takes a second. `Figure`, not
# pyplot: no display may be assumed, and figures are freed by themselves.


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
  figure, axes = _figure()
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
  _finish(figure, axes, png_path, title=title, x_label="frames (millions)")


def plot_runs(
    run_dirs: list[pathlib.Path],
    png_path: pathlib.Path,
    *,
    column: str = "return_exploit",
    x: str = "frames",
    title: str = "",
) -> None:
  """Draws many runs: the mean of each group of seeds, and its range.

  Runs whose settings differ in nothing but section `run` (seed, directory) form
  a group, named after the settings in which the groups differ (at most three).

  Args:
    run_dirs: directories of runs.
    png_path: where to write.
    column: of log.csv, for the vertical axis.
    x: column for the horizontal axis: frames, steps, updates or minutes.
    title: above the plot.

  Raises:
    ConfigError: a directory holds no run.
    ValueError: a log lacks the column, or has no numbers in it.
  """
  figure, axes = _figure()
  for label, members in _group(run_dirs).items():
    curves = [_curve(run_dir, x, column) for run_dir in members]
    # All seeds on one grid, as far as the shortest of them goes.
    end = min(curve_x[-1] for curve_x, _ in curves)
    grid = np.linspace(max(cx[0] for cx, _ in curves), end, 200)
    values = np.stack([np.interp(grid, cx, cy) for cx, cy in curves])
    many = len(members) > 1
    (line,) = axes.plot(
        grid,
        values.mean(axis=0),
        label=f"{label}, {len(members)} seeds" if many else label,
    )
    if many:
      axes.fill_between(
          grid,
          values.min(axis=0),
          values.max(axis=0),
          color=line.get_color(),
          alpha=0.2,
          linewidth=0,
      )
  _finish(
      figure,
      axes,
      png_path,
      title=title,
      x_label=x,
      y_label=column.replace("_", " "),
  )


def _group(
    run_dirs: list[pathlib.Path],
) -> dict[str, list[pathlib.Path]]:
  """Label -> directories; the label names what differs between the groups.

  Where that is too much to read, every run stands for itself, under its name.
  """
  settings = {}
  for run_dir in run_dirs:
    config = to_dict(read_config(run_dir))
    config.pop("run")
    settings[run_dir] = {
        f"{section}.{name}": value
        for section, fields in config.items()
        for name, value in fields.items()
    }
  first = next(iter(settings.values()))
  differing = [
      name
      for name in first
      if any(s[name] != first[name] for s in settings.values())
  ]
  if len(differing) > 3:
    return {run_dir.name: [run_dir] for run_dir in run_dirs}
  groups: dict[str, list[pathlib.Path]] = {}
  for run_dir, values in settings.items():
    label = ", ".join(f"{n.split('.')[1]} {values[n]}" for n in differing)
    groups.setdefault(label or values["env.task"], []).append(run_dir)
  return groups


def _curve(
    run_dir: pathlib.Path, x: str, column: str
) -> tuple[np.ndarray, np.ndarray]:
  log = read_log(run_dir / "log.csv")
  for name in (x, column):
    if name not in log:
      raise ValueError(
          f"{run_dir}/log.csv: expected a column {name!r}, got {list(log)}"
      )
  xs, ys = np.array(log[x]), np.array(log[column])
  known = ~(np.isnan(xs) | np.isnan(ys))
  if not known.any():
    raise ValueError(f"{run_dir}/log.csv: no numbers in column {column!r} yet")
  return xs[known], ys[known]


def _figure():
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top

  figure = Figure(figsize=(7, 4.2), layout="constrained")
  return figure, figure.subplots()


def _finish(
    figure, axes, png_path, *, title, x_label, y_label="raw return"
) -> None:
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  axes.set_title(title)
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(frameon=False)
  figure.savefig(png_path, dpi=130)
