"""Scores of evaluated runs beside the published ones: reads, plays nothing.

    python -m experiments.scoreboard runs/atari57 --csv scores.csv --plots .

docs/evaluation.md says what each number means.
"""

import pathlib
import sys
from typing import Annotated

import tyro

from r2d2_jax.cli.command import check_new_file, program, run_command, writing


def scoreboard(
  run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
  /,
  csv: pathlib.Path | None = None,
  plots: pathlib.Path | None = None,
) -> None:
  """Shows the last evaluation of each run beside the published scores.

  Runs of the same game are its seeds; of those with the same seed and settings,
  copies for example, the longest counts.

  Args:
    run_dirs: directories of runs that were evaluated, or parents of such.
    csv: file to write the scores to; the aggregates go beside it, to
      ...-aggregates.csv.
    plots: directory to draw performance_profile.png and games.png in.
  """
  from rich.console import Console

  from r2d2_jax.analysis.score_plots import plot_games, plot_profile
  from r2d2_jax.analysis.score_tables import show, write_csv
  from r2d2_jax.analysis.standings import read_standings
  from r2d2_jax.config import ConfigError

  if csv is not None:
    check_new_file("--csv", csv)
  if plots is not None:
    with writing("--plots", plots):
      there = next(path for path in (plots, *plots.parents) if path.exists())
    if not there.is_dir():
      raise ConfigError(f"--plots: expected a directory, got file {there}")
  standings = read_standings(list(run_dirs))
  games = standings.published
  if plots is not None and not games:
    raise ConfigError("--plots: expected runs of the 57 games, got none")
  show(standings, Console())
  written = []
  if csv is not None:
    with writing("--csv", csv):
      written += write_csv(standings, csv)
  if plots is not None:
    written += [plots / "performance_profile.png", plots / "games.png"]
    has_interval = any(a.interval is not None for a in standings.aggregates)
    with writing("--plots", plots):
      plots.mkdir(parents=True, exist_ok=True)
      plot_profile(games, written[-2], with_interval=has_interval)
      plot_games(games, written[-1])
  for path in written:
    print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    scoreboard, prog=program("scoreboard"), arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
