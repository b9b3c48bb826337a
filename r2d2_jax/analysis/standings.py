"""What the evaluations of some runs say, beside what was published."""

import pathlib
from typing import NamedTuple

import numpy as np

from r2d2_jax.analysis import aggregates
from r2d2_jax.analysis.comparison import (
  differing_settings,
  find_runs,
  same_runs,
  training_settings,
)
from r2d2_jax.analysis.scores import (
  PUBLISHED_AGENTS,
  game_of_task,
  human_normalised,
  published_scores,
)
from r2d2_jax.config import Config, ConfigError, EnvConfig
from r2d2_jax.system.evaluation import PastEvaluation, read_last_evaluation
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.rundir import read_config

# Settings of the published evaluations; scores under others are not comparable.
_PROTOCOL = (
  "frame_skip",
  "noop_max",
  "sticky_action_probability",
  "fire_on_reset",
  "max_episode_frames",
  "flicker_probability",
)


_FRAMES_NOTE = (
  "frames: trained on before the evaluation; the published R2D2 has about 10"
  " billion for each game"
)


class GameScores(NamedTuple):
  """The last evaluation of each run of one game."""

  name: str  # 'ms_pacman' if it is among the 57, else the task
  published: bool  # among the 57
  run_returns: list[np.ndarray]  # raw, float64 [games] of each run
  run_frames: np.ndarray  # float64 [runs], trained before it; NaN if not logged

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


class _Run(NamedTuple):
  """One run that was evaluated."""

  config: Config  # with the game's name as its task
  evaluation: PastEvaluation
  frames: float


class Aggregate(NamedTuple):
  """Aggregates of one agent over games, per cent of the human's score."""

  agent: str
  values: np.ndarray  # float64 [4]: aggregates.METRICS
  interval: np.ndarray | None  # float64 [2, 4], 95 %; None where there is none
  above_human: int  # games above 100 %


class Standings(NamedTuple):
  """Where some runs stand."""

  games: list[GameScores]  # the 57's first, then by name
  # Over the 57's; the runs' first; [] below 2 games.
  aggregates: list[Aggregate]
  notes: list[str]  # what a reader must know beside the numbers

  @property
  def published(self) -> list[GameScores]:
    """Those of the 57 games."""
    return [g for g in self.games if g.published]


def read_standings(run_dirs: list[pathlib.Path]) -> Standings:
  """Gathers the last evaluation of each run; runs of one game are its seeds.

  Of runs with the same seed and settings, copies of one another for example,
  only the one that was trained longest counts.

  Aggregates of the published agents are over the same games, one score each.

  Args:
    run_dirs: directories of runs, or parents of such; one given twice counts
      once.

  Raises:
    ConfigError: a directory holds no run, or none of them was evaluated.
    FileError: an evaluation.csv is damaged.
  """
  runs: dict[str, dict[pathlib.Path, _Run]] = {}
  absent = []
  for run_dir in find_runs(run_dirs):
    config = read_config(run_dir)
    evaluation = read_last_evaluation(run_dir)
    if evaluation is None:
      absent.append(str(run_dir))
      continue
    name = game_of_task(config.env.task) or config.env.task
    # 'Pong' and 'pong-v5' are one game.
    config = config.updated({"env.task": name})
    frames = _frames(run_dir, evaluation.num_updates)
    runs.setdefault(name, {})[run_dir] = _Run(config, evaluation, frames)
  if not runs:
    raise ConfigError(
      "expected evaluated runs, got none; evaluate them first: python -m"
      f" experiments.evaluate {' '.join(absent) or 'RUN'}"
    )
  notes = []
  for name in sorted(runs):
    runs[name], more = _one_of_each_seed(runs[name])
    notes += more
  games = sorted(
    (
      GameScores(
        name,
        name in published_scores(),
        [run.evaluation.returns for run in members.values()],
        np.array([run.frames for run in members.values()]),
      )
      for name, members in runs.items()
    ),
    key=lambda game: (not game.published, game.name),
  )
  notes += _notes(
    {n: [run.config for run in members.values()] for n, members in runs.items()}
  )
  if absent:
    notes.append(f"not evaluated, left out: {', '.join(absent)}")
  among_57 = [game for game in games if game.published]
  table = []
  if among_57:
    notes.append(_FRAMES_NOTE)
  if len(among_57) > 1:
    table, more = _aggregates(among_57)
    notes += more
  return Standings(games, table, notes)


def _frames(run_dir: pathlib.Path, num_updates: int) -> float:
  """Frames trained on before so many updates; NaN if nothing says it."""
  path = run_dir / "log.csv"
  log = read_log(path, ("updates", "frames")) if path.exists() else {}
  if not {"updates", "frames"} <= set(log):
    return float("nan")
  before = np.array(log["updates"]) <= num_updates
  return np.array(log["frames"])[before].max(initial=0.0)


def _one_of_each_seed(
  runs: dict[pathlib.Path, _Run],
) -> tuple[dict[pathlib.Path, _Run], list[str]]:
  """The longest of those with the same seed and settings; notes on others."""
  notes = []
  for same in same_runs({run_dir: run.config for run_dir, run in runs.items()}):
    if len(same) > 1:
      longest = max(
        same, key=lambda d: (runs[d].evaluation.num_updates, runs[d].frames)
      )
      notes.append(
        f"{', '.join(map(str, same))}: same seed and settings, counted once, as"
        f" {longest}"
      )
      runs = {d: r for d, r in runs.items() if d not in same or d == longest}
  return runs, notes


def _notes(configs: dict[str, list[Config]]) -> list[str]:
  """Why numbers may not be what they seem; one line for all games it is of."""
  games: dict[str, list[str]] = {}
  for name in sorted(configs):
    if name not in published_scores():
      games.setdefault("not among the 57 games, raw score only", []).append(
        name
      )
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
    if differing := differing_settings(
      list(map(training_settings, configs[name]))
    ):
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
