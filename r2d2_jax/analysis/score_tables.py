"""Standings as tables: for people, and as CSV."""

import csv
import pathlib

import numpy as np
from rich.console import Console

from r2d2_jax.analysis.aggregates import METRICS
from r2d2_jax.analysis.scores import PUBLISHED_AGENTS, published_scores
from r2d2_jax.analysis.standings import (
  Aggregate,
  GameScores,
  Standings,
  published_percent,
)
from r2d2_jax.analysis.tables import print_table
from r2d2_jax.system.metrics.learning_curve import rounded

_LEVELS = ("random", "human", *PUBLISHED_AGENTS)


def show(standings: Standings, console: Console) -> None:
  """Prints the scores, the aggregates and the notes.

  Args:
    standings: from `read_standings`.
    console: lines are as long as they need to be, whatever its width, so that
      numbers are never cut.
  """
  print_table(
    console,
    "Raw scores over the games of each run's last evaluation",
    [
      "game",
      "seeds",
      "frames",
      "games",
      "mean",
      "median",
      "human %",
      "random",
      "human",
      *PUBLISHED_AGENTS.values(),
    ],
    [_cells(game) for game in standings.games],
  )
  if standings.aggregates:
    games = standings.published
    seeds = {len(game.run_returns) for game in games}
    few, many = min(seeds), max(seeds)
    spread = f"{few} to {many} seeds" if few < many else f"{many} seeds"
    if many == 1:
      spread = "1 seed"
    print_table(
      console,
      "Human-normalised scores in % (95 % interval), over"
      f" {len(games)} of {len(published_scores())} games, {spread} each",
      ["agent", *METRICS, "above human"],
      [
        [
          row.agent,
          *map(_with_interval, row.values, _ends(row)),
          f"{row.above_human} of {len(games)}",
        ]
        for row in standings.aggregates
      ],
    )
  for note in standings.notes:
    console.print(
      f"note: {note}", highlight=False, soft_wrap=True, markup=False
    )


def write_csv(standings: Standings, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes the games, and the aggregates beside them to ...-aggregates.csv.

  Scores are raw; columns that end in _percent are human-normalised.

  Returns:
    What was written: no aggregates below two games.
  """
  rows = []
  for game in standings.games:
    row = {
      "game": game.name,
      "seeds": len(game.run_returns),
      "frames_min": _number(game.run_frames.min()),
      "frames_max": _number(game.run_frames.max()),
      "games": game.num_games,
      "mean": game.score,
      "median": game.median,
      "human_normalised_percent": "",
      **dict.fromkeys(_LEVELS, ""),
      **{f"{agent}_percent": "" for agent in PUBLISHED_AGENTS},
    }
    if game.published:
      row["human_normalised_percent"] = float(game.human_normalised.mean())
      for level in _LEVELS:
        row[level] = published_scores()[game.name][level]
      for agent in PUBLISHED_AGENTS:
        row[f"{agent}_percent"] = published_percent(game.name, agent)
    rows.append(row)
  _write(path, rows)
  if not standings.aggregates:
    return [path]
  rows = []
  for aggregate in standings.aggregates:
    row = {"agent": aggregate.agent, "games": len(standings.published)}
    for metric, value, ends in zip(
      METRICS, aggregate.values, _ends(aggregate), strict=True
    ):
      name = metric.replace(" ", "_").lower()
      row[f"{name}_percent"] = value
      row[f"{name}_low_percent"], row[f"{name}_high_percent"] = ends or ("", "")
    rows.append({**row, "games_above_human": aggregate.above_human})
  beside = path.with_name(f"{path.stem}-aggregates.csv")
  _write(beside, rows)
  return [path, beside]


def _cells(game: GameScores) -> list[str]:
  cells = [
    game.name,
    str(len(game.run_returns)),
    frames_text(game.run_frames),
    str(game.num_games),
  ]
  if not game.published:  # of any size, often between 0 and 1
    scores = [f"{game.score:.4g}", f"{game.median:.4g}"]
    return cells + scores + ["-"] * (1 + len(_LEVELS))
  published = published_scores()[game.name]
  return [
    *cells,
    f"{game.score:.1f}",
    f"{game.median:.1f}",
    f"{game.human_normalised.mean():.1f}",
    *(f"{published[level]:.1f}" for level in _LEVELS),
  ]


def frames_text(frames: np.ndarray) -> str:
  """'80k', or '80k to 1.2M'; '?' where a run has no log of them."""
  least, most = (
    "?" if np.isnan(x) else rounded(x) for x in (frames.min(), frames.max())
  )
  return least if least == most else f"{least} to {most}"


def _number(x: float) -> float | str:
  return "" if np.isnan(x) else float(x)


def _ends(aggregate: Aggregate) -> list[tuple[float, float] | None]:
  """The interval of each metric."""
  if aggregate.interval is None:
    return [None] * len(METRICS)
  return [tuple(ends) for ends in aggregate.interval.T]


def _with_interval(value: float, ends: tuple[float, float] | None) -> str:
  return f"{value:.1f}" + (f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else "")


def _write(path: pathlib.Path, rows: list[dict]) -> None:
  with path.open("w", newline="") as f:
    writer = csv.DictWriter(f, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
