"""Plots of a run, from its log."""

import math
import pathlib

from r2d2_jax.system.runlog import read_log


def plot_learning_curve(
    log_path: pathlib.Path, png_path: pathlib.Path, *, title: str
) -> None:
  """Draws the return of finished episodes and the evaluation against frames.

  Args:
    log_path: the run's log.csv.
    png_path: where to write.
    title: the task.
  """
  # Here: pyplot takes a second to import, and no display may be assumed.
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top

  log = read_log(log_path)
  figure = Figure(figsize=(7, 4.2), layout="constrained")
  axes = figure.subplots()
  frames = [f / 1e6 for f in log.get("frames", [])]
  for column, label, style in (
      ("return_mean", "training, all lanes", dict(color="tab:gray")),
      (
          "return_exploit",
          "training, lanes with the least exploration",
          dict(color="tab:blue"),
      ),
      (
          "eval_return",
          "evaluation, whole games",
          dict(color="tab:red", marker="o", linestyle="none"),
      ),
  ):
    points = [
        (x, y)
        for x, y in zip(frames, log.get(column, []))
        if not math.isnan(y)
    ]
    if points:
      axes.plot(*zip(*points), label=label, **style)
  axes.set_xlabel("frames (millions)")
  axes.set_ylabel("raw return")
  if frames:
    title += f": {frames[-1]:.2f}M frames in {log['minutes'][-1]:.0f} minutes"
  axes.set_title(title)
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(frameon=False)
  figure.savefig(png_path, dpi=130)
