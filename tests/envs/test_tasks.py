"""Names of games: every spelling of the benchmark, help with typing errors."""

import pytest

from r2d2_jax.envs.tasks import atari57_games, resolve_task

KNOWN = [
  "Pong-v5",
  "MsPacman-v5",
  "Othello-v5",
  "Othello-v1",
  "Catch-v0",
  "MiniGrid-MemoryS7-v0",
]


@pytest.mark.parametrize(
  "name, task",
  [
    ("Pong", "Pong-v5"),
    ("pong", "Pong-v5"),
    ("Pong-v5", "Pong-v5"),
    ("PONG", "Pong-v5"),
    ("ALE/Pong-v5", "Pong-v5"),
    ("ms_pacman", "MsPacman-v5"),
    ("MsPacman", "MsPacman-v5"),
    ("othello", "Othello-v5"),
    ("Othello-v1", "Othello-v1"),
    ("Catch-v0", "Catch-v0"),
    ("minigrid-memorys7-v0", "MiniGrid-MemoryS7-v0"),
  ],
)
def test_spellings(name, task):
  assert resolve_task(name, KNOWN) == task


@pytest.mark.parametrize(
  "name, near",
  [
    ("Pogn", "Pong-v5"),
    ("mspackman", "MsPacman-v5"),
    ("Catch-v1", "Catch-v0"),
    ("MiniGrid-MemoryS8-v0", "MiniGrid-MemoryS7-v0"),
    ("recal", "recall"),
  ],
)
def test_unknown_names_the_nearest(name, near):
  with pytest.raises(ValueError, match=f"unknown task '{name}'.*{near}"):
    resolve_task(name, KNOWN)


def test_unknown_with_nothing_near():
  with pytest.raises(ValueError, match="Atari games go by name"):
    resolve_task("zzzzzzzz", KNOWN)


def test_benchmark():
  games = atari57_games()
  assert len(games) == len(set(games)) == 57
  assert games[0] == "alien" and games[-1] == "zaxxon"
  games.clear()
  assert len(atari57_games()) == 57
