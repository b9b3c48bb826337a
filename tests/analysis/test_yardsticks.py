"""Yardsticks: each has a task that runs here, and a source."""

from r2d2_jax.analysis.scores import published_scores
from r2d2_jax.analysis.yardsticks import _all, yardsticks_of


def test_a_task_has_its_own_by_any_of_its_names():
  names = [y.name for y in yardsticks_of("Pong")]
  assert names == ["DI-engine's R2D2", "Rainbow", "a human", "random play"]
  assert [y.name for y in yardsticks_of("pong-v5")] == names
  assert yardsticks_of("Breakout") == []


def test_every_yardstick_has_a_source():
  for yardstick in _all():
    assert yardstick.source and yardstick.name, yardstick
    assert yardstick.steps is None or yardstick.steps > 0


def test_those_of_pong_are_the_published_table():
  human, random = yardsticks_of("Pong")[2:]
  scores = published_scores()["pong"]
  assert (random.score, human.score) == (scores["random"], scores["human"])
