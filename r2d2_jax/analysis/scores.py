"""Published scores of the 57 Atari games, and human-normalised ones."""

from collections.abc import Mapping
import csv
import functools
import pathlib
from typing import Any, overload

import numpy as np

from r2d2_jax.envs.tasks import plain_name

# Raw scores: random play, a human, and the agents of Kapturowski et al., ICLR
# 2019, table 4.
_PATH = pathlib.Path(__file__).parent / "atari57_scores.csv"

# Column of the csv -> the agent's name, of those that results are shown beside.
PUBLISHED_AGENTS = {"impala_deep": "IMPALA", "apex": "Ape-X", "r2d2": "R2D2"}


@functools.cache
def published_scores() -> Mapping[str, Mapping[str, float]]:
  """Raw score by game ('ms_pacman') and column ('random', 'r2d2', ...)."""
  with _PATH.open(newline="") as f:
    return {
      row.pop("game"): {name: float(value) for name, value in row.items()}
      for row in csv.DictReader(f)
    }


@overload
def human_normalised(game: str, score: float) -> float: ...
@overload
def human_normalised(game: str, score: np.ndarray) -> np.ndarray: ...
def human_normalised(game: str, score: Any) -> Any:
  """100 (score - random) / (human - random), in per cent.

  Args:
    game: as in `published_scores`.
    score: raw whole-game return, or several of them as an array.

  Raises:
    ValueError: not one of the 57 games.
  """
  scores = published_scores()
  if game not in scores:
    raise ValueError(f"{game} is not one of the {len(scores)} games")
  random, human = scores[game]["random"], scores[game]["human"]
  return 100 * (score - random) / (human - random)


def game_of_task(task: str) -> str | None:
  """The game that a task's name means ('Pong-v5' -> 'pong'); None if none."""
  by_plain = {plain_name(game): game for game in published_scores()}
  return by_plain.get(plain_name(task))
