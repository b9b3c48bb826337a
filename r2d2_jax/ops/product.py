"""x w for wide x, with the gradient of x in the order that CPUs prefer."""

import jax
from jax import lax
import jax.numpy as jnp

# Up to this many rows XLA's own order is the slower one (docs/performance.md).
_MAX_ROWS = 1024


def product(x: jax.Array, w: jax.Array, *, on_cpu: bool = False) -> jax.Array:
  """x w; with `on_cpu`, dL/dx is computed as (w dL/dy^T)^T.

  The same numbers up to rounding. On CPUs XLA repacks w, transposed, for
  dL/dy w^T, which takes longer than the product itself where w is large and x
  has few rows. With `on_cpu`: reverse-mode derivatives only, and only once (no
  jvp, no second derivatives).

  Args:
    x: float [M, K].
    w: float [K, N], dtype of x.
    on_cpu: that order, where x has few rows; see `conv2d`.

  Returns:
    float [M, N], dtype of x.
  """
  if on_cpu and x.shape[0] <= _MAX_ROWS:
    return _product_cpu(x, w)
  return x @ w


@jax.custom_vjp
def _product_cpu(x, w):
  return x @ w


def _forward(x, w):
  return x @ w, (x, w)


def _backward(residuals, dy):
  x, w = residuals
  # Without the barrier the compiler undoes the order.
  dx = lax.optimization_barrier(jnp.einsum("kn,mn->km", w, dy)).T
  return dx, x.T @ dy


_product_cpu.defvjp(_forward, _backward)
