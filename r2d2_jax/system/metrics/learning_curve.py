"""The learning curve of one run, and how curves are drawn."""

import pathlib
from typing import Any

import numpy as np

from r2d2_jax.system.storage.csv_log import read_log

# matplotlib is imported where it is used: it takes a second. `Figure`, not
# pyplot: no display may be assumed, and figures are freed by themselves.

NOTHING = (np.zeros(0), np.zeros(0))
# Drawn where no column is asked for: the first that has numbers.
RETURNS = ("return_exploit", "return_mean", "eval_return")


def plot_learning_curve(
  log_path: pathlib.Path, png_path: pathlib.Path, *, title: str
) -> None:
  """Draws one run: returns in training and evaluation against frames.

  Args:
    log_path: the run's log.csv.
    png_path: where to write.
    title: the task.
  """
  log = {name: np.array(x) for name, x in read_log(log_path).items()}
  figure = new_figure(7, 4.2)
  axes = figure.subplots()
  frames = log.get("frames", np.zeros(0))
  unit = frames_or_steps(log)
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
    xs, ys = finite(log, "frames", column)
    if len(xs):
      marked = {"marker": "."} if len(xs) == 1 else {}
      drawn: dict[str, Any] = marked | style
      axes.plot(xs, ys, label=label, **drawn)
  if frames.size:
    minutes = log["minutes"][-1]
    title += (
      f": {rounded(frames[-1])} {unit} in"
      f" {minutes:.{0 if minutes >= 10 else 1}f} min"
    )
  if not any(len(finite(log, "frames", name)[0]) for name in RETURNS[:2]):
    axes.text(
      0.5,
      0.06,
      "no game ended in training",
      ha="center",
      va="center",
      color="gray",
      transform=axes.transAxes,
    )
  axes.set_xlabel(unit)
  axes.xaxis.set_major_formatter(in_thousands)
  axes.set_ylabel("raw return")
  axes.yaxis.set_major_formatter(in_thousands)
  axes.set_title(title)
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(frameon=False)
  figure.savefig(png_path, dpi=130)


def frames_or_steps(*logs: dict[str, np.ndarray]) -> str:
  """What column `frames` counts: steps where a task has no frame skip."""
  known = [log for log in logs if "steps" in log and "frames" in log]
  if known and all((log["steps"] == log["frames"]).all() for log in known):
    return "steps"
  return "frames"


def finite(
  log: dict[str, np.ndarray], x: str, column: str
) -> tuple[np.ndarray, np.ndarray]:
  """The same; none where a column is not there."""
  if x not in log or column not in log:
    return NOTHING
  known = np.isfinite(log[x]) & np.isfinite(log[column])
  return log[x][known], log[column][known]


def new_figure(width_inches: float, height_inches: float):
  from matplotlib.figure import Figure

  return Figure(figsize=(width_inches, height_inches), layout="constrained")


def in_thousands(x: float, position: float = 0) -> str:
  """2500000 -> '2.5M'; also as matplotlib's formatter of an axis."""
  del position
  for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(x) >= unit:
      return f"{x / unit:g}{letter}"
  return f"{x:g}"


def rounded(x: float) -> str:
  """Three digits are enough for people: 1234567 -> '1.23M'."""
  return in_thousands(float(f"{x:.3g}"))
