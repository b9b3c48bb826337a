"""lstm_unroll against a plain scan, its resets, its dtypes."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.ops.lstm import lstm_unroll


def _plain(x_proj, w_h, state, is_first_t):
  """The recurrence as a textbook writes it, differentiated by jax."""

  def step(state, row):
    x, is_first = row
    c, h = (jnp.where(is_first[:, None], 0.0, s) for s in state)
    i, f, g, o = jnp.split(x + h @ w_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h

  state, outputs = lax.scan(step, state, (x_proj, is_first_t))
  return outputs, state


def _inputs(rows, batch, units, first_probability=0.3):
  r = np.random.RandomState(rows + batch + units)
  normal = lambda *shape: jnp.asarray(r.randn(*shape), jnp.float32)
  return (
    normal(rows, batch, 4 * units),
    normal(units, 4 * units) / np.sqrt(units),
    (normal(batch, units), normal(batch, units)),
    jnp.asarray(r.rand(rows, batch) < first_probability),
  )


def _close(actual, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(
      a, e, rtol=0, atol=tolerance * float(np.abs(e).max())
    ),
    actual,
    expected,
  )


def _gradients(unroll, x_proj, w_h, state, is_first_t):
  """Of a loss that weighs every output and both parts of the last state."""

  def loss(x_proj, w_h, state):
    outputs, last = unroll(x_proj, w_h, state, is_first_t)
    parts = jax.tree.leaves((outputs, last))
    return sum(
      jnp.sum(p * jnp.cos(jnp.arange(p.size).reshape(p.shape))) for p in parts
    )

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x_proj, w_h, state)


@pytest.mark.parametrize(
  "rows, batch, units", [(1, 1, 1), (2, 3, 5), (7, 4, 16), (20, 5, 33)]
)
def test_equals_the_plain_scan(rows, batch, units):
  inputs = _inputs(rows, batch, units)
  _close(lstm_unroll(*inputs), _plain(*inputs))
  _close(jax.jit(lstm_unroll)(*inputs), _plain(*inputs))
  _close(_gradients(lstm_unroll, *inputs), _gradients(_plain, *inputs))


def test_one_row_by_hand():
  z = np.array([0.1, 0.2, 0.3, 0.4]) + 0.5 * np.array([1.0, -1.0, 2.0, 0.5])
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  c = sigmoid(z[1]) * 0.7 + sigmoid(z[0]) * np.tanh(z[2])
  h = sigmoid(z[3]) * np.tanh(c)
  outputs, last = lstm_unroll(
    jnp.array([[[0.1, 0.2, 0.3, 0.4]]]),
    jnp.array([[1.0, -1.0, 2.0, 0.5]]),
    (jnp.array([[0.7]]), jnp.array([[0.5]])),
    jnp.zeros((1, 1), bool),
  )
  _close(
    (outputs, last),
    (np.array([[[h]]]), (np.array([[c]]), np.array([[h]]))),
    1e-6,
  )


def test_a_row_that_is_first_starts_from_zero():
  x_proj, w_h, state, _ = _inputs(6, 2, 4)
  is_first = np.zeros((6, 2), bool)
  is_first[3, 0] = True
  outputs, last = lstm_unroll(x_proj, w_h, state, jnp.asarray(is_first))
  alone, alone_last = lstm_unroll(
    x_proj[3:],
    w_h,
    jax.tree.map(jnp.zeros_like, state),
    jnp.zeros((3, 2), bool),
  )
  np.testing.assert_array_equal(outputs[3:, 0], alone[:, 0])
  for s, s_alone in zip(last, alone_last, strict=True):
    np.testing.assert_array_equal(s[0], s_alone[0])


def test_no_gradient_passes_a_reset():
  x_proj, w_h, state, _ = _inputs(6, 2, 4)
  is_first = np.zeros((6, 2), bool)
  is_first[3, 0] = True

  def loss(x_proj, state):
    outputs, _ = lstm_unroll(x_proj, w_h, state, jnp.asarray(is_first))
    return jnp.sum(outputs[3:])

  dx, dstate = jax.grad(loss, argnums=(0, 1))(x_proj, state)
  np.testing.assert_array_equal(dx[:3, 0], 0)
  assert (np.asarray(dx[:3, 1]) != 0).all()
  for d in dstate:
    np.testing.assert_array_equal(d[0], 0)
    assert (np.asarray(d[1]) != 0).all()

  # Nor to the weights: what came before the reset was infinite.
  huge = tuple(s.at[0].set(jnp.inf) for s in state)
  first = jnp.asarray(is_first).at[0, 0].set(True)
  dw_h = jax.grad(lambda w: jnp.sum(lstm_unroll(x_proj, w, huge, first)[0]))(
    w_h
  )
  assert np.isfinite(dw_h).all()


def test_unroll_is_its_parts_in_a_row():
  x_proj, w_h, state, is_first = _inputs(8, 3, 4)
  outputs, last = lstm_unroll(x_proj, w_h, state, is_first)
  head, middle = lstm_unroll(x_proj[:5], w_h, state, is_first[:5])
  tail, end = lstm_unroll(x_proj[5:], w_h, middle, is_first[5:])
  _close((jnp.concatenate([head, tail]), end), (outputs, last), 1e-6)


def test_same_numbers_every_time():
  inputs = _inputs(7, 4, 16)
  once, again = (_gradients(lstm_unroll, *inputs) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, once, again)


def test_bfloat16_arithmetic_keeps_a_float32_state():
  x_proj, w_h, state, is_first = _inputs(7, 4, 16)
  half = (x_proj.astype(jnp.bfloat16), w_h.astype(jnp.bfloat16))
  outputs, last = lstm_unroll(*half, state, is_first)
  assert {s.dtype for s in (outputs, *last)} == {jnp.dtype(jnp.float32)}
  _close((outputs, last), _plain(x_proj, w_h, state, is_first), 0.03)
  dx, dw_h, dstate = _gradients(lstm_unroll, *half, state, is_first)
  assert dx.dtype == dw_h.dtype == jnp.bfloat16
  assert dstate[0].dtype == jnp.float32
  _close(
    jax.tree.map(lambda a: a.astype(jnp.float32), (dx, dw_h, dstate)),
    _gradients(_plain, x_proj, w_h, state, is_first),
    0.05,
  )


def test_all_in_bfloat16():
  inputs = jax.tree.map(
    lambda a: a if a.dtype == bool else a.astype(jnp.bfloat16), _inputs(3, 2, 4)
  )
  outputs, last = lstm_unroll(*inputs)
  assert {s.dtype for s in (outputs, *last)} == {jnp.dtype(jnp.bfloat16)}


def test_shapes_that_do_not_fit():
  x_proj, w_h, state, is_first = _inputs(3, 2, 4)
  with pytest.raises(ValueError, match="expects x_proj"):
    lstm_unroll(x_proj, w_h.T, state, is_first)
  with pytest.raises(ValueError, match="expects x_proj"):
    lstm_unroll(x_proj, w_h, state, is_first.T)
