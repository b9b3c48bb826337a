"""A trained agent in other programs: the same actions as in evaluation."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.acting import compile_actor
from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.agent.targets import unrescaled
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.agents import SavedAgent

CONFIG = smoke().updated(
  {
    "network.torso_channels": (8,),
    "network.core_units": 8,
    "network.head_units": 8,
  }
)


@pytest.fixture(scope="module", name="saved")
def _saved():
  spec = RecallWorld(1, seed=0).spec
  agent = make_r2d2_agent(spec, CONFIG)
  params = agent.init(jax.random.key(0)).params
  return SavedAgent(CONFIG, spec, agent, params, num_updates=3, steps=30)


def test_it_acts_as_evaluation_does(saved):
  world = RecallWorld(3, seed=0)
  act = compile_actor(saved.agent.actor_step)
  actors = saved.agent.initial_actor_state(jax.random.key(7), 3)
  state, actions = saved.initial_state(3), []
  world.reset()
  for _ in range(30):
    row = world.recv()
    actors, output = act(saved.params, actors, row, np.zeros(3, np.float32))
    action, q, state = saved.step(state, row.obs_t, row.r_t, row.is_first_t)
    np.testing.assert_array_equal(action, output.a_t)
    np.testing.assert_allclose(
      q, unrescaled(output.q_t, config=CONFIG.agent), rtol=1e-5
    )
    np.testing.assert_array_equal(action, q.argmax(axis=-1))
    actions += action.tolist()
    world.send(action, row.env_id)
  assert len(set(actions)) > 1  # an agent that does one thing would pass always


def test_the_state_is_kept_and_an_episode_begins_without_memory(saved):
  fresh = saved.initial_state(1)
  cue, blank = np.eye(7, dtype=np.float32)[[[1], [3]]]
  _, _, after = saved.step(fresh, cue, 0.0, True)
  _, with_memory, _ = saved.step(after, blank, 0.0, False)
  # The given state is as it was: the same call gives the same.
  _, again, _ = saved.step(after, blank, 0.0, False)
  np.testing.assert_array_equal(with_memory, again)
  _, first, _ = saved.step(after, blank, 5.0, True)
  _, of_new, _ = saved.step(fresh, blank, 0.0, True)
  np.testing.assert_array_equal(first, of_new)
  assert np.abs(first - with_memory).max() > 1e-4


@pytest.mark.parametrize(
  "obs, got",
  [
    (np.zeros((2, 7), np.float32), r"float32 \[2, 7\]"),
    (np.zeros(7, np.float32), r"float32 \[7\]"),
    (np.zeros((1, 7), np.complex64), r"complex64 \[1, 7\]"),
  ],
)
def test_another_observation_is_refused(saved, obs, got):
  with pytest.raises(
    ValueError, match=rf"obs: expected float32 \[1, 7\].*{got}"
  ):
    saved.step(saved.initial_state(1), obs, 0.0, True)
