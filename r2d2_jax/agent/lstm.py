"""The recurrent core, unrolled."""

import jax
from jax import lax
import jax.numpy as jnp

LSTMState = tuple[jax.Array, jax.Array]


def lstm_unroll(
    x_proj: jax.Array, w_h: jax.Array, state: LSTMState, is_first_t: jax.Array
) -> tuple[jax.Array, LSTMState]:
  """Unrolls an LSTM over T rows: gates in the order i, f, g, o.

      z_t = x_proj_t + h_{t-1} w_h           = (i, f, g, o)
      c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
      h_t = sigmoid(o) tanh(c_t)

  with c_{t-1} = h_{t-1} = 0 where is_first_t.

  Args:
    x_proj: float [T, B, 4D], input projection and bias of all rows.
    w_h: float [D, 4D].
    state: (c, h), float [B, D] each, before the first row.
    is_first_t: bool [T, B]; the state is reset *before* such a row.

  Returns:
    h of every row [T, B, D], and the state after the last row.
  """

  def step(state, row):
    x, is_first = row
    c, h = (jnp.where(is_first[:, None], 0, s) for s in state)
    i, f, g, o = jnp.split(x + h @ w_h, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h

  state, outputs = lax.scan(step, state, (x_proj, is_first_t))
  return outputs, state
