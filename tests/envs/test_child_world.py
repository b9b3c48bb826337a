"""A world in its own process: the same rows, and any hang can be killed."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("envpool")
from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.child_world import ChildWorld
from r2d2_jax.envs.envpool_world import EnvPoolWorld
from r2d2_jax.envs.make import make_world
from r2d2_jax.types import EnvSpec

pytestmark = pytest.mark.envpool

CATCH = EnvConfig(task="Catch-v0", num_envs=3)


def _play(world, num_rows):
  world.reset()
  rows = []
  for k in range(num_rows):
    rows.append(world.recv())
    world.send((rows[-1].env_id + k) % 3, rows[-1].env_id)
  return rows, world.pop_episodes()


def test_same_rows_as_in_this_process():
  here = EnvPoolWorld("Catch-v0", CATCH, seed=3)
  there = ChildWorld("Catch-v0", CATCH, seed=3)
  assert here.spec == there.spec
  assert (there.num_envs, there.batch_size) == (3, 3)
  rows, reports = _play(here, 50)
  rows_too, reports_too = _play(there, 50)
  for a, b in zip(rows, rows_too, strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)
  assert reports == reports_too and len(reports) > 3
  with pytest.raises(ValueError, match=r"actions in \[0, 3\)"):
    there.send(np.array([3, 0, 0]), there.recv().env_id)
  there.close()
  there.close()


def test_errors_come_through():
  with pytest.raises(ValueError, match="has no lives"):
    ChildWorld("Catch-v0", EnvConfig(num_envs=1, life_loss="roll"), seed=0)


def test_a_launch_that_hangs_is_killed():
  with pytest.raises(RuntimeError, match="3 launches.*nothing came within 0 s"):
    ChildWorld("Catch-v0", CATCH, seed=0, launch_seconds=0.01)


def test_a_process_that_dies_is_reported():
  world = ChildWorld("Catch-v0", CATCH, seed=0)
  world.reset()
  os.kill(world._process.pid, signal.SIGKILL)
  with pytest.raises(RuntimeError, match="process died, status -9"):
    while True:
      world.send(np.zeros(3, np.int32), world.recv().env_id)
  world.close()


@pytest.mark.parametrize(
  "task, obs_shape, num_actions",
  [
    pytest.param("D3Battle-v1", (84, 84), 108, marks=pytest.mark.slow),
    ("HealthGathering-v1", (84, 84, 3), 6),
  ],
)
def test_vizdoom(task, obs_shape, num_actions):
  files = set(os.listdir())
  try:
    world = make_world(
      EnvConfig(task=task, num_envs=2, max_episode_frames=80), seed=0
    )
  except RuntimeError as error:
    pytest.skip(str(error))
  assert isinstance(world, ChildWorld)
  assert world.spec == EnvSpec(obs_shape, np.uint8, num_actions, 4)
  world.reset()
  for k in range(60):
    t = world.recv()
    assert t.obs_t.shape == (2, *obs_shape) and t.obs_t.dtype == np.uint8
    world.send(np.full(2, k % num_actions, np.int32), t.env_id)
  assert t.obs_t.any()
  reports = world.pop_episodes()
  assert reports and all(
    r.episode_frames == 4 * r.episode_steps for r in reports
  )
  world.close()
  assert set(os.listdir()) == files  # nothing left in the working directory
