"""Action masks: an action that a row does not allow is taken nowhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.acting import (
  actor_step,
  init_actor_state,
  initial_priorities,
)
from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.agent.networks import MASKED_Q, make_networks
from r2d2_jax.agent.priorities import sequence_priorities
from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Timestep
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
  random_params,
)

MASKED_SPEC = SPEC._replace(action_mask=True)
MASKED = make_networks(MASKED_SPEC, config=network_config(frame_stack=2))
PARAMS = random_params(np.random.default_rng(0), MASKED)
A = SPEC.num_actions


def _batch(seed):
  """Items with masks, and the same without."""
  rng = np.random.default_rng(seed)
  batch = random_batch(seed)
  s = batch.sequence
  inputs = random_inputs(rng, s.a_t.shape, spec=MASKED_SPEC)
  # What was done was allowed.
  mask_t = inputs.action_mask_t
  np.put_along_axis(mask_t, s.a_t[..., None], True, axis=-1)
  masked = s._replace(inputs=s.inputs._replace(action_mask_t=mask_t))
  return batch._replace(sequence=masked), batch


def _timestep(lanes, mask_t, rng):
  inputs = random_inputs(rng, (lanes,))
  return Timestep(
    obs_t=inputs.obs_t,
    r_t=inputs.r_t,
    discount_t=np.ones(lanes, np.float32),
    is_first_t=np.zeros(lanes, bool),
    is_last_t=np.zeros(lanes, bool),
    env_id=np.arange(lanes, dtype=np.int32),
    action_mask_t=mask_t,
  )


@pytest.mark.parametrize("dueling", [True, False])
def test_values_are_those_without_a_mask_but_for_the_masked_ones(dueling):
  config = network_config(frame_stack=2, dueling=dueling)
  networks, masked = (
    make_networks(spec, config=config) for spec in (SPEC, MASKED_SPEC)
  )
  rng = np.random.default_rng(1)
  params = random_params(rng, masked)
  inputs = random_inputs(rng, (5, 3), spec=MASKED_SPEC)
  state = random_core_state(rng, masked, 3)
  found, after = jax.jit(masked.unroll)(params, inputs, state)
  q, expected = jax.jit(networks.unroll)(
    params, inputs._replace(action_mask_t=None), state
  )
  mask_t = inputs.action_mask_t
  np.testing.assert_allclose(found[mask_t], q[mask_t], rtol=1e-6)
  assert (found[~mask_t] == MASKED_Q).all() and (~mask_t).any()
  assert_trees_close(after, expected)


def test_no_gradient_through_what_is_masked():
  """Its bias, of a plain head, gets the gradient of allowed rows alone."""
  networks = make_networks(MASKED_SPEC, config=network_config(dueling=False))
  rng = np.random.default_rng(2)
  params = random_params(rng, networks)
  inputs = random_inputs(rng, (2, 3), spec=MASKED_SPEC)
  mask_t = np.ones((2, 3, A), bool)
  mask_t[..., 2] = False
  inputs = inputs._replace(action_mask_t=mask_t)
  state = networks.initial_core_state(3)
  grads = jax.jit(
    jax.grad(lambda p: networks.unroll(p, inputs, state)[0].sum())
  )(params)
  np.testing.assert_allclose(grads["params"]["q"]["bias"], [6, 6, 0, 6])


def test_the_greedy_action_is_allowed_though_another_value_is_the_largest():
  params = jax.tree.map(np.zeros_like, PARAMS)
  # Every row's values are then these, up to a number.
  params["params"]["advantage"]["bias"] = np.array([1, 2, 9, 3], np.float32)
  masks = np.array(
    [[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], bool
  )
  rng = np.random.default_rng(3)
  _, output = actor_step(
    params,
    init_actor_state(jax.random.key(0), 5, networks=MASKED),
    _timestep(5, masks, rng),
    np.zeros(5, np.float32),
    networks=MASKED,
  )
  np.testing.assert_array_equal(output.a_t, [2, 3, 1, 0, 2])


def test_random_actions_are_uniform_over_the_allowed_ones():
  masks = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 1]], bool)
  step = jax.jit(functools.partial(actor_step, networks=MASKED))
  state = init_actor_state(jax.random.key(1), 3, networks=MASKED)
  rng = np.random.default_rng(4)
  counts = np.zeros((3, A))
  for _ in range(600):
    state, output = step(
      PARAMS, state, _timestep(3, masks, rng), np.ones(3, np.float32)
    )
    counts[np.arange(3), output.a_t] += 1
  expected = 600 * masks / masks.sum(axis=1, keepdims=True)
  assert (counts[~masks] == 0).all()
  # Of a third of 600 the standard deviation is 11.5, of a half 12.2.
  assert np.abs(counts - expected).max() < 50


def test_where_all_is_allowed_nothing_is_another_action():
  """The same dice, the same actions."""
  step, plain_step = (
    jax.jit(functools.partial(actor_step, networks=networks))
    for networks in (MASKED, NETWORKS)
  )
  rng = np.random.default_rng(5)
  epsilon = np.full(7, 0.6, np.float32)
  state = init_actor_state(jax.random.key(2), 7, networks=MASKED)
  plain = init_actor_state(jax.random.key(2), 7, networks=NETWORKS)
  for _ in range(20):
    timestep = _timestep(7, np.ones((7, A), bool), rng)
    state, output = step(PARAMS, state, timestep, epsilon)
    plain, expected = plain_step(
      PARAMS, plain, timestep._replace(action_mask_t=None), epsilon
    )
    np.testing.assert_array_equal(output.a_t, expected.a_t)
    assert_trees_close(output, expected)


@pytest.mark.parametrize("double_q", [True, False])
def test_the_bootstrap_is_of_an_allowed_action(double_q):
  """n = 1, gamma 1/2, the second row allows actions 0 and 2 of three."""
  config = AgentConfig(
    n_step=1, discount=0.5, value_rescaling=False, double_q=double_q
  )
  q = jnp.array([[[1.0, 2.0, 3.0]], [[4.0, MASKED_Q, 1.0]]])
  target_q = jnp.array([[[0.0, 0.0, 0.0]], [[6.0, MASKED_Q, 7.0]]])
  td_error, mask = n_step_td_error(
    q,
    target_q,
    jnp.array([[1], [0]]),
    jnp.array([[9.0], [10.0]]),
    jnp.ones((2, 1)),
    jnp.ones((2, 1), bool),
    config=config,
  )
  # 10 + 6 / 2 - 2: the online network chooses action 0; by its own values the
  # target network would choose action 2, 10 + 7 / 2 - 2.
  np.testing.assert_allclose(td_error, [[11.0 if double_q else 11.5]])
  assert mask.all()


def test_the_loss_is_that_of_values_masked_by_hand():
  batch, plain = _batch(6)
  s = batch.sequence
  target_params = random_params(np.random.default_rng(7), MASKED)
  weights = jnp.ones(4)
  loss, parts = jax.jit(
    functools.partial(sequence_loss, networks=MASKED, config=AGENT)
  )(PARAMS, target_params, s, weights)
  inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), plain.sequence.inputs)
  mask_t = np.swapaxes(s.inputs.action_mask_t, 0, 1)
  unroll = jax.jit(NETWORKS.unroll)
  q, target_q = (
    np.where(mask_t, unroll(p, inputs, s.core_state)[0], -1e6)[AGENT.burn_in :]
    for p in (PARAMS, target_params)
  )
  rows = lambda x: np.swapaxes(x, 0, 1)[AGENT.burn_in :]
  td_error, mask = n_step_td_error(
    q,
    target_q,
    *map(rows, (s.a_t, s.inputs.r_t, s.discount_t, s.valid_t)),
    config=AGENT,
  )
  np.testing.assert_allclose(parts.td_error, td_error, rtol=0, atol=1e-4)
  np.testing.assert_array_equal(parts.mask, mask)
  np.testing.assert_allclose(loss, 0.5 * (td_error**2).sum() / 4, rtol=1e-4)
  # and the masks matter in this batch
  other, _ = jax.jit(
    functools.partial(sequence_loss, networks=NETWORKS, config=AGENT)
  )(PARAMS, target_params, plain.sequence, weights)
  assert abs(other - loss) > 0.01 * loss


def test_initial_priorities_are_the_learners_of_the_same_parameters():
  """Of what the actor records: masked values, of the state that it stored."""
  batch, _ = _batch(8)
  s = batch.sequence
  _, parts = jax.jit(
    functools.partial(sequence_loss, networks=MASKED, config=AGENT)
  )(PARAMS, PARAMS, s, jnp.ones(4))
  expected = sequence_priorities(
    parts.td_error, parts.mask, eta=AGENT.priority_eta
  )
  inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), s.inputs)
  step, state, q_t = jax.jit(MASKED.step), s.core_state, []
  for t in range(ITEM_ROWS):
    q, state = step(PARAMS, jax.tree.map(lambda x, t=t: x[t], inputs), state)
    q_t.append(q)
  found = initial_priorities(
    jnp.stack(q_t, axis=1),
    s.a_t,
    s.inputs.r_t,
    s.discount_t,
    s.valid_t,
    config=AGENT,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_padding_of_zeros_gives_no_gradient_and_no_nan():
  """Stored padding allows nothing at all."""
  batch, _ = _batch(9)
  batch = pad(batch, 6, 10)
  s = batch.sequence
  mask_t = s.inputs.action_mask_t & s.valid_t[..., None]
  grad = jax.jit(
    jax.grad(
      functools.partial(sequence_loss, networks=MASKED, config=AGENT),
      has_aux=True,
    )
  )
  results = [
    grad(
      PARAMS,
      PARAMS,
      s._replace(inputs=s.inputs._replace(action_mask_t=mask)),
      jnp.ones(4),
    )
    for mask in (mask_t, mask_t | ~s.valid_t[..., None])
  ]
  assert_trees_equal(results[0][0], results[1][0])
  assert_trees_equal(results[0][1].td_error, results[1][1].td_error)
  for x in jax.tree.leaves(results[0][0]):
    assert np.isfinite(x).all()


def test_masks_that_do_not_fit_are_refused():
  rng = np.random.default_rng(11)
  inputs = random_inputs(rng, (3,), spec=MASKED_SPEC)
  plain = inputs._replace(action_mask_t=None)
  narrow = inputs._replace(action_mask_t=inputs.action_mask_t[:, :2])
  state = MASKED.initial_core_state(3)
  for networks, given, message in (
    (MASKED, plain, r"action_mask_t: expected \(3, 4\), as .*, got None"),
    (MASKED, narrow, r"expected \(3, 4\), as .*, got \(3, 2\)"),
    (NETWORKS, inputs, r"expected none, as .*, got \(3, 4\)"),
  ):
    with pytest.raises(ValueError, match=message):
      networks.step(PARAMS, given, state)
