"""product against the plain product: values, both gradients, when it's used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.ops.product import product as any_product

# What CPUs get.
product = functools.partial(any_product, on_cpu=True)


def _normal(seed, *shape):
  return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def _gradients(f, x, w, dy):
  return jax.jit(lambda x, w, dy: jax.vjp(f, x, w)[1](dy))(x, w, dy)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (33, 200, 64)])
def test_equals_the_plain_product(shape):
  m, k, n = shape
  x, w, dy = _normal(0, m, k), _normal(1, k, n), _normal(2, m, n)
  np.testing.assert_array_equal(jax.jit(product)(x, w), jax.jit(jnp.dot)(x, w))
  for ours, plain in zip(
    _gradients(product, x, w, dy), _gradients(jnp.dot, x, w, dy), strict=True
  ):
    np.testing.assert_allclose(
      ours, plain, rtol=0, atol=1e-5 * np.abs(plain).max()
    )


def test_values_by_hand():
  x, w = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0], [7.0, 11.0]])
  y, vjp = jax.vjp(product, x, w)
  np.testing.assert_array_equal(y, [[17, 27]])
  dx, dw = vjp(jnp.array([[1.0, 10.0]]))
  np.testing.assert_array_equal(dx, [[53, 117]])
  np.testing.assert_array_equal(dw, [[1, 10], [2, 20]])


def test_bfloat16_stays():
  x, w = (
    _normal(0, 4, 6).astype(jnp.bfloat16),
    _normal(1, 6, 5).astype("bfloat16"),
  )
  y, vjp = jax.vjp(product, x, w)
  assert {a.dtype for a in (y, *vjp(y))} == {jnp.dtype("bfloat16")}


def test_accelerators_and_long_batches_get_the_plain_product():
  def jaxpr(rows, product=product):
    f = lambda x, w: product(x, w)  # a new one each time: traces are cached
    return str(jax.make_jaxpr(f)(jnp.zeros((rows, 3)), jnp.zeros((3, 2))))

  assert "custom_vjp" in jaxpr(1024) and "custom_vjp" not in jaxpr(1025)
  assert "custom_vjp" not in jaxpr(1024, any_product)
