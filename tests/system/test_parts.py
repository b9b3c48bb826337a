"""Images and numbers together, from the environment to an exported agent."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig, UserError
from r2d2_jax.envs.check import WorldError, check_world
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.parts import split_parts
from r2d2_jax.presets import smoke
from r2d2_jax.system.example import example_batch
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.train import RunError, train
from r2d2_jax.video.recording import play_game
from tests.agents import exported_again

TASK = "tests.envs.mixed_gymnasium:make_lamp"
SETTINGS = {
  "env.task": TASK,
  "network.torso": "auto",
  "network.torso_channels": (8, 16, 16),
  "network.torso_units": 32,
  "evaluation.num_episodes": 20,
  "run.total_steps": 3_000,
}


def _config(**changes):
  return smoke().updated(SETTINGS | changes)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_world_keeps_its_contract(vectorization):
  config = EnvConfig(task=TASK, num_envs=3, vectorization=vectorization)
  worlds = [make_world(config, seed=0) for _ in range(2)]
  check_world(worlds[0], twin=worlds[1], num_steps=20)
  for world in worlds:
    world.close()
  spec = world_spec(config)
  assert spec == worlds[0].spec and spec.obs_shape == (36 * 36 + 4,)
  worlds = [make_world(config, seed=0) for _ in range(2)]
  worlds[0].spec = spec._replace(obs_shape=(36 * 36,))
  with pytest.raises(WorldError, match="the bytes of spec.obs_parts"):
    check_world(worlds[0])
  for world in worlds:
    world.close()


def test_replay_hands_out_what_was_seen():
  example = example_batch(_config(**{"agent.batch_size": 16}))
  s = example.batch.sequence
  image, sign = split_parts(s.inputs.obs_t, example.spec)
  seen = image[s.valid_t]
  assert set(np.unique(seen)) == {0, 255}
  assert (seen[..., 0] != seen[..., -1]).all()  # the lamp is on one side
  assert set(np.unique(sign[s.valid_t])) == {-1, 1}


def test_a_nan_among_the_numbers_is_named(tmp_path):
  config = _config(**{"env.task": "tests.envs.mixed_gymnasium:make_nan"})
  with pytest.raises((RunError, UserError)) as caught:
    train(config, run_dir=tmp_path / "run")
  assert "make_nan', lane 0: expected finite numbers in obs_t" in str(
    caught.value
  )


@pytest.mark.slow
def test_a_run_learns_from_both(tmp_path):
  """Chance is 5; one part alone gives 7.5."""
  result = train(
    _config(
      **{
        "run.total_steps": 10_000,
        "replay.replay_ratio": 4.0,
        "agent.discount": 0.5,
        "run.lockstep": True,
      }
    ),
    run_dir=tmp_path / "run",
  )
  assert result.evaluation.returns.mean() > 8.2
  agent = load_agent(tmp_path / "run")
  exported = exported_again(agent, tmp_path / "out")
  assert exported.spec == agent.spec
  image = np.zeros((2, 36, 36), np.uint8)
  image[0, :, :18] = image[1, :, 18:] = 255
  sign = np.array([[1], [1]], np.float32)
  state = exported.initial_state(2)
  for obs in ((image, sign), (image, -sign)):
    _, q, _ = exported.step(state, obs, 0.0, True)
    np.testing.assert_array_equal(q, agent.step(state, obs, 0.0, True)[1])
  for bad, message in (
    (image, "expected a tuple of 2 arrays, .* got ndarray"),
    ((image, sign[:, 0]), r"expected float32 \[2, 1\], .*got float32 \[2\]"),
  ):
    with pytest.raises(ValueError, match=f"obs: {message}"):
      exported.step(state, bad, 0.0, True)
  moments = play_game(
    agent.params, agent=agent.agent, config=agent.config, seed=0
  )
  assert next(moments).obs.shape == (36, 36)
  moments.close()
