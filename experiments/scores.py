"""Published scores of the 57 Atari games, and human-normalised ones."""

import csv
import pathlib

# Raw scores: random play, a human, and the agents of Kapturowski et al., ICLR 2019,
# table 4.
_PATH = pathlib.Path(__file__).parent / "data" / "atari57_scores.csv"


def published_scores() -> dict[str, dict[str, float]]:
  """Raw score by game ('ms_pacman') and column ('random', 'human', 'r2d2', ...).

  A score that was not published is left out.
  """
  with _PATH.open(newline="") as f:
    return {
        row["game"]: {
            name: float(value)
            for name, value in row.items()
            if name != "game" and value
        }
        for row in csv.DictReader(f)
    }


def human_normalised(game: str, score: float) -> float:
  """100 (score - random) / (human - random), in per cent.

  Args:
    game: as in `published_scores`.
    score: raw whole-game return.

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
  plain = lambda name: name.lower().removesuffix("-v5").replace("_", "")
  return next(
      (game for game in published_scores() if plain(game) == plain(task)), None
  )
