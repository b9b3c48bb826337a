"""Cores: what carries memory from row to row, by name.

A core of one's own is an entry like those of `CORES`, named by `network.core`
as "module:name". Its carry may be any pytree of arrays with a leading batch
axis; replay stores whatever leaves it has.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r2d2_jax.config import NetworkConfig
from r2d2_jax.ops.lstm import lstm_unroll
from r2d2_jax.types import Array

# Types are given: the default is float64 in JAX's 64-bit mode.
_fan_in = nn.initializers.lecun_normal(dtype=jnp.float32)
_orthogonal = nn.initializers.orthogonal(dtype=jnp.float32)
_no_bias = functools.partial(nn.initializers.zeros, dtype=jnp.float32)


class Core(NamedTuple):
  """How a core is made, and what it carries before an episode's first row."""

  make: Callable[[NetworkConfig], nn.Module]
  """The module: (x [T, B, F], carry, is_first_t bool [T, B]) -> (y [T, B, D],
  carry after the last row). Where is_first_t the carry before the row is
  null."""
  initial_carry: Callable[[NetworkConfig, int], Any]
  """(config, batch size) -> the null carry, zeros with leading [B]; () for
  none."""


class _LSTM(nn.Module):
  """An LSTM whose input projection is one product over all rows."""

  config: NetworkConfig

  @nn.compact
  def __call__(self, x: Array, carry, is_first_t: Array):
    units, dtype = self.config.core_units, jnp.dtype(self.config.compute_dtype)
    w_x = self.param("w_x", _fan_in, (x.shape[-1], 4 * units))
    w_h = self.param("w_h", _orthogonal, (units, 4 * units))
    b = self.param("b", _lstm_biases, (units,), self.config.core_memory_rows)
    x_proj = x.astype(dtype) @ w_x.astype(dtype) + b.astype(dtype)
    return lstm_unroll(x_proj, w_h.astype(dtype), carry, is_first_t)


def _lstm_biases(key, shape: tuple[int], memory_rows: int) -> Array:
  """Of the gates i, f, g, o, float32 [4 units].

  Forget gates of bias 1, the others 0; or, with memory_rows T, chrono
  initialisation: b_f = log u with u uniform in [1, T - 1], and b_i = -b_f, so
  that the units begin by keeping what they hold for 1 to T rows. Source: Tallec
  and Ollivier 2018, section 3.
  """
  zeros = jnp.zeros(shape, jnp.float32)
  if not memory_rows:
    return jnp.concatenate([zeros, jnp.ones_like(zeros), zeros, zeros])
  kept = _log_rows(key, shape, memory_rows)
  return jnp.concatenate([-kept, kept, zeros, zeros])


def _gru_biases(key, shape: tuple[int], memory_rows: int) -> Array:
  """Of r, z, n, float32 [3 units]: zeros, but b_z = log u with memory_rows."""
  zeros = jnp.zeros(shape, jnp.float32)
  kept = _log_rows(key, shape, memory_rows) if memory_rows else zeros
  return jnp.concatenate([zeros, kept, zeros])


def _log_rows(key, shape: tuple[int], memory_rows: int) -> Array:
  return jnp.log(
    jax.random.uniform(key, shape, jnp.float32, 1.0, memory_rows - 1.0)
  )


class _GRU(nn.Module):
  """A gated recurrent unit, its input projection one product over all rows.

      r_t, z_t = sigmoid(x_t w_x + b + h_{t-1} w_h)
      n_t = tanh(x_t w_xn + b_n + r_t * (h_{t-1} w_hn + b_hn))
      h_t = (1 - z_t) n_t + z_t h_{t-1}

  Source: Cho et al. 2014, with the reset gate behind the product (Chung et al.
  2014 and cuDNN).
  """

  config: NetworkConfig

  @nn.compact
  def __call__(self, x: Array, carry: Array, is_first_t: Array):
    units, dtype = self.config.core_units, jnp.dtype(self.config.compute_dtype)
    w_x = self.param("w_x", _fan_in, (x.shape[-1], 3 * units))
    w_h = self.param("w_h", _orthogonal, (units, 3 * units))
    b = self.param("b", _gru_biases, (units,), self.config.core_memory_rows)
    b_hn = self.param("b_hn", _no_bias, (units,))
    x_proj = x.astype(dtype) @ w_x.astype(dtype) + b.astype(dtype)
    w_h = w_h.astype(dtype)

    def step(h_tm1: jax.Array, row):
      x_t, is_first = row
      h_tm1 = jnp.where(is_first[:, None], 0, h_tm1)
      from_h = jnp.dot(
        h_tm1.astype(dtype), w_h, preferred_element_type=carry.dtype
      )
      x_r, x_z, x_n = jnp.split(x_t.astype(carry.dtype), 3, axis=-1)
      h_r, h_z, h_n = jnp.split(from_h, 3, axis=-1)
      r_t, z_t = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
      n_t = jnp.tanh(x_n + r_t * (h_n + b_hn))
      h_t = (1 - z_t) * n_t + z_t * h_tm1
      return h_t, h_t

    last, h_t = jax.lax.scan(step, carry, (x_proj, is_first_t))
    return h_t, last


class _FeedForward(nn.Module):
  """The ablation of figure 7: a linear layer with ReLU of the same width."""

  config: NetworkConfig

  @nn.compact
  def __call__(self, x: Array, carry: tuple[()], is_first_t: Array):
    del is_first_t
    units, dtype = self.config.core_units, jnp.dtype(self.config.compute_dtype)
    kernel = self.param("kernel", _fan_in, (x.shape[-1], units))
    bias = self.param("bias", _no_bias, (units,))
    x = x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)
    return nn.relu(x), carry


class _Nothing(nn.Module):
  """DQN's: the heads read the torso's features as they are."""

  @nn.compact
  def __call__(self, x: Array, carry: tuple[()], is_first_t: Array):
    del is_first_t
    return x, carry


def _zeros(config: NetworkConfig, batch_size: int) -> Array:
  return jnp.zeros((batch_size, config.core_units), jnp.float32)


CORES: dict[str, Core] = {
  "lstm": Core(_LSTM, lambda *args: (_zeros(*args), _zeros(*args))),
  "gru": Core(_GRU, _zeros),
  "feedforward": Core(_FeedForward, lambda *args: ()),
  "none": Core(lambda config: _Nothing(), lambda *args: ()),
}
