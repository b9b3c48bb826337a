"""Names of actions: as many as there are, and they do what they say."""

import numpy as np
import pytest

from r2d2_jax.envs.action_names import action_names
from r2d2_jax.envs.tasks import atari57_games


def test_pong_has_six_of_its_own_and_eighteen_in_all():
  own = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
  assert action_names("Pong", 6) == own
  assert action_names("pong-v5", 6) == own
  assert action_names("Pong", 18)[:6] == [
    "NOOP",
    "FIRE",
    "UP",
    "RIGHT",
    "LEFT",
    "DOWN",
  ]
  assert action_names("Pong", 18)[-1] == "DOWNLEFTFIRE"


@pytest.mark.parametrize(
  "task, num_actions, expected",
  [
    ("MiniGrid-MemoryS7-v0", 3, ["left", "right", "forward"]),
    ("recall", 4, ["A", "B", "C", "D"]),
    ("CartPole-v1", 2, ["left", "right"]),
    ("Catch-v0", 3, ["left", "stay", "right"]),
    ("Acrobot-v1", 3, ["action 0", "action 1", "action 2"]),
    ("recall", 2, ["action 0", "action 1"]),
    # the emulator's list for it is shorter than EnvPool says
    ("Skiing", 9, [f"action {a}" for a in range(9)]),
    ("Skiing", 3, ["NOOP", "RIGHT", "LEFT"]),
  ],
)
def test_names_of_other_tasks(task, num_actions, expected):
  assert action_names(task, num_actions) == expected


@pytest.mark.parametrize(
  "task, expected",
  [
    ("gymnasium:CartPole-v1", ["left", "right"]),
    ("tests.envs.stamped_gymnasium:Drawn", ["stay", "go"]),
    ("tests.envs.stamped_gymnasium:Walk", ["action 0", "action 1"]),
  ],
)
def test_environments_of_gymnasium_are_asked(task, expected):
  assert action_names(task, 2) == expected


@pytest.mark.envpool
def test_every_game_has_a_name_for_each_of_its_own_actions():
  envpool = pytest.importorskip("envpool")
  for game in atari57_games():
    task = "".join(word.capitalize() for word in game.split("_")) + "-v5"
    spec = envpool.make_spec(task, full_action_space=False)
    names = action_names(game, int(spec.action_space.n))
    assert "action 0" not in names, game
    assert len(set(names)) == len(names), game


@pytest.mark.envpool
@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_a_name_means_the_same_among_a_games_own_actions_and_all_18(game):
  """Each action, played again and again, by the one number and by the other."""
  envpool = pytest.importorskip("envpool")

  def screens(full, actions):
    pool = envpool.make(
      f"{game}-v5",
      env_type="gymnasium",
      num_envs=len(actions),
      num_threads=1,
      seed=[1] * len(actions),
      stack_num=1,
      noop_max=1,
      use_fire_reset=False,
      full_action_space=full,
    )
    pool.reset()
    seen = [pool.step(np.array(actions, np.int32))[0] for _ in range(25)]
    pool.close()
    return np.stack(seen)

  num_own = int(
    envpool.make_spec(f"{game}-v5", full_action_space=False).action_space.n
  )
  names, all_names = action_names(game, num_own), action_names(game, 18)
  own = screens(False, list(range(num_own)))
  full = screens(True, [all_names.index(name) for name in names])
  np.testing.assert_array_equal(own, full)
  right, left = names.index("RIGHT"), names.index("LEFT")
  assert (own[:, right] != own[:, left]).any()
