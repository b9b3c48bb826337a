"""The actor loop: what it stores is what was acted, however it is fetched."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.acting import exploration
from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.envs.make import make_world
from r2d2_jax.presets import smoke
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.system.loops import arrays
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.parameters import ParameterStore
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.types import ActorOutput, CoreState

_LANES, _CALLS = 6, 60


def _config(**settings):
  return smoke().updated(
    {
      "env.num_envs": _LANES,
      "network.frame_stack": 3,
      "network.core_units": 8,
      "agent.burn_in": 2,
      "agent.trace_length": 4,
      "agent.overlap": 2,
      **settings,
    }
  )


def _agent(config, world):
  agent = make_r2d2_agent(world.spec, config)
  return agent, agent.init(jax.random.key(3)).params


def _items_of_the_loop(config, *, calls=_CALLS, probe=False):
  """Items in the order of their insertion, and the loop."""
  world = make_world(config.env, seed=5)
  agent, params = _agent(config, world)
  items = []
  looks_on = None
  if probe:
    null = jax.device_get(agent.initial_core_state(1))
    looks_on = Probe(config, world.spec, null, agent=agent)
  loop = ActorLoop(
    config,
    world=world,
    agent=agent,
    parameters=ParameterStore(params, 7),
    insert=lambda new, priorities: items.extend(new),
    key=jax.random.key(1),
    probe=looks_on,
  )
  for _ in range(calls):
    loop.step()
  return items + loop._pending, loop


def _items_by_hand(config, *, calls=_CALLS):
  """The same, with everything fetched and stored at once."""
  world = make_world(config.env, seed=5)
  agent, params = _agent(config, world)
  builder = SequenceBuilder(
    world.num_envs,
    spec=world.spec,
    core_state=jax.device_get(agent.initial_core_state(1)),
    burn_in=config.agent.burn_in,
    trace_length=config.agent.trace_length,
    overlap=config.agent.overlap,
    row_states=config.replay.row_states,
  )
  epsilon = exploration(_LANES, config=config.agent)(0)
  state = agent.initial_actor_state(jax.random.key(1), _LANES)
  world.reset()
  items = []
  for _ in range(calls):
    timestep = world.recv()
    state, output = jax.jit(agent.actor_step)(params, state, timestep, epsilon)
    output = jax.device_get(output)
    world.send(output.a_t, timestep.env_id)
    items += builder.add(timestep, output, num_updates=7)
  return items


def _same(ours, theirs):
  assert len(ours) == len(theirs) > 20
  for mine, other in zip(ours, theirs, strict=True):
    for a, b in zip(
      jax.tree.leaves((mine.core_state, mine.blocks)),
      jax.tree.leaves((other.core_state, other.blocks)),
      strict=True,
    ):
      if not isinstance(a, int):  # a block's number
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row_states", [False, True])
@pytest.mark.parametrize("core", ["lstm", "gru", "feedforward"])
def test_items_have_the_states_of_their_first_rows(core, row_states):
  config = _config(**{"network.core": core, "replay.row_states": row_states})
  items, _ = _items_of_the_loop(config)
  _same(items, _items_by_hand(config))
  if core != "feedforward":
    carries = [np.ravel(jax.tree.leaves(i.core_state)[-1]) for i in items]
    assert sum(c.any() for c in carries) > 10


def test_lanes_that_take_turns_are_stored_a_step_later():
  config = _config(**{"env.batch_size": 2})
  items, loop = _items_of_the_loop(config, calls=3 * _CALLS + 1)
  _same(items, _items_by_hand(config, calls=3 * _CALLS))
  assert loop._held is not None


def test_the_probe_sees_every_state_of_its_lanes():
  config = _config()
  _, loop = _items_of_the_loop(config, probe=True)
  probe = loop._probe
  assert probe._num_items > 10
  sample = probe._memory.sample(8, timeout_seconds=0.0)
  carry = np.concatenate(
    [x.reshape(*x.shape[:2], -1) for x in jax.tree.leaves(sample.row_carry)], -1
  )
  inner = sample.sequence.valid_t & ~sample.sequence.inputs.is_first_t
  assert carry[inner].any(axis=-1).all()


def test_little_is_fetched(monkeypatch):
  """Of the recurrent state: the rows in which an item starts, and padding."""
  config = _config()
  fetched_bytes = []

  def device_get(tree):
    fetched_bytes.append(sum(x.nbytes for x in jax.tree.leaves(tree)))
    return original(tree)

  original = jax.device_get
  monkeypatch.setattr(arrays.jax, "device_get", device_get)
  _, loop = _items_of_the_loop(config)
  state = sum(x.nbytes for x in jax.tree.leaves(loop._state.core_state))
  # An item starts in every other row of the six.
  assert np.mean(fetched_bytes[-_CALLS:]) < 0.75 * state


@pytest.mark.parametrize("rows", [[], [4], [0, 2, 3], [0, 1, 2, 3, 4]])
def test_fetched_rows_are_those_asked_for_and_zeros(rows):
  frames = np.arange(1, 31, dtype=np.uint8).reshape(5, 2, 3)
  carry = (np.arange(1.0, 11.0).reshape(5, 2), np.full((5, 1), 3.0))
  output = ActorOutput(
    a_t=np.arange(5, dtype=np.int32),
    a_tm1=np.ones(5, np.int32),
    q_t=np.ones((5, 3), np.float32),
    core_state=CoreState(frames, carry),
  )
  got = arrays.fetched(jax.device_put(output), np.array(rows, np.int64))
  wanted = np.isin(np.arange(5), rows)
  for mine, theirs in zip(
    jax.tree.leaves(got.core_state),
    jax.tree.leaves(output.core_state),
    strict=True,
  ):
    assert isinstance(mine, np.ndarray) and mine.shape == theirs.shape
    np.testing.assert_array_equal(mine[wanted], theirs[wanted])
    assert not mine[~wanted].any()
  np.testing.assert_array_equal(got.a_t, output.a_t)
