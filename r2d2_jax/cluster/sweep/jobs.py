"""The runs of a sweep: one of each task with each seed, and where they lie."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from r2d2_jax.cli.train import as_name
from r2d2_jax.config import Config, ConfigError, validate
from r2d2_jax.envs.tasks import atari57_games, nearest, plain_name

ALL_GAMES = "atari57"


class Job(NamedTuple):
  """One run of a sweep."""

  index: int
  config: Config  # with its task, seed and directory

  @property
  def task(self) -> str:
    """As the settings have it."""
    return self.config.env.task

  @property
  def seed(self) -> int:
    """As the settings have it."""
    return self.config.run.seed

  @property
  def run_dir(self) -> pathlib.Path:
    """As the settings have it."""
    return pathlib.Path(self.config.run.run_dir)

  @property
  def name(self) -> str:
    """Of its directory, and of its log."""
    return self.run_dir.name


def tasks_of(games: Sequence[str], tasks: Sequence[str]) -> list[str]:
  """Tasks in the order in which they are named, each once.

  Args:
    games: of the 57, as score tables spell them or as tasks are; 'atari57'
      stands for all of them.
    tasks: any.

  Raises:
    ConfigError: a game that is none of the 57 (names the nearest), or none at
      all.
  """
  known = {plain_name(game): game for game in atari57_games()}
  found: list[str] = []
  for name in games:
    if plain_name(name) == ALL_GAMES:
      found += known.values()
    elif plain_name(name) in known:
      found.append(known[plain_name(name)])
    else:
      near = [task for task in nearest(name, []) if task in known.values()]
      hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else "give other tasks to --tasks"
      )
      raise ConfigError(
        f"--games: expected {ALL_GAMES} or some of its games, got {name!r}:"
        f" {hint}"
      )
  found += tasks
  if not found:
    raise ConfigError(
      "expected games or tasks, got none: --games atari57, --games pong"
      " ms_pacman, --tasks Catch-v0 recall"
    )
  first: dict[str, str] = {}
  for task in found:
    first.setdefault(plain_name(task), task)
  return list(first.values())


def make_jobs(
  config: Config, tasks: Sequence[str], *, seeds: int, sweep_dir: pathlib.Path
) -> list[Job]:
  """The runs: first all tasks with the first seed, then with the second, ...

  So whoever adds a seed adds to the end, and every task has a score early.

  Args:
    config: settings of all of them; run.seed is the first seed.
    tasks: from `tasks_of`.
    seeds: of each task.
    sweep_dir: where their directories are.

  Raises:
    ConfigError: settings that cannot work.
  """
  names = [as_name(task) for task in tasks]
  # Two tasks may have one name: my.module:a_b and my.module:a/b.
  names = [
    name if names.count(name) == 1 else f"{name}-{i}"
    for i, name in enumerate(names)
  ]
  jobs = []
  for seed in range(config.run.seed, config.run.seed + seeds):
    for task, name in zip(tasks, names, strict=True):
      own = config.updated(
        {
          "env.task": task,
          "run.seed": seed,
          "run.run_dir": str(sweep_dir / f"{name}-seed{seed}"),
        }
      )
      validate(own)
      jobs.append(Job(len(jobs), own))
  return jobs
