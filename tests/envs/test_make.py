"""Settings to worlds, where no environment needs to run."""

import subprocess
import sys

import pytest

from r2d2_jax.config import EnvConfig, MissingPackageError
from r2d2_jax.envs.flicker import FlickerWorld
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.envs.recall import RecallWorld


def test_recall_follows_the_settings():
  world = make_world(
    EnvConfig(task="recall", num_envs=6, batch_size=2, max_episode_frames=3),
    seed=0,
  )
  assert isinstance(world, RecallWorld)
  assert (world.num_envs, world.batch_size) == (6, 2)
  assert world.spec.frame_skip == 1
  world.reset()
  for _ in range(12):  # four turns of all lanes
    t = world.recv()
    world.send(t.env_id * 0, t.env_id)
  reports = world.pop_episodes()
  assert len(reports) == 6
  assert all(r.truncated and r.episode_steps == 3 for r in reports)


def test_flicker_wraps_any_world():
  config = EnvConfig(task="recall", num_envs=2, flicker_probability=0.5)
  assert isinstance(make_world(config, seed=0), FlickerWorld)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(batch_size=3), "batch_size in .0, num_envs=2., got 3"),
    (dict(life_loss="roll"), "recall has no lives"),
  ],
)
def test_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    make_world(EnvConfig(task="recall", num_envs=2, **options), seed=0)


def test_recall_needs_no_envpool():
  code = (
    "import sys; sys.modules['envpool'] = None\n"
    "from r2d2_jax.config import EnvConfig\n"
    "from r2d2_jax.envs.make import make_world\n"
    "make_world(EnvConfig(task='recall', num_envs=2), seed=0).reset()\n"
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_without_envpool_the_reason_and_the_way_out(monkeypatch):
  monkeypatch.setitem(sys.modules, "envpool", None)
  for ask in (world_spec, lambda config: make_world(config, seed=0)):
    with pytest.raises(MissingPackageError) as caught:
      ask(EnvConfig(task="CartPole-v1", num_envs=2))
    message = str(caught.value)
    assert message.startswith("task 'CartPole-v1' needs EnvPool")
    assert "pip install 'r2d2_jax[envpool]'" in message
    assert "recall, recall-long" in message and "\n" not in message


def test_without_envpool_a_slip_names_the_nearest(monkeypatch):
  monkeypatch.setitem(sys.modules, "envpool", None)
  for task, near in (
    ("Pnog", "pong"),
    ("recal", "recall"),
    ("memory-chain10", "memory-chain-10"),
    ("stateles-cartpole", "stateless-cartpole"),
  ):
    with pytest.raises(MissingPackageError, match=f"did you mean .*{near}"):
      world_spec(EnvConfig(task=task))
