"""Targets: sums written out, edges one by one, a slow loop over all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent import _rlax
from r2d2_jax.agent.targets import n_step_td_error, rescale, rescale_inverse
from r2d2_jax.config import AgentConfig

EPSILON = 1e-3


def _config(n_step, **changes):
  settings = dict(n_step=n_step, discount=0.5, value_rescaling=False)
  return AgentConfig(**(settings | changes))


@functools.partial(jax.jit, static_argnames="config")
def _jitted(*args, config):
  return n_step_td_error(*args, config=config)


# --- Value rescaling -------------------------------------------------------


def _h64(x):
  """h in float64; sqrt(x + 1) - 1 in the form that loses no digits."""
  x = np.asarray(x, np.float64)
  m = np.abs(x)
  return np.sign(x) * m / (np.sqrt(m + 1) + 1) + EPSILON * x


def test_rescale_golden():
  # h(3) = sqrt(4) - 1 + 0.003, h(-8) = -(sqrt(9) - 1) - 0.008
  np.testing.assert_allclose(
    rescale(jnp.array([0.0, 3.0, -8.0]), epsilon=EPSILON),
    [0.0, 1.003, -2.008],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    rescale_inverse(jnp.array([0.0, 1.003, -2.008]), epsilon=EPSILON),
    [0.0, 3.0, -8.0],
    rtol=1e-6,
  )
  # epsilon 0: |y| (|y| + 2)
  np.testing.assert_allclose(
    rescale_inverse(jnp.array([1.0, -2.0]), epsilon=0.0), [3.0, -8.0]
  )


def test_rescale_agrees_with_float64():
  x = np.concatenate([np.linspace(-1, 1, 2001), np.geomspace(1, 1e6, 500)])
  x = np.concatenate([x, -x]).astype(np.float32)
  np.testing.assert_allclose(
    rescale(jnp.asarray(x), epsilon=EPSILON), _h64(x), rtol=1e-6, atol=1e-7
  )


def test_round_trip_is_exact_to_1e_6_near_zero():
  x = np.linspace(-1, 1, 20001).astype(np.float32)
  there = rescale(jnp.asarray(x), epsilon=EPSILON)
  back = np.asarray(rescale_inverse(there, epsilon=EPSILON))
  assert np.abs(back - x).max() <= 1e-6
  big = np.geomspace(1, 1e6, 2000).astype(np.float32)
  there = rescale(jnp.asarray(big), epsilon=EPSILON)
  back = rescale_inverse(there, epsilon=EPSILON)
  np.testing.assert_allclose(back, big, rtol=2e-6)


def test_the_inverse_is_exact_where_the_textbook_form_is_not():
  # The textbook form answers -1.2e-4 to +3e-5, in float32.
  y = np.concatenate([[1e-30, 1e-8], np.geomspace(1e-7, 2e3, 3000)])
  y = np.concatenate([y, -y]).astype(np.float32)
  x = np.asarray(rescale_inverse(jnp.asarray(y), epsilon=EPSILON))
  np.testing.assert_array_equal(np.sign(x), np.sign(y))
  np.testing.assert_allclose(_h64(x), y, rtol=1e-6)


# --- Golden values: gamma 0.5, one lane, two actions ------------------------

# In the state of row t the online network prefers action 1 - t % 2, and the
# target network gives it 10 t; to the other action it gives 1000.
ROWS = 6
R = [99.0, 1.0, 2.0, 4.0, 8.0, 16.0]  # R[0] belongs to the row before
A = [0, 1, 1, 0, 1, 0]


def _rows(discount=(1, 1, 1, 1, 1, 1), num_valid=ROWS, first_valid=0):
  t = np.arange(ROWS)
  best = 1 - t % 2
  q = np.where(np.arange(2) == best[:, None], 0.5, -0.25) * (1 + t[:, None])
  target_q = np.where(np.arange(2) == best[:, None], 10.0 * t[:, None], 1000.0)
  valid = (t >= first_valid) & (t < num_valid)
  rows = (q, target_q, A, R, discount)
  arrays = [jnp.asarray(x, jnp.float32)[:, None] for x in rows]
  arrays[2] = arrays[2].astype(jnp.int32)
  return *arrays, jnp.asarray(valid)[:, None]


# q of the actions taken; the favourites are 1, 0, 1, 0, 1, 0
Q_A = [-0.25, -0.5, 1.5, 2.0, 2.5, 3.0]


def _check(targets, rows, config):
  """`targets`: one per transition, None where it must not count."""
  td_error, mask = _jitted(*rows, config=config)
  expected = [
    0.0 if y is None else y - q for y, q in zip(targets, Q_A, strict=False)
  ]
  np.testing.assert_array_equal(mask[:, 0], [y is not None for y in targets])
  np.testing.assert_allclose(td_error[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("n, targets", [
    (1, [1 + .5 * 10, 2 + .5 * 20, 4 + .5 * 30, 8 + .5 * 40, 16 + .5 * 50]),
    (2, [1 + .5 * 2 + .25 * 20, 2 + .5 * 4 + .25 * 30, 4 + .5 * 8 + .25 * 40,
         8 + .5 * 16 + .25 * 50, 16 + .5 * 50]),
    (3, [1 + .5 * 2 + .25 * 4 + .125 * 30, 2 + .5 * 4 + .25 * 8 + .125 * 40,
         4 + .5 * 8 + .25 * 16 + .125 * 50, 8 + .5 * 16 + .25 * 50,
         16 + .5 * 50]),
    (5, [1 + .5 * 2 + .25 * 4 + .125 * 8 + .0625 * 16 + .03125 * 50,
         2 + .5 * 4 + .25 * 8 + .125 * 16 + .0625 * 50,
         4 + .5 * 8 + .25 * 16 + .125 * 50, 8 + .5 * 16 + .25 * 50,
         16 + .5 * 50]),
    (8, [1 + .5 * 2 + .25 * 4 + .125 * 8 + .0625 * 16 + .03125 * 50,
         2 + .5 * 4 + .25 * 8 + .125 * 16 + .0625 * 50,
         4 + .5 * 8 + .25 * 16 + .125 * 50, 8 + .5 * 16 + .25 * 50,
         16 + .5 * 50]),
])  # fmt: skip
def test_item_without_an_ending(n, targets):
  """The item's last row cuts the rewards and bootstraps, like a truncation."""
  _check(targets, _rows(), _config(n))


@pytest.mark.parametrize(
  "n, targets",
  [
    (1, [1 + 0.5 * 10, 2 + 0.5 * 20, 4, None, None]),
    (2, [1 + 0.5 * 2 + 0.25 * 20, 2 + 0.5 * 4, 4, None, None]),
    (3, [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4, None, None]),
    (5, [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4, None, None]),
  ],
)
def test_termination_in_row_3_cuts_rewards_and_bootstrap(n, targets):
  rows = _rows(discount=(1, 1, 1, 0, 1, 1), num_valid=4)
  _check(targets, rows, _config(n))


@pytest.mark.parametrize("n, targets", [
    (1, [1 + .5 * 10, 2 + .5 * 20, 4 + .5 * 30, None, None]),
    (2, [1 + .5 * 2 + .25 * 20, 2 + .5 * 4 + .25 * 30, 4 + .5 * 30, None,
         None]),
    (3, [1 + .5 * 2 + .25 * 4 + .125 * 30, 2 + .5 * 4 + .25 * 30, 4 + .5 * 30,
         None, None]),
    (5, [1 + .5 * 2 + .25 * 4 + .125 * 30, 2 + .5 * 4 + .25 * 30, 4 + .5 * 30,
         None, None]),
])  # fmt: skip
def test_truncation_in_row_3_cuts_rewards_and_bootstraps_for_every_n(
  n, targets
):
  _check(targets, _rows(num_valid=4), _config(n))
  # The padding is no terminal state, and its content means nothing.
  rows = _rows(discount=(1, 1, 1, 1, 0, 0), num_valid=4)
  _check(targets, rows, _config(n))


@pytest.mark.parametrize("n, targets", [
    (1, [1 + .5 * 10, 2 + .5 * 20, 4, 8 + .5 * 40, 16 + .5 * 50]),
    (3, [1 + .5 * 2 + .25 * 4, 2 + .5 * 4, 4, 8 + .5 * 16 + .25 * 50,
         16 + .5 * 50]),
])  # fmt: skip
def test_life_loss_that_rolls_on_cuts_and_the_next_row_starts_anew(n, targets):
  _check(targets, _rows(discount=(1, 1, 1, 0, 1, 1)), _config(n))


def test_padding_in_front_and_an_item_without_transitions():
  targets = [None, None, 4 + 0.5 * 8 + 0.25 * 40, 8 + 0.5 * 40, None]
  _check(targets, _rows(first_valid=2, num_valid=5), _config(2))
  _check([None] * 5, _rows(num_valid=1), _config(2))
  _check([None] * 5, _rows(num_valid=0), _config(2))


def test_gamma_enters_once_and_only_here():
  g = 0.9
  targets = [1 + g * 2 + g**2 * 20, 2 + g * 4 + g**2 * 30,
             4 + g * 8 + g**2 * 40, 8 + g * 16 + g**2 * 50,
             16 + g * 50]  # fmt: skip
  _check(targets, _rows(), _config(2, discount=g))
  targets = [1 + 2 + 20, 2 + 4 + 30, 4 + 8 + 40, 8 + 16 + 50, 16 + 50]
  _check(targets, _rows(), _config(2, discount=1.0))


def test_reward_clip():
  # of 1, 2, 4, 8, 16 with a clip of 3; the values are not clipped
  targets = [1 + .5 * 2 + .25 * 20, 2 + .5 * 3 + .25 * 30,
             3 + .5 * 3 + .25 * 40, 3 + .5 * 3 + .25 * 50,
             3 + .5 * 50]  # fmt: skip
  _check(targets, _rows(), _config(2, reward_clip=3.0))
  q, target_q, a, r, discount, valid = _rows()
  td_error, _ = _jitted(
    0 * q,
    0 * target_q,
    a,
    -r,
    0 * discount,
    valid,
    config=_config(2, reward_clip=3.0),
  )
  np.testing.assert_array_equal(td_error[:, 0], [-1, -2, -3, -3, -3])


def test_rescaling_golden():
  """y = h(sum of raw rewards + gamma^n h^-1(target)); values are rescaled."""

  def inverse64(y):  # by bisection: independent of any formula
    low, high = 0.0, 1e7
    for _ in range(200):
      middle = (low + high) / 2
      low, high = (middle, high) if _h64(middle) < y else (low, middle)
    return low

  v = [inverse64(10.0 * t) for t in range(ROWS)]
  assert 117 < v[1] < 118  # (10 + 1)^2 - 1 = 120, but for epsilon
  targets = [
    _h64(1 + 0.5 * 2 + 0.25 * v[2]),
    _h64(2 + 0.5 * 4 + 0.25 * v[3]),
    _h64(4 + 0.5 * 8 + 0.25 * v[4]),
    _h64(8 + 0.5 * 16 + 0.25 * v[5]),
    _h64(16 + 0.5 * v[5]),
  ]
  _check(targets, _rows(), _config(2, value_rescaling=True))
  # Terminal: h of the raw reward alone.
  targets[0], targets[1] = _h64(1 + 0.5 * 2), _h64(2)
  targets[2:] = [None] * 3
  rows = _rows(discount=(1, 1, 0, 1, 1, 1), num_valid=3)
  _check(targets, rows, _config(2, value_rescaling=True))


# --- Identities ------------------------------------------------------------


def _random_rows(seed, num_rows=9, batch_size=64, num_actions=3):
  """Terminations anywhere, valid rows anywhere but contiguous."""
  rng = np.random.default_rng(seed)
  shape = (num_rows, batch_size)
  first = rng.integers(0, 3, batch_size)
  last = rng.integers(3, num_rows + 1, batch_size)
  t = np.arange(num_rows)[:, None]
  return (
    rng.normal(size=(*shape, num_actions)).astype(np.float32),
    rng.normal(size=(*shape, num_actions)).astype(np.float32),
    rng.integers(num_actions, size=shape).astype(np.int32),
    rng.normal(size=shape).astype(np.float32),
    (rng.random(shape) < 0.8).astype(np.float32),
    (t >= first) & (t < last),
  )


def _slow_td_error(q, target_q, a, r, discount, valid, config):
  """Row by row and step by step, in float64."""
  num_rows, batch_size = a.shape
  out = np.zeros((num_rows - 1, batch_size))
  for b in range(batch_size):
    for t in range(num_rows - 1):
      if not (valid[t, b] and valid[t + 1, b]):
        continue
      y, weight, s = 0.0, 1.0, t
      for _ in range(config.n_step):
        if s + 1 >= num_rows or not valid[s + 1, b]:
          break
        s += 1
        y += weight * float(r[s, b])
        weight *= config.discount * float(discount[s, b])
      y += weight * float(target_q[s, b, np.argmax(q[s, b])])
      out[t, b] = y - q[t, b, a[t, b]]
  return out


@pytest.mark.parametrize("n", [1, 3, 20])
def test_against_a_slow_loop(n):
  rows = _random_rows(n)
  config = _config(n, discount=0.9)
  td_error, mask = _jitted(*rows, config=config)
  np.testing.assert_allclose(
    td_error, _slow_td_error(*rows, config), rtol=0, atol=1e-5
  )
  np.testing.assert_array_equal(mask, rows[-1][:-1] & rows[-1][1:])
  assert (np.asarray(td_error)[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("n", [1, 3, 20])
def test_without_padding_it_is_the_double_q_learning_of_rlax(n):
  q, target_q, a, r, discount, _ = _random_rows(0)
  td_error, _ = _jitted(
    q,
    target_q,
    a,
    r,
    discount,
    np.ones(a.shape, bool),
    config=_config(n, discount=0.9),
  )
  oracle = _rlax.load("nonlinear_bellman").transformed_n_step_q_learning
  expected = jax.jit(
    jax.vmap(functools.partial(oracle, n=n), in_axes=1, out_axes=1)
  )(q[:-1], a[:-1], target_q[1:], q[1:].argmax(-1), r[1:], 0.9 * discount[1:])
  np.testing.assert_allclose(td_error, expected, rtol=0, atol=1e-6)


def test_jitted_and_unjitted_are_equal():
  rows = _random_rows(3)
  config = _config(3, value_rescaling=True)
  td_error, mask = n_step_td_error(*rows, config=config)
  jitted_td_error, jitted_mask = _jitted(*rows, config=config)
  np.testing.assert_allclose(td_error, jitted_td_error, rtol=0, atol=1e-6)
  np.testing.assert_array_equal(mask, jitted_mask)


@pytest.mark.parametrize("value_rescaling", [False, True])
def test_the_gradient_flows_through_the_taken_actions_alone(value_rescaling):
  q, target_q, a, r, discount, valid = _random_rows(1)
  config = _config(3, value_rescaling=value_rescaling)

  @jax.jit
  def total(q, target_q, r, discount):
    td_error, _ = n_step_td_error(
      q, target_q, a, r, discount, valid, config=config
    )
    return td_error.sum()

  grads = jax.grad(total, argnums=(0, 1, 2, 3))(q, target_q, r, discount)
  counts = np.pad(valid[:-1] & valid[1:], ((0, 1), (0, 0)))
  expected = -np.eye(3)[a] * counts[..., None]
  np.testing.assert_array_equal(grads[0], expected)
  for g in grads[1:]:
    np.testing.assert_array_equal(g, np.zeros_like(g))


def test_wrong_shapes_are_refused():
  q, target_q, a, r, discount, valid = _random_rows(2)
  with pytest.raises(AssertionError):
    n_step_td_error(q, target_q, a[:-1], r, discount, valid, config=_config(1))
  with pytest.raises(AssertionError):
    n_step_td_error(
      q, target_q[..., :2], a, r, discount, valid, config=_config(1)
    )
