"""The plot of `experiments.memory_horizon`."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments.horizon_table import HorizonTable, horizon_name
from experiments.studies.plots import legend_below, new_figure
from experiments.studies.study import arm_of
from r2d2_jax.analysis.comparison import group_runs
from r2d2_jax.analysis.plots import draw_range
from r2d2_jax.config import Config

# Column of the table -> what the panel shows, and by what it is multiplied.
_PANELS = {
  "return_mean": ("raw return", 1),
  "max_q_gap": ("max-Q gap", 1),
  "same_greedy": ("unchanged greedy actions (%)", 100),
}


def plot_horizons(
  configs: Mapping[pathlib.Path, Config],
  ks: Sequence[int | None],
  table: HorizonTable,
  png_path: pathlib.Path,
) -> None:
  """Draws return, gap and unchanged choices against k, a row for each task.

  The axis is log2(k + 1), so that 0 is on it; 'all' is its right end. Runs that
  differ in nothing that changes the training but the seed are one curve, their
  mean, and a band from the lowest to the highest. Runs of a study bear their
  arm's name.

  Args:
    configs: settings of each run.
    ks: horizons, from the longest on; None for all.
    table: holds all of them.
    png_path: where to write.
  """
  groups = group_runs(
    configs, {run: arm_of(run, config) for run, config in configs.items()}
  )
  ks = list(reversed(ks))
  xs = _positions(ks)
  labels = sorted({label for task in groups.values() for label in task})
  colors = {label: f"C{i}" for i, label in enumerate(labels)}
  figure, grid = new_figure(len(groups), len(_PANELS), panel_inches=(3.6, 2.8))
  for row, (task, curves) in zip(grid, groups.items(), strict=True):
    for axes, (column, (title, factor)) in zip(
      row, _PANELS.items(), strict=True
    ):
      for label, runs in curves.items():
        values = factor * np.array(
          [[table.number(run, k, column) for k in ks] for run in runs]
        )
        draw_range(
          axes,
          xs,
          values,
          color=colors[label],
          label=label,
          marker="o",
          markersize=4,
        )
      axes.set_title(title, fontsize="medium")
      axes.set_xticks(xs, [horizon_name(k) for k in ks])
      axes.grid(alpha=0.3)
      if column == "same_greedy":
        axes.set_ylim(top=101)
      if column == "max_q_gap":
        axes.set_ylim(bottom=0)
    row[0].set_title(f"{task}: {row[0].get_title()}", fontsize="medium")
  for axes in grid[-1]:
    axes.set_xlabel("rows remembered, k")
  if labels != [""]:
    legend_below(figure, grid.flat, columns=2)
  figure.savefig(png_path, dpi=130)


def _positions(ks: Sequence[int | None]) -> np.ndarray:
  """log2(k + 1); 'all', the last, a step beyond the longest."""
  known = [np.log2(k + 1) for k in ks if k is not None]
  beyond = max(known, default=-1.0) + 1
  return np.array(known + [beyond] * (None in ks))
