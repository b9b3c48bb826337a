"""Draws learning curves of one or many runs: `python -m experiments.plot RUN...`.

Runs that differ in nothing but their seed become one curve, the mean, with the
range of the seeds around it:

    python -m experiments.plot runs/memory-* --out memory.png
"""

import pathlib
import sys
from typing import Annotated, Literal

import tyro

from r2d2_jax.config import ConfigError


def plot(
    run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
    /,
    out: pathlib.Path = pathlib.Path("learning_curves.png"),
    column: str = "return_exploit",
    x: Literal["frames", "steps", "updates", "minutes"] = "frames",
    title: str = "",
) -> None:
  """Draws learning curves of one or many runs into a PNG.

  Args:
    run_dirs: directories that training printed.
    out: the PNG to write.
    column: column of log.csv to draw: return_exploit (lanes that explore least),
      return_mean, loss, replay_ratio, ...
    x: column for the horizontal axis.
    title: text above the plot.
  """
  from r2d2_jax.system.plots import plot_runs  # pylint: disable=g-import-not-at-top

  if not run_dirs:
    raise ValueError("expected at least one run directory, got none")
  plot_runs(list(run_dirs), out, column=column, x=x, title=title)
  print(f"wrote {out}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  try:
    tyro.cli(plot, args=arguments, prog="python -m experiments.plot")
  except (ConfigError, ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
