"""The loss: what it adds up, and where no gradient may come from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.loss import burn_in, sequence_loss, start_state
from r2d2_jax.agent.priorities import sequence_priorities
from r2d2_jax.agent.targets import n_step_td_error
from tests.agent.small import (
  AGENT,
  ITEM_ROWS,
  NETWORKS,
  assert_trees_close,
  assert_trees_equal,
  pad,
  random_batch,
)

WEIGHTS = jnp.array([1.0, 0.5, 0.25, 0.125])
_INIT = jax.jit(NETWORKS.init)
PARAMS, TARGET_PARAMS = _INIT(jax.random.key(0)), _INIT(jax.random.key(1))


def _loss(config=AGENT):
  def loss(params, target_params, sequence, weights):
    return sequence_loss(
      params,
      target_params,
      sequence,
      weights,
      networks=NETWORKS,
      config=config,
    )

  return loss


LOSS_AND_GRAD = jax.jit(jax.value_and_grad(_loss(), has_aux=True))


def _run(batch, weights=WEIGHTS):
  """Loss, its parts and its gradient."""
  (loss, parts), grads = LOSS_AND_GRAD(
    PARAMS, TARGET_PARAMS, batch.sequence, weights
  )
  return loss, parts, grads


def _time_major(sequence):
  swap = lambda x: jnp.swapaxes(x, 0, 1)
  return jax.tree.map(
    swap, (sequence.inputs, sequence.a_t, sequence.discount_t, sequence.valid_t)
  )


# --- What it is ------------------------------------------------------------


def test_each_network_burns_in_and_unrolls_by_itself():
  """The loss, put together from its pieces."""
  sequence = random_batch(0).sequence
  inputs, a_t, discount_t, valid_t = _time_major(sequence)
  unroll = jax.jit(NETWORKS.unroll)
  # from the stored state over all rows, each with its own parameters
  q = unroll(PARAMS, inputs, sequence.core_state)[0][3:]
  target_q = unroll(TARGET_PARAMS, inputs, sequence.core_state)[0][3:]
  td_error, mask = n_step_td_error(
    q,
    target_q,
    a_t[3:],
    inputs.r_t[3:],
    discount_t[3:],
    valid_t[3:],
    config=AGENT,
  )
  loss, parts, _ = _run(random_batch(0))
  assert parts.td_error.shape == (5, 4) and parts.q.shape == (6, 4, 4)
  np.testing.assert_allclose(parts.td_error, td_error, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(parts.mask, mask)
  np.testing.assert_allclose(parts.q, q, rtol=0, atol=1e-5)
  squares = 0.5 * np.square(td_error)
  expected = sum(w * squares[:, b].sum() for b, w in enumerate(WEIGHTS)) / 4
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_jitted_and_unjitted_are_equal():
  sequence = random_batch(1).sequence
  loss, parts, _ = _run(random_batch(1))
  assert_trees_close(
    (loss, parts), _loss()(PARAMS, TARGET_PARAMS, sequence, WEIGHTS)
  )


def test_weights_scale_their_items():
  batch = random_batch(2)
  parts = [_run(batch, jnp.eye(4)[b]) for b in range(4)]
  loss, _, grads = _run(batch)
  np.testing.assert_allclose(
    loss, sum(w * p[0] for w, p in zip(WEIGHTS, parts, strict=True)), rtol=1e-5
  )
  assert_trees_close(
    grads,
    jax.tree.map(
      lambda *g: sum(w * x for w, x in zip(WEIGHTS, g, strict=True)),
      *(p[2] for p in parts),
    ),
  )


# --- Burn-in ---------------------------------------------------------------


def test_burn_in_of_no_rows_is_none():
  sequence = random_batch(3).sequence
  inputs, *_ = _time_major(sequence)
  no_rows = jax.tree.map(lambda x: x[:0], inputs)
  assert_trees_equal(
    burn_in(PARAMS, sequence.core_state, no_rows, networks=NETWORKS),
    sequence.core_state,
  )
  # burning in three rows, or starting three rows later from the state there
  state = jax.jit(
    lambda rows: burn_in(PARAMS, sequence.core_state, rows, networks=NETWORKS)
  )(jax.tree.map(lambda x: x[:3], inputs))
  later = jax.tree.map(lambda x: x[:, 3:], sequence._replace(core_state=()))
  without = dataclasses.replace(AGENT, burn_in=0)
  loss, parts = jax.jit(_loss(without))(
    PARAMS, PARAMS, later._replace(core_state=state), WEIGHTS
  )
  loss_2, parts_2 = jax.jit(_loss())(PARAMS, PARAMS, sequence, WEIGHTS)
  assert_trees_close((loss, parts), (loss_2, parts_2))


def _grads_of_inputs(config):
  """d loss / d (observations, rewards, stored state, target parameters)."""
  batch = random_batch(4)

  def loss(obs_t, r_t, core_state, target_params, params):
    s = batch.sequence
    s = s._replace(
      inputs=s.inputs._replace(obs_t=obs_t, r_t=r_t), core_state=core_state
    )
    return _loss(config)(params, target_params, s, WEIGHTS)[0]

  s = batch.sequence
  return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(
    s.inputs.obs_t, s.inputs.r_t, s.core_state, TARGET_PARAMS, PARAMS
  )


@pytest.mark.parametrize(
  "config",
  [
    AGENT,
    dataclasses.replace(AGENT, burn_in=0, trace_length=ITEM_ROWS),
  ],
  ids=["burn-in", "none"],
)
def test_no_gradient_to_burn_in_stored_state_and_target(config):
  obs_t, r_t, core_state, target_params, params = _grads_of_inputs(config)
  assert not np.any(obs_t[:, : config.burn_in])
  assert not np.any(r_t[:, : config.burn_in])
  for leaf in jax.tree.leaves((core_state, target_params)):
    assert not np.any(leaf)
  # the trained rows get one, up to the last but one
  trained = np.asarray(obs_t[:, config.burn_in : -1])
  assert (np.abs(trained).max(axis=-1) > 0).all()
  assert all(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_burn_in_reaches_the_values_all_the_same():
  """Exact zeros above must not come from a state that was thrown away."""
  batch = random_batch(5)
  loss, _, grads = _run(batch)
  inputs = jax.tree.map(np.copy, batch.sequence.inputs)
  inputs.obs_t[:, 1] += 1.0
  changed = batch._replace(sequence=batch.sequence._replace(inputs=inputs))
  loss_2, _, grads_2 = _run(changed)
  assert loss != loss_2
  # ... nor from a gradient that was lost: each row's own is there
  assert any(
    np.any(a != b)
    for a, b in zip(
      jax.tree.leaves(grads), jax.tree.leaves(grads_2), strict=True
    )
  )


def test_zero_start_empties_the_lstm_and_keeps_the_frames():
  config = dataclasses.replace(AGENT, start_state="zero")
  stored = random_batch(6).sequence.core_state
  zero = start_state(stored, config=config)
  assert_trees_equal(zero.frames, stored.frames)
  assert not any(np.any(x) for x in zero.carry)
  assert_trees_equal(start_state(stored, config=AGENT), stored)
  sequence = random_batch(6).sequence
  assert_trees_equal(
    jax.jit(_loss(config))(PARAMS, TARGET_PARAMS, sequence, WEIGHTS),
    jax.jit(_loss())(
      PARAMS, TARGET_PARAMS, sequence._replace(core_state=zero), WEIGHTS
    ),
  )


# --- Padding ---------------------------------------------------------------


@pytest.mark.parametrize("first_padding_row", [2, 4, 5, 8, ITEM_ROWS])
def test_padding_may_hold_anything(first_padding_row):
  """Not a bit of loss, gradient or priority depends on its content."""
  batch = random_batch(7)
  outputs = []
  for seed in (0, 1):
    loss, parts, grads = _run(pad(batch, first_padding_row, seed))
    priorities = sequence_priorities(parts.td_error, parts.mask, eta=0.9)
    outputs.append((loss, grads, parts.td_error, parts.mask, priorities))
  assert_trees_equal(*outputs)
  trained = max(first_padding_row - AGENT.burn_in - 1, 0)
  assert outputs[0][3].sum() == 4 * trained
  if not trained:
    assert outputs[0][0] == 0
    assert not any(np.any(g) for g in jax.tree.leaves(outputs[0][1]))


def test_padding_is_the_end_of_a_shorter_item():
  batch = random_batch(8)
  loss, parts, grads = _run(pad(batch, 6, 0))
  short = dataclasses.replace(AGENT, trace_length=3)
  sequence = jax.tree.map(
    lambda x: x[:, :6], batch.sequence._replace(core_state=())
  )._replace(core_state=batch.sequence.core_state)
  (loss_2, parts_2), grads_2 = jax.jit(
    jax.value_and_grad(_loss(short), has_aux=True)
  )(PARAMS, TARGET_PARAMS, sequence, WEIGHTS)
  assert_trees_close((loss, grads), (loss_2, grads_2))
  np.testing.assert_allclose(
    parts.td_error[:2], parts_2.td_error, rtol=0, atol=1e-5
  )
  assert_trees_close(
    sequence_priorities(parts.td_error, parts.mask, eta=0.5),
    sequence_priorities(parts_2.td_error, parts_2.mask, eta=0.5),
  )
