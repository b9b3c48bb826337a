"""The screen: in colour, and nothing that the agent meets changes for it."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.envs.screen import screen

pytestmark = pytest.mark.envpool


def _play(config, look):
  """40 rows of a game, and the screens if looked at."""
  world = make_world(config, seed=3)
  world.reset()
  rows, screens = [], []
  for step in range(40):
    rows.append(world.recv())
    if look:
      screens.append(screen(world))
    world.send(
      np.array([step % world.spec.num_actions], np.int32), rows[-1].env_id
    )
  world.recv()
  world.close()
  return rows, screens


@pytest.mark.parametrize(
  "task, shape, flicker",
  [
    ("Pong", (210, 160, 3), 0.0),
    ("Pong", (210, 160, 3), 1.0),
    ("MiniGrid-MemoryS7-v0", (224, 224, 3), 0.0),
    ("CartPole-v1", (400, 600, 3), 0.0),
  ],
)
def test_rows_are_the_same_whether_or_not_it_is_looked_at(task, shape, flicker):
  pytest.importorskip("envpool")
  config = EnvConfig(
    task=task, num_envs=1, full_action_space=False, flicker_probability=flicker
  )
  unseen, _ = _play(config, look=False)
  seen, screens = _play(config, look=True)
  for before, after in zip(unseen, seen, strict=True):
    for x, y in zip(before, after, strict=True):
      np.testing.assert_array_equal(x, y)
  assert {(s.shape, s.dtype.name) for s in screens} == {(shape, "uint8")}
  colours = screens[-1].reshape(-1, 3)
  assert (colours.min(axis=1) != colours.max(axis=1)).any()  # not only greys
  assert any((s != screens[0]).any() for s in screens)  # it is not frozen


def test_there_is_none_where_nobody_draws():
  pytest.importorskip("envpool")
  world = make_world(EnvConfig(task="Catch-v0", num_envs=1), seed=0)
  world.reset()
  world.recv()
  assert screen(world) is None
  world.close()
  assert screen(RecallWorld(1, seed=0)) is None
