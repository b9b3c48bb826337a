"""What the evaluations of some runs say, beside what was published."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments import aggregates
from experiments.scores import (
    PUBLISHED_AGENTS,
    game_of_task,
    human_normalised,
    published_scores,
)
from r2d2_jax.config import Config, ConfigError, EnvConfig
from r2d2_jax.system.comparison import differing_settings, settings_of
from r2d2_jax.system.evaluation import read_last_evaluation
from r2d2_jax.system.rundir import read_config

# Settings of the published evaluations; scores under others are not comparable.
_PROTOCOL = (
    "frame_skip",
    "noop_max",
    "sticky_action_probability",
    "fire_on_reset",
    "max_episode_frames",
    "flicker_probability",
)


class GameScores(NamedTuple):
  """The last evaluation of each run of one game."""

  name: str  # 'ms_pacman' if it is among the 57, else the task
  published: bool  # among the 57
  run_returns: list[np.ndarray]  # raw, float64 [games] of each run

  @property
  def run_means(self) -> np.ndarray:
    """Mean raw return of each run, float64 [runs]."""
    return np.array([returns.mean() for returns in self.run_returns])

  @property
  def score(self) -> float:
    """Mean over the runs of their mean raw returns."""
    return float(self.run_means.mean())

  @property
  def num_games(self) -> int:
    """Games played, all runs together."""
    return sum(map(len, self.run_returns))

  @property
  def median(self) -> float:
    """Of the raw returns of all of them."""
    return float(np.median(np.concatenate(self.run_returns)))

  @property
  def human_normalised(self) -> np.ndarray:
    """Of each run, per cent, float64 [runs]; only if published."""
    return human_normalised(self.name, self.run_means)


class Aggregate(NamedTuple):
  """Aggregates of one agent over games, per cent of the human's score."""

  agent: str
  values: np.ndarray  # float64 [4]: aggregates.METRICS
  interval: np.ndarray | None  # float64 [2, 4], 95 %; None where there is none
  above_human: int  # games above 100 %


class Standings(NamedTuple):
  """Where some runs stand."""

  games: list[GameScores]  # the 57's first, then by name
  aggregates: list[Aggregate]  # over the 57's; the runs' first; [] below 2 games
  notes: list[str]  # what a reader must know beside the numbers

  @property
  def published(self) -> list[GameScores]:
    """Those of the 57 games."""
    return [g for g in self.games if g.published]


def read_standings(run_dirs: list[pathlib.Path]) -> Standings:
  """Gathers the last evaluation of each run; runs of one game are its seeds.

  Aggregates of the published agents are over the same games, one score each.

  Args:
    run_dirs: directories of runs; one given twice counts once.

  Raises:
    ConfigError: a directory holds no run, or none of them was evaluated.
    FileError: an evaluation.csv is damaged.
  """
  returns: dict[str, list[np.ndarray]] = {}
  configs: dict[str, list[Config]] = {}
  absent = []
  for run_dir in {path.resolve(): path for path in run_dirs}.values():
    config = read_config(run_dir)
    evaluation = read_last_evaluation(run_dir)
    if evaluation is None:
      absent.append(str(run_dir))
      continue
    name = game_of_task(config.env.task) or config.env.task
    returns.setdefault(name, []).append(evaluation.returns)
    configs.setdefault(name, []).append(config)
  if not returns:
    raise ConfigError(
        "expected evaluated runs, got none; evaluate them first: python -m"
        f" experiments.evaluate {' '.join(absent) or 'RUN'}"
    )
  games = sorted(
      (GameScores(n, n in published_scores(), returns[n]) for n in returns),
      key=lambda game: (not game.published, game.name),
  )
  notes = _notes(configs)
  if absent:
    notes.append(f"not evaluated, left out: {', '.join(absent)}")
  among_57 = [game for game in games if game.published]
  table = []
  if len(among_57) > 1:
    table, more = _aggregates(among_57)
    notes += more
  return Standings(games, table, notes)


def _notes(configs: dict[str, list[Config]]) -> list[str]:
  """Why numbers may not be what they seem; one line for all games it is true of."""
  games: dict[str, list[str]] = {}
  for name in sorted(configs):
    if name not in published_scores():
      games.setdefault("not among the 57 games, raw score only", []).append(name)
    else:
      for field in _PROTOCOL:
        values = {getattr(c.env, field) for c in configs[name]}
        expected = getattr(EnvConfig(), field)
        for value in sorted(values - {expected}):
          games.setdefault(
              f"played with {field} {value}, the published scores with"
              f" {expected}",
              [],
          ).append(name)
    differing = differing_settings([settings_of(c) for c in configs[name]])
    # 'Pong' and 'pong-v5' are one game.
    if differing := [n for n in differing if n != "env.task"]:
      games.setdefault(
          "runs are counted as seeds of one agent, but differ in"
          f" {', '.join(differing)}",
          [],
      ).append(name)
  return [
      f"{', '.join(names) if len(names) < 6 else f'{len(names)} games'}: {text}"
      for text, names in games.items()
  ]


def published_percent(game: str, column: str) -> float:
  """Human-normalised score of a published agent, per cent."""
  return human_normalised(game, published_scores()[game][column])


def _aggregates(games: list[GameScores]) -> tuple[list[Aggregate], list[str]]:
  """Of the runs and of the published agents; notes on them."""
  scores = [game.human_normalised / 100 for game in games]
  agents = {"these runs": scores}
  for column, agent in PUBLISHED_AGENTS.items():
    agents[agent] = [
        np.array([published_percent(game.name, column) / 100]) for game in games
    ]
  try:
    rows = [
        Aggregate(
            agent,
            100 * aggregates.aggregate(values),
            None,
            sum(float(v.mean()) > 1 for v in values),
        )
        for agent, values in agents.items()
    ]
  except ImportError as error:
    return [], [f"no aggregates, {aggregates.why_not(error)}"]
  single = sum(len(s) == 1 for s in scores)
  if single == len(scores):
    return rows, ["no intervals: they need two seeds or more of a game"]
  try:
    interval = 100 * aggregates.bootstrap_interval(scores, aggregates.aggregate)
  except ImportError as error:
    return rows, [f"no intervals, {aggregates.why_not(error)}"]
  rows[0] = rows[0]._replace(interval=interval)
  if not single:
    return rows, []
  return rows, [
      f"{single} of {len(scores)} games have one seed and add nothing to the"
      " intervals, which are too narrow"
  ]
