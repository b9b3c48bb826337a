"""V-trace: equation 1 by a slow sum, its limits, its edges, its gradient."""

import dataclasses

import jax
import numpy as np
import pytest

from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.agent.vtrace import vtrace
from r2d2_jax.config import AgentConfig

GAMMA = 0.9
CONFIG = AgentConfig(
  algorithm="impala", burn_in=0, trace_length=7, overlap=1, discount=GAMMA,
  value_rescaling=False,
)  # fmt: skip


def _rows(seed, rows=7, items=5, *, off_policy=1.0):
  """value, log_rho, r, discount, valid of `rows` rows: everything counts."""
  rng = np.random.default_rng(seed)
  shape = (rows, items)
  return (
    rng.normal(size=shape).astype(np.float32),
    (off_policy * rng.normal(size=shape)).astype(np.float32),
    rng.normal(size=shape).astype(np.float32),
    (rng.random(shape) < 0.8).astype(np.float32),
    np.ones(shape, bool),
  )


def _changed(**settings):
  return dataclasses.replace(CONFIG, **settings)


def _slow(value, log_rho, r, discount, last, rho_bar, c_bar):
  """v_s of one item by equation 1 of the paper, every sum and product written
  out; `last` is its last valid row. Also rho_s (r + gamma v_{s+1} - V)."""
  rho = [min(rho_bar, np.exp(x)) for x in log_rho.astype(np.float64)]
  c = [min(c_bar, np.exp(x)) for x in log_rho.astype(np.float64)]
  gamma = [GAMMA * d for d in discount]  # of the step into each row
  v = [float(x) for x in value]  # v_last = V(x_last)
  for s in range(last):
    total = 0.0
    for t in range(s, last):
      factor = 1.0
      for i in range(s, t):
        factor *= gamma[i + 1] * c[i]
      delta = rho[t] * (r[t + 1] + gamma[t + 1] * value[t + 1] - value[t])
      total += factor * delta
    v[s] = value[s] + total
  advantage = [
    rho[s] * (r[s + 1] + gamma[s + 1] * v[s + 1] - value[s])
    for s in range(last)
  ]
  return np.array(v[:last]), np.array(advantage)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
  "rho_bar, c_bar", [(1.0, 1.0), (2.0, 0.5), (0.7, 1.3), (5.0, 5.0)]
)
def test_targets_are_the_papers_sum(rho_bar, c_bar, jit):
  rows = _rows(0)
  config = _changed(rho_bar=rho_bar, c_bar=c_bar)
  function = lambda *x: vtrace(*x, config=config)
  got = (jax.jit(function) if jit else function)(*rows)
  value, log_rho, r, discount, _ = rows
  assert (np.exp(log_rho) > rho_bar).any() and (np.exp(log_rho) < c_bar).any()
  for b in range(value.shape[1]):
    v, advantage = _slow(
      *(x[:, b] for x in (value, log_rho, r, discount)), 6, rho_bar, c_bar
    )
    np.testing.assert_allclose(
      got.td_error[:, b] + value[:-1, b], v, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
      got.advantage[:, b], advantage, rtol=1e-5, atol=1e-5
    )


def test_golden_values():
  """Two transitions: delta_1 = 0.5 (2 + 0.9 * 4 - 3), delta_0 with rho cut to
  1: 1 + 0.9 * 3 - 2, and v_0 - V_0 = delta_0 + 0.9 * 1 * delta_1."""
  got = vtrace(
    np.float32([[2], [3], [4]]),
    np.log(np.float32([[4], [0.5], [9]])),
    np.float32([[7], [1], [2]]),
    np.ones((3, 1), np.float32),
    np.ones((3, 1), bool),
    config=CONFIG,
  )
  np.testing.assert_allclose(
    got.td_error[:, 0], [1.7 + 0.9 * 1.3, 1.3], rtol=1e-6
  )
  # rho_0 (r_1 + 0.9 v_1 - V_0) with v_1 = 3 + 1.3; rho_1 (r_2 + 0.9 V_2 - V_1).
  np.testing.assert_allclose(
    got.advantage[:, 0], [1 + 0.9 * 4.3 - 2, 0.5 * (2 + 3.6 - 3)], rtol=1e-6
  )


def test_on_policy_it_is_the_n_step_return():
  """What R2D2's own targets give for n as long as the item, of q that is V
  whatever the action."""
  value, log_rho, r, discount, valid = _rows(1, off_policy=0.0)
  valid[4:, 2] = False
  got = vtrace(value, log_rho, r, discount, valid, config=CONFIG)
  q = np.repeat(value[..., None], 3, axis=-1)
  expected, mask = n_step_td_error(
    q, q, np.zeros(value.shape, np.int32), r, discount, valid,
    config=_changed(algorithm="r2d2", n_step=6),
  )  # fmt: skip
  np.testing.assert_array_equal(got.mask, mask)
  np.testing.assert_allclose(got.td_error, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(got.advantage, expected, rtol=1e-5, atol=1e-5)


def test_without_traces_it_is_the_one_step_return():
  rows = _rows(2)
  value, log_rho, r, discount, _ = rows
  got = vtrace(*rows, config=_changed(c_bar=0.0))
  delta = r[1:] + GAMMA * discount[1:] * value[1:] - value[:-1]
  rho = np.minimum(1.0, np.exp(log_rho[:-1]))
  np.testing.assert_allclose(got.td_error, rho * delta, rtol=1e-5, atol=1e-5)


def test_an_action_that_the_policy_never_takes_teaches_nothing():
  value, log_rho, r, discount, valid = _rows(3)
  log_rho[:] = -200.0  # exp of it is 0 in float32
  for c_bar in 0.0, 1.0:
    got = vtrace(
      value, log_rho, r, discount, valid, config=_changed(c_bar=c_bar)
    )
    np.testing.assert_array_equal(got.td_error, 0.0)
    np.testing.assert_array_equal(got.advantage, 0.0)


def test_ends_cut_and_padding_is_nothing():
  value, log_rho, r, discount, valid = _rows(4)
  discount[:] = 1.0
  discount[3, 0] = 0.0  # terminated
  valid[4:, :2] = False  # after row 3: an end, or a truncation
  got = vtrace(value, log_rho, r, discount, valid, config=CONFIG)
  for b in 0, 1:
    v, advantage = _slow(
      *(x[:, b] for x in (value, log_rho, r, discount)), 3, 1.0, 1.0
    )
    np.testing.assert_allclose(
      got.td_error[:3, b] + value[:3, b], v, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
      got.advantage[:3, b], advantage, rtol=1e-5, atol=1e-5
    )
  assert not got.mask[3:, :2].any()
  np.testing.assert_array_equal(got.td_error[3:, :2], 0.0)
  np.testing.assert_array_equal(got.advantage[3:, :2], 0.0)
  # What stands in the padding changes nothing.
  for x in value, log_rho, r, discount:
    x[4:, :2] = 1e3
  again = vtrace(value, log_rho, r, discount, valid, config=CONFIG)
  jax.tree.map(np.testing.assert_array_equal, got, again)


def test_the_gradient_flows_through_the_values_at_their_own_rows_alone():
  value, log_rho, r, discount, valid = _rows(5)
  valid[5:, 1] = False

  def outputs(value, log_rho):
    got = vtrace(value, log_rho, r, discount, valid, config=CONFIG)
    return got.td_error, got.advantage

  errors, advantages = jax.jit(jax.jacobian(outputs, argnums=(0, 1)))(
    value, log_rho
  )
  # d td_s / d V_s = -1 where it counts, nothing of the targets.
  expected = np.zeros((6, 5, 7, 5), np.float32)
  for s in range(6):
    for b in range(5):
      expected[s, b, s, b] = -1.0 if b != 1 or s < 4 else 0.0
  np.testing.assert_array_equal(errors[0], expected)
  for nothing in (errors[1], *advantages):
    np.testing.assert_array_equal(nothing, 0.0)


def test_rewards_are_cut():
  value, log_rho, r, discount, valid = _rows(6)
  got = vtrace(
    value, log_rho, 9 * r, discount, valid, config=_changed(reward_clip=1.0)
  )
  expected = vtrace(
    value, log_rho, np.clip(9 * r, -1, 1), discount, valid, config=CONFIG
  )
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_in_64_bit_mode_it_is_float32():
  jax.config.update("jax_enable_x64", True)
  try:
    got = jax.eval_shape(lambda *x: vtrace(*x, config=CONFIG), *_rows(7))
  finally:
    jax.config.update("jax_enable_x64", False)
  assert got.td_error.dtype == got.advantage.dtype == np.float32
