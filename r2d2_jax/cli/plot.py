"""Draws learning curves of runs: `python -m experiments.plot RUN...`.

Runs whose training differs in nothing but the seed become one curve, the mean,
with the range of the seeds around it; each task has a panel:

    python -m experiments.plot runs/memory-* --out memory.png
    python -m experiments.plot runs --x minutes --yardsticks
"""

import pathlib
import sys
from typing import Annotated, Literal

import tyro

from r2d2_jax.cli.command import check_new_file, program, run_command, writing


def plot(
  run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
  /,
  out: pathlib.Path = pathlib.Path("learning_curves.png"),
  column: str = "",
  x: Literal["frames", "steps", "updates", "minutes"] = "frames",
  title: str = "",
  yardsticks: bool = False,
) -> None:
  """Draws learning curves of one or many runs into a PNG.

  Args:
    run_dirs: directories of runs, or parents of such.
    out: the PNG to write.
    column: column of log.csv to draw: return_exploit (lanes that explore
      least), return_mean, eval_return, loss, replay_ratio, ... Left out, the
      first of these three that has numbers.
    x: column for the horizontal axis.
    title: text above the plot.
    yardsticks: draw what others reached on the task, as labelled lines.
  """
  from r2d2_jax.analysis.comparison import find_runs
  from r2d2_jax.analysis.plots import plot_runs
  from r2d2_jax.config import ConfigError

  if not run_dirs:
    raise ConfigError("expected at least one run directory, got none")
  check_new_file("--out", out, ".png")
  runs = find_runs(run_dirs)
  with writing("--out", out):
    drawn = plot_runs(
      runs, out, column=column, x=x, title=title, yardsticks=yardsticks
    )
  for run_dir in drawn.left_out:
    print(f"left out, nothing to draw yet: {run_dir}", file=sys.stderr)
  for note in drawn.notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"wrote {out}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(plot, prog=program("plot"), arguments=arguments)


if __name__ == "__main__":
  sys.exit(main())
