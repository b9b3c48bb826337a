"""What a world says of itself is known before it stands."""

import collections
import subprocess
import sys

import numpy as np
import pytest

from r2d2_jax.config import ConfigError, EnvConfig, MissingPackageError
from r2d2_jax.envs.make import make_world, world_spec


def _same_as_the_world(**options):
  config = EnvConfig(num_envs=2, **options)
  world = make_world(config, seed=0)
  try:
    assert world_spec(config) == world.spec
  finally:
    world.close()
  return world.spec


def test_recall():
  _same_as_the_world(task="recall")
  _same_as_the_world(task="Recall", flicker_probability=0.5)


def test_recall_needs_neither_envpool_nor_jax():
  code = (
    "import sys\n"
    "sys.modules['envpool'] = sys.modules['jax'] = None\n"
    "from r2d2_jax.config import EnvConfig\n"
    "from r2d2_jax.envs.make import world_spec\n"
    "assert world_spec(EnvConfig(task='recall')).num_actions == 4"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.envpool
@pytest.mark.parametrize(
  "options",
  [
    dict(task="Pong"),
    dict(task="ms_pacman", full_action_space=False, frame_skip=2),
    dict(task="MiniGrid-MemoryS7-v0"),
    dict(task="Catch-v0"),
    dict(task="FrozenLake-v1"),
    dict(task="CartPole-v1"),
  ],
)
def test_envpool_tasks(options):
  pytest.importorskip("envpool")
  _same_as_the_world(**options)


@pytest.mark.envpool
def test_no_lane_is_started(monkeypatch):
  envpool = pytest.importorskip("envpool")

  def make(*args, **kwargs):
    raise AssertionError("a pool was made")

  monkeypatch.setattr(envpool, "make", make)
  # A 3-D game of the family that runs in a process of its own.
  assert world_spec(EnvConfig(task="DefendTheLine-v1")).obs_shape == (84, 84, 3)
  assert world_spec(EnvConfig(task="Pong")).num_actions == 18
  with pytest.raises(ValueError, match="did you mean Pong-v5"):
    world_spec(EnvConfig(task="Pnog"))


@pytest.mark.slow
@pytest.mark.envpool
def test_every_task_has_a_spec_or_one_sentence_that_says_why_not():
  """And of each kind that has one, a task shows what its spec says."""
  envpool = pytest.importorskip("envpool")
  from envpool.registration import registry

  kinds, accepted, missing = {}, collections.Counter(), {}
  for task in envpool.list_all_envs():
    package = registry.specs[task][0].removeprefix("envpool.")
    try:
      spec = world_spec(EnvConfig(task=task))
    except MissingPackageError as error:  # a library of the system
      missing[package] = str(error)
      continue
    except ConfigError as error:
      assert task in str(error) and "\n" not in str(error), (task, str(error))
      assert len(str(error)) < 500, (task, str(error))
      continue
    assert all(isinstance(n, int) and n > 0 for n in spec.obs_shape), task
    assert spec.obs_dtype in (np.uint8, np.float32), task
    assert spec.num_actions > 1, task
    accepted[package] += 1
    kinds[package, spec] = task
  for package, least in dict(
    atari=100,
    minigrid=60,
    gfootball=10,
    highway=10,
    toy_text=10,
    vizdoom=10,
    classic_control=5,
    box2d=2,
  ).items():
    assert accepted[package] >= least, accepted

  for (package, spec), task in kinds.items():
    if package == "vizdoom":
      continue  # seconds each, see test_child_world.py
    world = make_world(
      EnvConfig(task=task, num_envs=2, max_episode_frames=8), seed=0
    )
    world.reset()
    for _ in range(20):
      t = world.recv()
      assert t.obs_t.shape == (2, *spec.obs_shape), task
      assert t.obs_t.dtype == spec.obs_dtype, task
      world.send(np.full(2, spec.num_actions - 1, np.int32), t.env_id)
    assert world.pop_episodes(), task
    world.close()
  assert set(missing) <= {"procgen"}  # the one that needs Qt 5
  if missing:
    pytest.skip(f"all but procgen: {missing['procgen']}")
