"""Published scores: what can be recomputed from the paper's own table."""

import numpy as np
import pytest

from r2d2_jax.analysis.scores import (
  PUBLISHED_AGENTS,
  game_of_task,
  human_normalised,
  published_scores,
)
from r2d2_jax.envs.tasks import atari57_games


def test_the_papers_median_and_count_follow_from_the_table():
  scores = published_scores()
  assert len(scores) == 57
  r2d2 = [human_normalised(game, s["r2d2"]) for game, s in scores.items()]
  assert np.median(r2d2) == pytest.approx(1920.6, rel=0.002)
  assert sum(value > 100 for value in r2d2) == 52
  apex = [human_normalised(game, s["apex"]) for game, s in scores.items()]
  assert np.median(apex) == pytest.approx(434.1, rel=0.002)


def test_every_game_has_every_score():
  assert list(published_scores()) == atari57_games()
  for game, scores in published_scores().items():
    assert set(scores) >= {"random", "human", *PUBLISHED_AGENTS}, game
    assert scores["human"] > scores["random"], game


def test_normalisation_is_0_for_random_and_100_for_the_human():
  # Pong: random -20.7, human 14.6.
  assert human_normalised("pong", -20.7) == 0.0
  assert human_normalised("pong", 14.6) == 100.0
  np.testing.assert_allclose(
    human_normalised("pong", np.array([-3.05, 14.6])), [50.0, 100.0]
  )
  with pytest.raises(ValueError, match="not one of the 57"):
    human_normalised("catch", 1.0)


def test_tasks_are_matched_to_games_by_name():
  assert game_of_task("MsPacman-v5") == "ms_pacman"
  assert game_of_task("ALE/MsPacman-v5") == "ms_pacman"
  assert game_of_task("ms pacman") == "ms_pacman"
  assert game_of_task("pong") == "pong"
  assert game_of_task("MiniGrid-MemoryS7-v0") is None
