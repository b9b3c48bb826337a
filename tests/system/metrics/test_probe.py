"""dQ in a running training, on the items of a few lanes."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.acting import init_actor_state, make_actor
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.envs.make import make_world
from r2d2_jax.presets import smoke
from r2d2_jax.system.metrics.probe import Probe
from tests.agents import agent_of


def parts(start_state="stored", num_envs=16):
  config = smoke()
  config = config.updated(
    {
      "agent.trace_length": 4,
      "agent.overlap": 2,
      "agent.start_state": start_state,
      "replay.capacity_sequences": 32,
      "env.num_envs": num_envs,
    }
  )
  world = make_world(config.env, seed=0)
  networks = make_networks(world.spec, config=config.network)
  core_state = jax.device_get(networks.initial_core_state(1))
  probe = Probe(
    config, world.spec, core_state, agent=agent_of(networks, config)
  )
  return config, world, networks, probe


def play(world, networks, probe, params, num_steps):
  actor = make_actor(networks=networks)
  state = init_actor_state(jax.random.key(1), world.num_envs, networks=networks)
  epsilon = np.full(world.num_envs, 0.3, np.float32)
  world.reset()
  for _ in range(num_steps):
    timestep = world.recv()
    state, output = actor(params, state, timestep, epsilon)
    output = jax.device_get(output)
    probe.add(timestep, output)
    world.send(output.a_t, timestep.env_id)


def test_nothing_is_known_before_the_first_item():
  _, world, networks, probe = parts()
  params = networks.init(jax.random.key(0))
  assert np.isnan(list(probe.measure(params).values())).all()
  play(world, networks, probe, params, 3)
  assert np.isnan(list(probe.measure(params).values())).all()


@pytest.mark.parametrize("num_envs", [1, 3, 16])
def test_fresh_states_agree_and_stale_ones_do_not(num_envs):
  _, world, networks, probe = parts(num_envs=num_envs)
  params = networks.init(jax.random.key(0))
  play(world, networks, probe, params, 60)
  fresh = probe.measure(params)
  assert fresh["dq_first"] < 1e-4 and fresh["dq_last"] < 1e-4
  # At the first row the learner starts from the very state that was stored.
  other = networks.init(jax.random.key(7))
  stale = probe.measure(other)
  assert stale["dq_first"] < 1e-4 and stale["dq_last"] > 1e-2


def test_from_a_zero_state_the_first_row_is_the_worst():
  _, world, networks, probe = parts(start_state="zero")
  params = networks.init(jax.random.key(0))
  play(world, networks, probe, params, 60)
  dq = probe.measure(params)
  assert dq["dq_first"] > 1e-2 and dq["dq_first"] > dq["dq_last"]


def test_rows_that_begin_an_episode_tell_nothing():
  config, world, networks, probe = parts()
  params = networks.init(jax.random.key(0))
  whole = config.updated({"agent.trace_length": 16, "agent.overlap": 8})
  core_state = jax.device_get(networks.initial_core_state(1))
  probe = Probe(whole, world.spec, core_state, agent=agent_of(networks, whole))
  play(world, networks, probe, params, 60)
  # Items of 16 rows hold whole episodes of recall.
  assert np.isnan(probe.measure(params)["dq_first"])


def test_what_it_keeps_survives_a_checkpoint(tmp_path):
  config, world, networks, probe = parts()
  params = networks.init(jax.random.key(0))
  play(world, networks, probe, params, 60)
  (tmp_path / "probe").mkdir()
  probe.save(tmp_path / "probe")
  restored = Probe(
    config,
    world.spec,
    jax.device_get(networks.initial_core_state(1)),
    agent=agent_of(networks, config),
    restore_from=tmp_path / "probe",
  )
  restored.load_state_dict(probe.state_dict())
  other = networks.init(jax.random.key(7))
  assert probe.measure(other) == restored.measure(other)
