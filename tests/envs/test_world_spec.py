"""What a world says of itself is known before it stands."""

import subprocess
import sys

import pytest

from r2d2_jax.config import EnvConfig
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
  code = ("import sys\n"
          "sys.modules['envpool'] = sys.modules['jax'] = None\n"
          "from r2d2_jax.config import EnvConfig\n"
          "from r2d2_jax.envs.make import world_spec\n"
          "assert world_spec(EnvConfig(task='recall')).num_actions == 4")
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.envpool
@pytest.mark.parametrize("options", [
    dict(task="Pong"),
    dict(task="ms_pacman", full_action_space=False, frame_skip=2),
    dict(task="MiniGrid-MemoryS7-v0"),
    dict(task="Catch-v0"),
    dict(task="FrozenLake-v1"),
    dict(task="CartPole-v1"),
])
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
