"""Games with a short memory: evaluation's own if long enough; sums by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.horizon import horizon_bytes, play_with_horizon
from r2d2_jax.agent.diagnostics import (
  init_horizon_state,
  make_horizon_actor,
)
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.envs.recall import DELAYS, RecallWorld
from r2d2_jax.presets import smoke
from r2d2_jax.system.evaluation import evaluate
from r2d2_jax.types import CoreState
from tests.agents import agent_of
from tests.stamped import StampedWorld


def _config(core="lstm"):
  config = smoke()
  return config.updated(
    {
      "network.torso_channels": (8,),
      "network.core_units": 8,
      "network.head_units": 8,
      "network.core": core,
      "evaluation.epsilon": 0.2,
      "evaluation.num_lanes": 3,
    }
  )


def _agent(config):
  """Networks and parameters without biases of 0: every row leaves something."""
  networks = make_networks(RecallWorld(1, seed=0).spec, config=config.network)
  params = jax.jit(networks.init)(jax.random.key(0))
  return networks, jax.tree.map(lambda x: x + 0.1, params)


def _play(config, horizon, **kwargs):
  networks, params = _agent(config)
  return play_with_horizon(
    params,
    agent=agent_of(networks, config),
    config=config,
    horizon=horizon,
    num_episodes=7,
    seed=4,
    **kwargs,
  )


def test_a_memory_as_long_as_the_game_plays_evaluations_games():
  config = _config()
  networks, params = _agent(config)
  expected = evaluate(
    params,
    agent=agent_of(networks, config),
    config=config,
    num_episodes=7,
    seed=4,
  )
  assert len({e.episode_steps for e in expected.episodes}) > 2
  progress = []
  # An episode has at most this delay + 4 rows; the last decides nothing.
  for horizon in (None, DELAYS["recall"][1] + 2):
    games = _play(config, horizon, on_progress=progress.append)
    assert games.evaluation.episodes == expected.episodes
    assert games.rows == sum(e.episode_steps for e in expected.episodes)
    assert (games.max_q_gap, games.same_greedy) == (0.0, 1.0)
    assert games.max_q > 0
  assert progress == [1, 2, 3, 4, 5, 6, 7] * 2
  # ... which shorter ones don't
  assert _play(config, 2).max_q_gap > 1e-4


def test_without_recurrence_every_horizon_is_the_same():
  config = _config("feedforward")
  assert _play(config, 0) == _play(config, None)


def _summing_networks() -> Networks:
  """h_t = h_{t-1} + step, q_t = (h_t, 2.5)."""

  def step(params, inputs, core_state):
    del params
    frames, (h_tm1,) = core_state
    h = jnp.where(inputs.is_first_t[:, None], 0.0, h_tm1) + inputs.obs_t[:, 1:]
    q = jnp.concatenate([h, jnp.full_like(h, 2.5)], axis=-1)
    return q, CoreState(frames, (h,))

  def initial_core_state(batch_size):
    return CoreState(
      jnp.zeros((batch_size, 0, 2)), (jnp.zeros((batch_size, 1)),)
    )

  return Networks(None, initial_core_state, step, None, None)


@pytest.mark.parametrize(
  "horizon, gap, same",
  # Five decisions of lane 0, at steps 0..4. The whole memory's h is
  # 0, 1, 3, 6, 10, that of k = 1 is 0, 1, 3, 5, 7, that of k = 0 the step. The
  # largest values are 2.5, 2.5 and then h itself, or 2.5 for k = 0 at step 2,
  # where 2 < 2.5 changes the choice. Lane 1 decides twice, all alike.
  [(0, (0.5 + 3 + 6) / 7, 6 / 7), (1, (1 + 3) / 7, 1.0), (None, 0.0, 1.0)],
)
def test_by_hand(monkeypatch, horizon, gap, same):
  worlds = []

  def make_world(config, *, seed):
    del config, seed
    # Lane 1's second game, in between, is beyond its share.
    worlds.append(StampedWorld([[5], [2]], num_actions=2, frame_skip=4))
    return worlds[-1]

  config = _config()
  config = config.updated({"evaluation.epsilon": 0.0})
  games = play_with_horizon(
    {},
    agent=agent_of(_summing_networks(), config),
    config=config,
    horizon=horizon,
    make_world=make_world,
    num_episodes=2,
    seed=0,
  )
  assert games.rows == 7
  np.testing.assert_allclose(games.max_q_gap, gap, rtol=1e-6)
  np.testing.assert_allclose(games.same_greedy, same, rtol=1e-6)
  np.testing.assert_allclose(
    games.max_q, (2.5 + 2.5 + 3 + 6 + 10 + 2 * 2.5) / 7, rtol=1e-6
  )
  assert [e.episode_steps for e in games.evaluation.episodes] == [5, 2]
  # It acts on the short memory, not on the whole one.
  actions = [int(a_t[0]) for _, a_t in worlds[0].sent[:5]]
  assert actions == ([1, 1, 1, 0, 0] if horizon == 0 else [1, 1, 0, 0, 0])


@pytest.mark.parametrize("units, head_units", [(64, 64), (64, 16), (16, 256)])
def test_memory_is_foreseen(units, head_units):
  config = dataclasses.replace(
    _config().network, core_units=units, head_units=head_units
  )
  lanes, horizon = 4, 500
  world = RecallWorld(lanes, seed=0)
  networks = make_networks(world.spec, config=config)
  world.reset()
  compiled = (
    make_horizon_actor(horizon=horizon, networks=networks)
    .lower(
      jax.eval_shape(networks.init, jax.random.key(0)),
      init_horizon_state(
        jax.random.key(0), lanes, horizon=horizon, networks=networks
      ),
      world.recv(),
      np.zeros(lanes, np.float32),
    )
    .compile()
  )
  used = compiled.memory_analysis()
  used = used.temp_size_in_bytes + used.output_size_in_bytes
  foreseen = horizon_bytes(horizon, lanes=lanes, config=config)
  assert 0.9 * used < foreseen < 1.5 * used


def test_feed_forward_takes_none():
  config = _config("feedforward").network
  assert horizon_bytes(10**9, lanes=10, config=config) == 0
