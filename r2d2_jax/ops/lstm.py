"""The recurrent core, unrolled, with its gradient written by hand.

Automatic differentiation of the scan would add one [D, 4D] product per row to
the gradient of `w_h`, row after row. Here the backward scan yields only the
gradients of the gates; that of `w_h` is then a single product over all T * B
rows. Same numbers up to rounding.
"""

import jax
from jax import lax
import jax.numpy as jnp

LSTMState = tuple[jax.Array, jax.Array]


def _reset(is_first: jax.Array, state: tuple[jax.Array, ...]):
  return tuple(jnp.where(is_first[..., None], 0, s) for s in state)


def _forward(x_proj, w_h, state, is_first_t):
  """The unroll, and what the backward pass needs of it."""
  dtype = jnp.result_type(*state)
  state = tuple(s.astype(dtype) for s in state)

  def step(state, row):
    x, is_first = row
    c_tm1, h_tm1 = _reset(is_first, state)
    z = x.astype(dtype) + jnp.dot(
      h_tm1.astype(w_h.dtype), w_h, preferred_element_type=dtype
    )
    i, f, g, o = jnp.split(z, 4, axis=-1)
    i, f, o = (jax.nn.sigmoid(gate) for gate in (i, f, o))
    g = jnp.tanh(g)
    c = f * c_tm1 + i * g
    h = o * jnp.tanh(c)
    return (c, h), (c, h, jnp.concatenate([i, f, g, o], axis=-1))

  last, (c_t, h_t, gates_t) = lax.scan(step, state, (x_proj, is_first_t))
  return (h_t, last), (x_proj, w_h, state, is_first_t, c_t, h_t, gates_t)


def _backward(residuals, cotangents):
  x_proj, w_h, state, is_first_t, c_t, h_t, gates_t = residuals
  dh_t, dlast = cotangents
  c_tm1, h_tm1 = _reset(
    is_first_t,
    tuple(
      jnp.concatenate([s[None], s_t[:-1]])
      for s, s_t in zip(state, (c_t, h_t), strict=True)
    ),
  )
  # Once, not in every row of the scan: the barrier keeps it outside.
  w_h_transposed = lax.optimization_barrier(w_h.T)

  def step(carry, row):
    dc, dh = carry
    dh_out, c, c_prev, gates, is_first = row
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    dh = dh + dh_out
    tanh_c = jnp.tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    dz = jnp.concatenate(
      [
        dc * g * i * (1 - i),
        dc * c_prev * f * (1 - f),
        dc * i * (1 - g**2),
        dh * tanh_c * o * (1 - o),
      ],
      axis=-1,
    )
    dh = jnp.dot(
      dz.astype(w_h.dtype), w_h_transposed, preferred_element_type=dz.dtype
    )
    return _reset(is_first, (dc * f, dh)), dz

  dstate, dz_t = lax.scan(
    step, dlast, (dh_t, c_t, c_tm1, gates_t, is_first_t), reverse=True
  )
  units, gates = w_h.shape
  dw_h = jnp.dot(
    h_tm1.reshape(-1, units).astype(w_h.dtype).T,
    dz_t.reshape(-1, gates).astype(w_h.dtype),
    preferred_element_type=dz_t.dtype,
  ).astype(w_h.dtype)
  return dz_t.astype(x_proj.dtype), dw_h, dstate, None


@jax.custom_vjp
def _unroll(x_proj, w_h, state, is_first_t):
  return _forward(x_proj, w_h, state, is_first_t)[0]


_unroll.defvjp(_forward, _backward)


def lstm_unroll(
  x_proj: jax.Array, w_h: jax.Array, state: LSTMState, is_first_t: jax.Array
) -> tuple[jax.Array, LSTMState]:
  """Unrolls an LSTM over T rows: gates in the order i, f, g, o.

      z_t = x_proj_t + h_{t-1} w_h                       = [i, f, g, o]
      c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
      h_t = sigmoid(o) tanh(c_t)

  with c_{t-1} = h_{t-1} = 0 where is_first_t, so that neither values nor
  gradients pass from one episode to the next. Reverse-mode derivatives only,
  and only once (no jvp, no second derivatives).

  Args:
    x_proj: float [T, B, 4D], input projection and bias, of all rows.
    w_h: float [D, 4D]; its dtype is that of the recurrent product.
    state: (c, h), float [B, D] each, before the first row; their dtype is that
      of the gates, of the outputs and of the state returned.
    is_first_t: bool [T, B]; the state is reset *before* such a row.

  Returns:
    h of every row [T, B, D], and the state (c, h) after the last row. Gradients
    flow to x_proj, w_h and state.

  Raises:
    ValueError: the shapes do not fit together.
  """
  c, h = state
  rows, batch, gates = x_proj.shape
  units = gates // 4
  if (
    w_h.shape != (units, 4 * units)
    or c.shape != (batch, units)
    or h.shape != c.shape
    or is_first_t.shape != (rows, batch)
  ):
    raise ValueError(
      "lstm_unroll expects x_proj [T, B, 4D], w_h [D, 4D], c and h [B, D], "
      f"is_first_t [T, B]; got {x_proj.shape}, {w_h.shape}, {c.shape}, "
      f"{h.shape}, {is_first_t.shape}. Give all rows in one call, time first."
    )
  return _unroll(x_proj, w_h, (c, h), is_first_t)
