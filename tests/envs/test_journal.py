"""Worlds brought back by playing their actions again."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.journal import JournalWorld
from r2d2_jax.envs.make import make_world
from tests.stamped import StampedWorld

TASKS = [
  "recall",
  pytest.param("Catch-v0", marks=pytest.mark.envpool),
  pytest.param("Pong", marks=pytest.mark.envpool),
  pytest.param("MiniGrid-MemoryS7-v0", marks=pytest.mark.envpool),
]


def make(task, seed=3):
  if task != "recall":
    pytest.importorskip("envpool")
  config = EnvConfig(task=task, num_envs=3, flicker_probability=0.2)
  return JournalWorld(make_world(config, seed=seed))


def play(world, steps, actions):
  rows = []
  for _ in range(steps):
    timestep = world.recv()
    rows.append(timestep)
    a_t = actions.integers(0, world.spec.num_actions, world.num_envs)
    world.send(a_t.astype(np.int32), timestep.env_id)
  return rows


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_world_shows_what_the_first_one_shows(task):
  first, second = make(task), make(task)
  actions = np.random.default_rng(0)
  first.reset()
  play(first, 25, actions)
  first.pop_episodes()
  state = first.state_dict()
  assert state["actions"].dtype == np.uint8
  second.reset()
  second.load_state_dict(state)
  assert second.pop_episodes() == []  # they were reported before
  for x, y in zip(
    play(first, 60, np.random.default_rng(1)),
    play(second, 60, np.random.default_rng(1)),
    strict=True,
  ):
    for a, b in zip(x, y, strict=True):
      np.testing.assert_array_equal(a, b)
  # Also those that began before the checkpoint are reported whole.
  assert first.pop_episodes() == second.pop_episodes()
  first.close()
  second.close()


def test_another_seed_or_other_lanes_are_noticed():
  world = make("recall")
  world.reset()
  play(world, 10, np.random.default_rng(0))
  state = world.state_dict()
  other = make("recall", seed=4)
  other.reset()
  with pytest.raises(ValueError, match="not deterministic"):
    other.load_state_dict(state)
  more_lanes = JournalWorld(StampedWorld([[5]] * 4))
  more_lanes.reset()
  with pytest.raises(ValueError, match="holds .3,. lanes, the world has 4"):
    more_lanes.load_state_dict(state)


def test_a_journal_may_be_empty():
  world, other = make("recall"), make("recall")
  for each in (world, other):
    each.reset()
  other.load_state_dict(world.state_dict())
  np.testing.assert_array_equal(world.recv().obs_t, other.recv().obs_t)
