"""dQ and acting with a short memory, against slow and obvious references."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.acting import init_actor_state, make_actor
from r2d2_jax.agent.diagnostics import (
  compare_q,
  first_and_last_row,
  horizon_actor_step,
  init_horizon_state,
  make_horizon_actor,
  q_discrepancy,
)
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.types import (
  AgentInputs,
  CoreState,
  EnvSpec,
  Sequence,
  Timestep,
)
from tests.agent.small import (
  AGENT,
  ITEM_ROWS,
  NETWORKS,
  SPEC,
  assert_trees_close,
  assert_trees_equal,
  network_config,
  pad,
  random_batch,
  random_core_state,
  random_inputs,
)

ZERO_START = dataclasses.replace(AGENT, start_state="zero")
TRAINED_ROWS = np.arange(AGENT.burn_in, ITEM_ROWS)
STACK_1 = make_networks(SPEC, config=network_config(frame_stack=1))
STACK_3 = make_networks(SPEC, config=network_config(frame_stack=3))
FEEDFORWARD = make_networks(
  SPEC, config=network_config(core="feedforward", frame_stack=2)
)
IMAGES = EnvSpec((36, 36), np.dtype(np.uint8), 3, 1)
NATURE = make_networks(
  IMAGES,
  config=network_config(
    torso="nature", torso_channels=(4, 4, 4), torso_units=8, frame_stack=4
  ),
)


def _params(networks, seed=0):
  """Random ones, no biases of 0: every row leaves something in the LSTM."""
  params = jax.jit(networks.init)(jax.random.key(seed))
  return jax.tree.map(lambda x: x + 0.1, params)


def _accumulator(decay: float) -> Networks:
  """h_t = decay h_{t-1} + obs_t, q_t = (h_t, -h_t) + params: sums by hand."""

  def step(params, inputs, core_state):
    frames, (h_tm1,) = core_state
    h_tm1 = jnp.where(inputs.is_first_t[:, None], 0.0, h_tm1)
    h = decay * h_tm1 + inputs.obs_t
    q = jnp.concatenate([h, -h], axis=-1) + params
    return q, CoreState(frames, (h,))

  def unroll(params, inputs, core_state):
    q = []
    for t in range(inputs.is_first_t.shape[0]):
      row = jax.tree.map(lambda x, t=t: x[t], inputs)
      q_t, core_state = step(params, row, core_state)
      q.append(q_t)
    return jnp.stack(q), core_state

  def initial_core_state(batch_size):
    return CoreState(
      jnp.zeros((batch_size, 0, 1)), (jnp.zeros((batch_size, 1)),)
    )

  return Networks(None, initial_core_state, step, unroll, unroll)


def _accumulator_item(obs, stored) -> Sequence:
  """One item of the accumulator's world, which starts from `stored`."""
  shape = (1, len(obs))
  return Sequence(
    inputs=AgentInputs(
      obs_t=np.array(obs, np.float32)[None, :, None],
      a_tm1=np.zeros(shape, np.int32),
      r_t=np.zeros(shape, np.float32),
      is_first_t=np.zeros(shape, bool),
    ),
    a_t=np.zeros(shape, np.int32),
    discount_t=np.ones(shape, np.float32),
    valid_t=np.ones(shape, bool),
    core_state=CoreState(
      np.zeros((1, 0, 1), np.float32),
      (np.array([[stored]], np.float32),),
    ),
  )


# --- dQ ----------------------------------------------------------------------


def _walk(networks, params, inputs, core_state):
  """Row by row: q [B, L, A], and the state before each, leaves [B, L, ...]."""
  step = jax.jit(networks.step)
  q, states = [], []
  for t in range(inputs.is_first_t.shape[1]):
    states.append(core_state)
    row = jax.tree.map(lambda x, t=t: x[:, t], inputs)
    q_t, core_state = step(params, row, core_state)
    q.append(q_t)
  stack = lambda *x: np.stack(x, axis=1)
  return stack(*q), jax.tree.map(stack, *states)


def _slow_dq(networks, params, sequence, row_carry, config):
  """dQ of all rows: one state handed from row to row, the other looked up."""
  state = sequence.core_state
  if config.start_state == "zero":
    state = CoreState(state.frames, jax.tree.map(np.zeros_like, state.carry))
  q_hat, states = _walk(networks, params, sequence.inputs, state)
  step = jax.jit(networks.step)
  dq = np.zeros(q_hat.shape[:2])
  for t in range(q_hat.shape[1]):
    row = jax.tree.map(lambda x, t=t: x[:, t], sequence.inputs)
    frames = states.frames[:, t]
    lstm = jax.tree.map(lambda x, t=t: x[:, t], row_carry)
    q, _ = step(params, row, CoreState(frames, lstm))
    for b in range(len(q_hat)):
      largest = max(
        q_hat[b, j].max()
        for j in range(config.burn_in, q_hat.shape[1])
        if sequence.valid_t[b, j]
      )
      dq[b, t] = np.sqrt(((q_hat[b, t] - q[b]) ** 2).sum()) / abs(largest)
  return dq


def _jitted(networks, config):
  return jax.jit(
    lambda params, sequence, row_carry, rows: q_discrepancy(
      params, sequence, row_carry, rows, networks=networks, config=config
    )
  )


def _episodes(networks, spec=SPEC, rows=ITEM_ROWS):
  """Items in the middle of an episode, from its beginning, and across one."""
  rng = np.random.default_rng(0)
  shape = (4, rows)
  inputs = random_inputs(rng, shape, spec=spec)
  # the second begins in row 3, behind padding; the third has episodes in row 1
  # and row 5; the last begins with an episode
  for b, t in [(1, 3), (2, 1), (2, 5), (3, 0)]:
    inputs.is_first_t[b, t] = True
  valid_t = np.ones(shape, bool)
  valid_t[1, :3] = False
  valid_t[3, 7:] = False
  return Sequence(
    inputs=inputs,
    a_t=np.zeros(shape, np.int32),
    discount_t=np.ones(shape, np.float32),
    valid_t=valid_t,
    core_state=random_core_state(rng, networks, 4),
  )


@pytest.mark.parametrize(
  "networks, spec",
  [(STACK_1, SPEC), (STACK_3, SPEC), (NATURE, IMAGES)],
  ids=["stack-1", "stack-3", "images"],
)
def test_unchanged_parameters_have_no_discrepancy(networks, spec):
  """At every row, also the first ones, whose frames came with the item."""
  params = _params(networks)
  sequence = _episodes(networks, spec)
  _, states = _walk(networks, params, sequence.inputs, sequence.core_state)
  rows = np.arange(ITEM_ROWS)
  dq, mask = _jitted(networks, AGENT)(params, sequence, states.carry, rows)
  np.testing.assert_array_equal(mask, sequence.valid_t)
  np.testing.assert_allclose(dq, np.zeros((4, ITEM_ROWS)), rtol=0, atol=1e-5)
  # the zero start shows that this is no accident
  dq, _ = _jitted(
    networks, dataclasses.replace(ZERO_START, burn_in=0, trace_length=9)
  )(params, sequence, states.carry, rows)
  assert (dq[0] > 1e-4).all()
  # ... but not at, or after, the beginning of an episode
  assert dq[2, 0] > 1e-4 and np.abs(dq[2, 1:]).max() < 1e-5
  assert np.abs(dq[1, 3:]).max() < 1e-5 and np.abs(dq[3]).max() < 1e-5


@pytest.mark.parametrize("config", [AGENT, ZERO_START], ids=["stored", "zero"])
@pytest.mark.parametrize("networks", [NETWORKS, STACK_3])
def test_against_a_loop_of_single_steps(networks, config):
  """Parameters have moved on since the actor stored its states."""
  sequence = _episodes(networks)
  _, states = _walk(
    networks, _params(networks, 1), sequence.inputs, sequence.core_state
  )
  params = _params(networks, 2)
  expected = _slow_dq(networks, params, sequence, states.carry, config)
  assert (expected[:, TRAINED_ROWS] > 1e-3).sum() > 10
  dq, mask = _jitted(networks, config)(
    params, sequence, states.carry, TRAINED_ROWS
  )
  valid = sequence.valid_t[:, TRAINED_ROWS]
  np.testing.assert_array_equal(mask, valid)
  np.testing.assert_allclose(
    dq, np.where(valid, expected[:, TRAINED_ROWS], 0), rtol=1e-4, atol=1e-5
  )
  # any rows, other ones for each item, in any order
  rows = np.array([[8, 3], [4, 4], [3, 5], [6, 8]])
  dq, mask = _jitted(networks, config)(params, sequence, states.carry, rows)
  taken = np.take_along_axis(expected, rows, axis=1)
  taken[3, 1] = 0  # padding
  np.testing.assert_allclose(dq, taken, rtol=1e-4, atol=1e-5)
  assert mask.sum() == 7 and not mask[3, 1]


def test_zero_start_by_hand():
  # stored 16, h_t = h_{t-1} / 2 + obs_t: the true h is 9, 6.5, 4.25 and the
  # one from zero 1, 2.5, 2.25; q = (h, -h) differ by sqrt(2) (8, 4, 2), and
  # the largest q_hat is 2.5
  sequence = _accumulator_item([1, 2, 1], 16.0)
  row_carry = (np.array([[[16.0], [9.0], [6.5]]], np.float32),)
  networks = _accumulator(0.5)

  def dq(rows, offset=0.0, **settings):
    dq, mask = q_discrepancy(
      offset,
      sequence,
      row_carry,
      np.array(rows),
      networks=networks,
      config=dataclasses.replace(AGENT, **settings),
    )
    assert mask.all()
    return dq

  zero = {"burn_in": 0, "trace_length": 3, "start_state": "zero"}
  np.testing.assert_allclose(
    dq([0, 1, 2], **zero), np.sqrt(2) * np.array([[8, 4, 2]]) / 2.5, rtol=1e-6
  )
  # values all below 0: the largest is 2.5 - 10
  np.testing.assert_allclose(
    dq([0], offset=-10.0, **zero), [[np.sqrt(2) * 8 / 7.5]], rtol=1e-6
  )
  # burn-in of one row, with the largest still in the trace; then of two rows
  for burn_in, largest in [(1, 2.5), (2, 2.25)]:
    np.testing.assert_allclose(
      dq([2], burn_in=burn_in, trace_length=3 - burn_in, start_state="zero"),
      [[np.sqrt(2) * 2 / largest]],
      rtol=1e-6,
    )
  np.testing.assert_array_equal(
    dq([0, 1, 2], burn_in=0, trace_length=3), [[0, 0, 0]]
  )


def test_the_maximum_is_that_of_each_items_own_valid_values():
  # q_hat = (h, -h) = (1, -1) in row 0, (0, 0) after it: largest 1; the second
  # item has (-1, 1) and a padding row of 100 that must not count
  one = _accumulator_item([1, 0], 0.0)
  two = _accumulator_item([-1, 100], 0.0)
  two.valid_t[0, 1] = False
  sequence = jax.tree.map(lambda *x: np.concatenate(x), one, two)
  row_carry = (np.full((2, 2, 1), 3.0, np.float32),)
  config = dataclasses.replace(AGENT, burn_in=0, trace_length=2)
  dq, mask = q_discrepancy(
    0.0,
    sequence,
    row_carry,
    np.arange(2),
    networks=_accumulator(1.0),
    config=config,
  )
  # h_hat is (1, 1) and (-1, .), h is 3 + obs = (4, 3) and (2, .)
  np.testing.assert_allclose(
    dq, np.sqrt(2) * np.array([[3, 2], [3, 0]]), rtol=1e-6
  )
  np.testing.assert_array_equal(mask, [[True, True], [True, False]])
  # all values 0: a thousandth is divided by
  dq, _ = q_discrepancy(
    0.0,
    _accumulator_item([0, 0], 0.0),
    (np.full((1, 2, 1), 3.0, np.float32),),
    np.arange(1),
    networks=_accumulator(1.0),
    config=config,
  )
  np.testing.assert_allclose(dq, [[np.sqrt(2) * 3000]], rtol=1e-6)


def test_feed_forward_has_exactly_none():
  """Without asking a network, so that nothing can be rounded."""
  sequence = random_batch(0, networks=FEEDFORWARD).sequence
  silent = dataclasses.replace(
    FEEDFORWARD, step=None, unroll=None, unroll_without_gradient=None
  )
  for row_carry in ((), None):  # with replay.row_states and without
    dq, mask = _jitted(silent, ZERO_START)(
      None, sequence, row_carry, TRAINED_ROWS
    )
    assert dq.shape == (4, 6) and not dq.any() and mask.all()


def test_states_that_are_missing_are_not_states_that_agree():
  """An ordinary replay keeps none: zeros would say that nothing is stale."""
  sequence = random_batch(0).sequence
  rows = np.zeros((4, ITEM_ROWS, 5), np.float32)
  for row_carry, said in (
    (None, "got None; replay keeps it with replay.row_states"),
    ((), "got ()"),
    ((rows,), "expected the carry of this core"),
    ((rows, rows[..., :4]), "expected the carry of this core"),
    ((rows.swapaxes(0, 1),) * 2, "expected the carry of this core"),
  ):
    with pytest.raises(ValueError, match=f"row_carry: .*{re.escape(said)}"):
      _jitted(NETWORKS, AGENT)(None, sequence, row_carry, TRAINED_ROWS)
  without = sequence._replace(core_state=sequence.core_state._replace(carry=()))
  with pytest.raises(
    ValueError, match="core_state.carry: expected the carry of this core"
  ):
    _jitted(NETWORKS, AGENT)(
      _params(NETWORKS), without, (rows, rows), TRAINED_ROWS
    )


def test_padding_may_hold_anything():
  row_carry = random_core_state(
    np.random.default_rng(1), NETWORKS, 4 * ITEM_ROWS
  ).carry
  row_carry = jax.tree.map(lambda x: x.reshape(4, ITEM_ROWS, -1), row_carry)
  results = []
  for seed in (0, 1):
    sequence = pad(random_batch(2), 6, seed).sequence
    results.append(
      _jitted(NETWORKS, AGENT)(
        _params(NETWORKS), sequence, row_carry, TRAINED_ROWS
      )
    )
  assert_trees_equal(*results)
  assert not np.any(results[0][0][:, 3:]) and np.all(results[0][0][:, :3] > 0)


def test_first_and_last_row():
  valid_t = np.ones((5, ITEM_ROWS), bool)
  valid_t[1, :3] = False
  valid_t[2, 6:] = False
  valid_t[3, 4:] = False
  valid_t[4, 3:] = False  # no trained row at all
  rows = first_and_last_row(valid_t, config=AGENT)
  assert rows.dtype == np.int32
  np.testing.assert_array_equal(rows, [[3, 8], [3, 8], [3, 5], [3, 3], [3, 3]])
  assert not np.take_along_axis(valid_t, np.asarray(rows), axis=1)[4].any()


# --- Acting with a short memory ----------------------------------------------

N = 3
EPSILON = np.full(N, 0.3, np.float32)


def _rows(spec, num_rows, *, first=(0,)):
  """Timesteps of all lanes; lane b begins episodes in rows first[i] + b."""
  rng = np.random.default_rng(5)
  for t in range(num_rows):
    inputs = random_inputs(rng, (N,), spec=spec)
    yield Timestep(
      obs_t=inputs.obs_t,
      r_t=inputs.r_t,
      discount_t=np.ones(N, np.float32),
      is_first_t=np.array([t == 0 or t - b in first for b in range(N)]),
      is_last_t=np.zeros(N, bool),
      env_id=np.arange(N, dtype=np.int32),
    )


def _play(networks, params, horizon, timesteps):
  """Outputs [T, ...] of the horizon's actor."""
  actor = make_horizon_actor(horizon=horizon, networks=networks)
  state = init_horizon_state(
    jax.random.key(3), N, horizon=horizon, networks=networks
  )
  outputs = []
  for timestep in timesteps:
    state, output = actor(params, state, timestep, EPSILON)
    outputs.append(output)
  return jax.tree.map(lambda *x: np.stack(x), *outputs)


def _slow_q(networks, params, timesteps, a_t, horizon):
  """Every row unrolled anew from a zero LSTM, `horizon` rows before it."""
  step = jax.jit(networks.step)
  a_tm1 = np.concatenate([np.zeros((1, N), np.int32), a_t[:-1]])
  inputs = [
    AgentInputs(x.obs_t, a, x.r_t, x.is_first_t)
    for x, a in zip(timesteps, a_tm1, strict=True)
  ]
  state, frames = networks.initial_core_state(N), []
  for row in inputs:  # the frames before each row, from the whole history
    frames.append(state.frames)
    _, state = step(params, row, state)
  q = []
  for t in range(len(inputs)):
    start = max(0, t - horizon)
    state = networks.initial_core_state(N)._replace(frames=frames[start])
    for row in inputs[start : t + 1]:
      q_t, state = step(params, row, state)
    q.append(q_t)
  return np.stack(q)


@pytest.mark.parametrize("horizon", [0, 1, 4])
@pytest.mark.parametrize(
  "networks, spec",
  [(STACK_3, SPEC), (NATURE, IMAGES)],
  ids=["numbers", "images"],
)
def test_the_last_k_rows_unrolled_from_zero(networks, spec, horizon):
  params = _params(networks)
  timesteps = list(_rows(spec, 12, first=(6,)))
  output = _play(networks, params, horizon, timesteps)
  expected = _slow_q(networks, params, timesteps, output.a_t, horizon)
  np.testing.assert_allclose(output.q_t, expected, rtol=0, atol=1e-5)
  full = _slow_q(networks, params, timesteps, output.a_t, 100)
  np.testing.assert_allclose(output.q_full, full, rtol=0, atol=1e-5)
  # lane b begins anew in row 6 + b: the first k + 1 rows know all there is, the
  # next does not
  gap = np.abs(output.q_t - output.q_full).max(axis=-1)
  for b in range(N):
    for start in (0, 6 + b):
      end = start + horizon + 1
      assert gap[start:end, b].max() < 1e-5
      if end < 12:
        assert gap[end, b] > 1e-5


def test_a_horizon_beyond_the_episode_is_ordinary_acting():
  params = _params(NETWORKS)
  timesteps = list(_rows(SPEC, 10))
  output = _play(NETWORKS, params, 9, timesteps)
  actor = make_actor(networks=NETWORKS)
  state = init_actor_state(jax.random.key(3), N, networks=NETWORKS)
  for t, timestep in enumerate(timesteps):
    state, expected = actor(params, state, timestep, EPSILON)
    np.testing.assert_array_equal(output.a_t[t], expected.a_t)
    np.testing.assert_allclose(output.q_t[t], expected.q_t, rtol=0, atol=1e-5)
    # two entries of one batched step, whose sums may be in another order
    np.testing.assert_allclose(
      output.q_t[t], output.q_full[t], rtol=0, atol=1e-6
    )
  # random actions are among them: the dice are the same too
  assert (output.a_t != output.q_t.argmax(axis=-1)).any()


def test_it_acts_on_the_short_memory():
  # h_t sums the observations since k rows ago: 5, then -1 in each row. With all
  # of it in mind h stays above 0 and q = (h, -h) says 0; with k = 1 it says 1
  # from row 2 on.
  networks = _accumulator(1.0)
  state = init_horizon_state(jax.random.key(0), 1, horizon=1, networks=networks)
  q_t, q_full, a_t = [], [], []
  for t, obs in enumerate([5.0, -1.0, -1.0, -1.0]):
    state, output = horizon_actor_step(
      0.0,
      state,
      Timestep(
        obs_t=np.array([[obs]], np.float32),
        r_t=np.zeros(1, np.float32),
        discount_t=np.ones(1, np.float32),
        is_first_t=np.array([t == 0]),
        is_last_t=np.zeros(1, bool),
        env_id=np.zeros(1, np.int32),
      ),
      np.zeros(1, np.float32),
      horizon=1,
      networks=networks,
    )
    q_t.append(float(output.q_t[0, 0]))
    q_full.append(float(output.q_full[0, 0]))
    a_t.append(int(output.a_t[0]))
  assert q_t == [5.0, 4.0, -2.0, -2.0]
  assert q_full == [5.0, 4.0, 3.0, 2.0]
  assert a_t == [0, 0, 1, 1]


def test_lanes_that_did_not_step_are_untouched():
  params = _params(NETWORKS)
  actor = make_horizon_actor(horizon=2, networks=NETWORKS)
  state = init_horizon_state(jax.random.key(1), N, horizon=2, networks=NETWORKS)
  first, second = _rows(SPEC, 2)
  state, _ = actor(params, state, first, EPSILON)
  before = jax.tree.map(np.array, state.core_state)
  some = jax.tree.map(lambda x: x[[2, 0]], second)
  state, output = actor(params, state, some, EPSILON)
  after = state.core_state
  assert output.a_t.shape == (2,)
  assert_trees_equal(
    *(jax.tree.map(lambda x: x[1], s) for s in (before, after))
  )
  for lane in (0, 2):
    assert np.any(before.carry[1][lane] != after.carry[1][lane])


def test_without_recurrence_nothing_is_forgotten():
  params = _params(FEEDFORWARD)
  timesteps = list(_rows(SPEC, 4))
  output = _play(FEEDFORWARD, params, 1, timesteps)
  np.testing.assert_array_equal(output.q_t, output.q_full)
  expected = _slow_q(FEEDFORWARD, params, timesteps, output.a_t, 3)
  assert_trees_close(output.q_t, expected)


def test_the_torso_runs_once_whatever_the_horizon():
  def flops(horizon):
    state = init_horizon_state(
      jax.random.key(0), N, horizon=horizon, networks=NATURE
    )
    actor = make_horizon_actor(horizon=horizon, networks=NATURE)
    lowered = actor.lower(_params(NATURE), state, *_rows(IMAGES, 1), EPSILON)
    return lowered.cost_analysis()["flops"]

  assert flops(80) < 1.5 * flops(0)


def test_a_negative_horizon_is_refused():
  with pytest.raises(ValueError, match="at least 0 rows, got -1"):
    init_horizon_state(jax.random.key(0), N, horizon=-1, networks=NETWORKS)


def test_compare_q():
  q_full = np.array([[1.0, 3.0], [-2.0, -1.0], [2.0, 2.0]], np.float32)
  q_horizon = np.array([[2.5, 2.0], [-4.0, -3.0], [0.0, 1.0]], np.float32)
  max_q_gap, same_greedy = compare_q(q_full, q_horizon)
  np.testing.assert_allclose(max_q_gap, [0.5, 2.0, 1.0])
  np.testing.assert_array_equal(same_greedy, [False, True, False])
