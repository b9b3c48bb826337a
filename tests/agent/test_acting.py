"""Acting: whose state moves, whose dice are rolled, and the first priority."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.acting import (
  actor_step,
  epsilon_ladder,
  init_actor_state,
  initial_priorities,
  make_actor,
)
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Timestep
from tests.agent.small import (
  NETWORKS,
  assert_trees_close,
  assert_trees_equal,
  random_inputs,
)

N = 5
ACTOR = make_actor(networks=NETWORKS)
PARAMS = jax.jit(NETWORKS.init)(jax.random.key(0))


def _timestep(rng, lanes, first_probability=0.0):
  inputs = random_inputs(
    rng, (len(lanes),), first_probability=first_probability
  )
  return Timestep(
    obs_t=inputs.obs_t,
    r_t=inputs.r_t,
    discount_t=np.ones(len(lanes), np.float32),
    is_first_t=inputs.is_first_t,
    is_last_t=np.zeros(len(lanes), bool),
    env_id=np.array(lanes, np.int32),
  )


def _epsilon(value):
  return np.full(N, value, np.float32)


def _state(seed=0):
  return init_actor_state(jax.random.key(seed), N, networks=NETWORKS)


def _plain(state):
  """A host copy, keys as numbers."""
  return jax.tree.map(
    np.array, state._replace(key=jax.random.key_data(state.key))
  )


def test_epsilon_ladder_golden():
  # 0.4^(1 + 7 i / (N - 1)), i = 0 .. 7: the exponents are 1, 2, ... 8
  np.testing.assert_allclose(
    epsilon_ladder(8, base=0.4, alpha=7.0),
    [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536],
    rtol=1e-6,
  )
  ladder = epsilon_ladder(256, base=0.4, alpha=7.0)
  assert ladder.dtype == np.float32 and ladder.shape == (256,)
  np.testing.assert_allclose(ladder[[0, -1]], [0.4, 0.4**8], rtol=1e-6)
  assert (np.diff(ladder) < 0).all()
  np.testing.assert_allclose(epsilon_ladder(1, base=0.4, alpha=7.0), [0.4])


def test_lanes_that_did_not_step_are_untouched():
  rng = np.random.default_rng(0)
  state = _state()
  for _ in range(3):
    state, _ = ACTOR(PARAMS, state, _timestep(rng, range(N)), _epsilon(0.5))
  before = _plain(state)
  state, _ = ACTOR(PARAMS, state, _timestep(rng, [3, 1]), _epsilon(0.5))
  after = _plain(state)
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(a[[0, 2, 4]], b[[0, 2, 4]])
  for lane in (1, 3):
    assert np.any(
      before.core_state.carry[0][lane] != after.core_state.carry[0][lane]
    )
    assert np.any(before.key[lane] != after.key[lane])


def test_the_output_is_what_was_seen_and_done():
  """q of the state before the row, that state, the actions before and now."""
  rng = np.random.default_rng(1)
  state = _state()
  state, first = ACTOR(PARAMS, state, _timestep(rng, range(N)), _epsilon(0.5))
  before = _plain(state)
  timestep = _timestep(rng, [4, 0, 2])
  state, output = ACTOR(PARAMS, state, timestep, _epsilon(0.5))
  lanes = [4, 0, 2]
  np.testing.assert_array_equal(output.a_tm1, np.asarray(first.a_t)[lanes])
  assert_trees_equal(
    output.core_state, jax.tree.map(lambda x: x[lanes], before.core_state)
  )
  inputs = random_inputs(rng, (3,))._replace(
    obs_t=timestep.obs_t, a_tm1=output.a_tm1, r_t=timestep.r_t
  )
  q_t, core_state = jax.jit(NETWORKS.step)(PARAMS, inputs, output.core_state)
  assert_trees_close(output.q_t, q_t)
  after = _plain(state)
  assert_trees_close(
    core_state, jax.tree.map(lambda x: x[lanes], after.core_state)
  )
  np.testing.assert_array_equal(after.a_tm1[lanes], output.a_t)
  assert output.a_t.dtype == output.a_tm1.dtype == np.int32


def test_a_lane_rolls_its_own_dice_whatever_the_order():
  """All at once, in pairs or backwards: a lane's actions are its own."""

  def play(orders):
    rows = {lane: np.random.default_rng(lane) for lane in range(N)}
    actions = {lane: [] for lane in range(N)}
    state = _state()
    for lanes in orders:
      timesteps = [_timestep(rows[lane], [lane]) for lane in lanes]
      timestep = jax.tree.map(lambda *x: np.concatenate(x), *timesteps)
      state, output = ACTOR(PARAMS, state, timestep, _epsilon(0.7))
      for lane, a in zip(lanes, np.asarray(output.a_t), strict=True):
        actions[lane].append(int(a))
    return actions, _plain(state)

  together = play([range(N)] * 6)
  backwards = play([range(N)[::-1]] * 6)
  apart = play([[2, 0], [4, 1], [3, 0], [1, 2], [4, 3]] * 3)  # six times each
  assert together[0] == backwards[0] == apart[0]
  assert len({tuple(a) for a in together[0].values()}) == N
  for other in (backwards, apart):
    assert_trees_close(together[1], other[1])


def test_epsilon_zero_is_greedy_and_one_is_uniform():
  counts = np.zeros(4)
  rng = np.random.default_rng(2)
  state = _state()
  for _ in range(300):
    timestep = _timestep(rng, range(N))
    # lane 4 is greedy in the same calls: each lane has its own epsilon
    epsilon = np.array([1, 1, 1, 1, 0], np.float32)
    state, output = ACTOR(PARAMS, state, timestep, epsilon)
    counts += np.bincount(np.asarray(output.a_t)[:4], minlength=4)
    assert output.a_t[4] == np.argmax(output.q_t[4])
  # 300 draws expected of each, standard deviation 15
  assert np.abs(counts - 300).max() < 60
  assert counts.sum() == 1200


def test_epsilon_is_that_of_the_lane_not_of_the_place_in_the_batch():
  epsilon = np.array([0, 0, 0, 0, 1], np.float32)
  rng = np.random.default_rng(3)
  state = _state()
  random_actions = 0
  for _ in range(40):
    state, output = ACTOR(PARAMS, state, _timestep(rng, [4, 0]), epsilon)
    greedy = np.argmax(output.q_t, axis=-1)
    assert output.a_t[1] == greedy[1]
    random_actions += int(output.a_t[0] != greedy[0])
  assert random_actions > 15  # 30 expected


def test_jitted_and_unjitted_are_equal_and_compiled_once():
  rng = np.random.default_rng(4)
  timesteps = [_timestep(rng, range(N), 0.3) for _ in range(3)]
  actor = make_actor(networks=NETWORKS)
  state, slow_state = _state(), _state()
  for timestep in timesteps:
    state, output = actor(PARAMS, state, timestep, _epsilon(0.5))
    slow_state, slow_output = actor_step(
      PARAMS, slow_state, timestep, _epsilon(0.5), networks=NETWORKS
    )
    assert_trees_close(output, slow_output)
  assert_trees_close(_plain(state), _plain(slow_state))
  assert actor._cache_size() == 1


def test_an_episode_begins_alike_wherever_it_begins():
  """After any past, a first row gives the values of a fresh actor."""
  rng = np.random.default_rng(5)
  first = _timestep(rng, range(N))._replace(is_first_t=np.ones(N, bool))
  first = first._replace(r_t=np.zeros(N, np.float32))
  _, fresh = ACTOR(PARAMS, _state(), first, _epsilon(0.0))
  state = _state()
  for _ in range(4):
    state, _ = ACTOR(PARAMS, state, _timestep(rng, range(N)), _epsilon(0.5))
  _, later = ACTOR(
    PARAMS,
    state,
    first._replace(r_t=np.full(N, 7.0, np.float32)),
    _epsilon(0.0),
  )
  assert_trees_equal(fresh.q_t, later.q_t)


# --- Initial priorities ----------------------------------------------------


def _priority(burn_in=0, **changes):
  """Of one item with four rows, q written out, gamma 0.5."""
  settings = dict(
    burn_in=burn_in,
    trace_length=4,
    n_step=1,
    discount=0.5,
    value_rescaling=False,
    priority_eta=0.9,
  )
  config = AgentConfig(**(settings | changes))
  q = [[1.0, 2.0], [4.0, 0.0], [0.0, 8.0], [3.0, 6.0]]
  return np.asarray(
    jax.jit(lambda *x: initial_priorities(*x, config=config))(
      jnp.array([q]),
      jnp.array([[0, 1, 0, 0]]),
      jnp.array([[9.0, 1.0, 2.0, 3.0]]),
      jnp.ones((1, 4)),
      jnp.ones((1, 4), bool),
    )
  )


def test_initial_priority_golden():
  """The bootstrap takes the greedy action's value, not the behaviour's."""
  # td = r + 0.5 max q' - q[a]
  td = [1 + 0.5 * 4 - 1.0, 2 + 0.5 * 8 - 0.0, 3 + 0.5 * 6 - 0.0]  # 2, 6, 6
  expected = 0.9 * max(td) + 0.1 * sum(td) / 3
  np.testing.assert_allclose(_priority(), [expected], rtol=1e-6)
  behaviour = [1 + 0.5 * 0 - 1.0, 2 + 0.5 * 0 - 0.0, 3 + 0.5 * 3 - 0.0]
  assert abs(expected - (0.9 * 4.5 + 0.1 * sum(behaviour) / 3)) > 1
  # n = 2, greedy only where it bootstraps
  td = [1 + 0.5 * 2 + 0.25 * 8 - 1.0, 2 + 0.5 * 3 + 0.25 * 6, 3 + 0.5 * 6]
  expected = 0.9 * 6 + 0.1 * sum(td) / 3
  np.testing.assert_allclose(_priority(n_step=2), [expected], rtol=1e-6)


def test_initial_priority_leaves_the_burn_in_out_and_the_exponent_to_replay():
  # rows 2 and 3 alone are trained: one transition, td = 6, and not 6^0.9
  np.testing.assert_allclose(
    _priority(burn_in=2, trace_length=2), [6.0], rtol=1e-6
  )


@pytest.mark.parametrize("n_step", [1, 3])
def test_initial_priority_ignores_padding(n_step):
  rng = np.random.default_rng(0)
  config = AgentConfig(burn_in=2, trace_length=6, n_step=n_step)
  compute = jax.jit(lambda *x: initial_priorities(*x, config=config))
  valid = np.arange(8) < np.array([[8], [6], [4], [3]])

  def rows(seed):
    noise = np.random.default_rng(seed)
    fill = lambda x, y: np.where(
      valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, y
    ).astype(x.dtype)
    return (
      fill(q, 100 * noise.normal(size=q.shape)),
      fill(a, noise.integers(3, size=a.shape)),
      fill(r, 100 * noise.normal(size=r.shape)),
      fill(discount, noise.integers(2, size=r.shape)),
      valid,
    )

  q = rng.normal(size=(4, 8, 3)).astype(np.float32)
  a = rng.integers(3, size=(4, 8)).astype(np.int32)
  r = rng.normal(size=(4, 8)).astype(np.float32)
  discount = np.ones((4, 8), np.float32)
  priorities = compute(*rows(1))
  assert_trees_equal(priorities, compute(*rows(2)))
  assert priorities[3] == 0 and (np.asarray(priorities)[:3] > 0).all()
