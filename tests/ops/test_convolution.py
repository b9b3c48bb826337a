"""conv2d against lax.conv_general_dilated: values, both gradients, dtypes."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.ops import convolution
from r2d2_jax.ops.convolution import conv2d as any_conv2d

# What CPUs get; elsewhere it is the plain convolution.
conv2d = functools.partial(any_conv2d, on_cpu=True)


def _plain(x, kernel, *, stride, padding="VALID"):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _normal(seed, *shape):
  return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


def _gradients(conv, x, kernel, dy, **kwargs):
  return jax.jit(
    lambda x, kernel, dy: jax.vjp(
      lambda x, kernel: conv(x, kernel, **kwargs), x, kernel
    )[1](dy)
  )(x, kernel, dy)


def _close(actual, expected, tolerance=1e-5):
  assert actual.shape == expected.shape
  expected = np.asarray(expected, np.float32)
  np.testing.assert_allclose(
    np.asarray(actual, np.float32),
    expected,
    rtol=0,
    atol=tolerance * np.abs(expected).max(),
  )


# images, height, width, channels, window, outputs, stride, padding
_SHAPES = [
  (3, 84, 84, 4, (8, 8), 32, 4, "VALID"),  # the torso's layers
  (3, 20, 20, 32, (4, 4), 64, 2, "VALID"),
  (3, 9, 9, 64, (3, 3), 64, 1, "VALID"),
  (2, 10, 13, 3, (4, 2), 5, 2, "VALID"),  # the stride does not divide H, W
  (2, 11, 11, 2, (4, 4), 3, 4, "VALID"),
  (2, 9, 7, 2, (3, 3), 5, 2, "VALID"),  # nor the window
  (2, 9, 7, 3, (3, 3), 5, 1, "SAME"),
  (2, 7, 9, 3, (3, 5), 64, 1, "SAME"),
  (2, 9, 10, 3, (4, 4), 5, 2, "SAME"),
  (1, 5, 5, 1, (1, 1), 1, 1, "VALID"),
  (2, 7, 7, 2, (2, 2), 3, 2, "SAME"),
]


@pytest.mark.parametrize("chunk_bytes", [1, 2**15, 2**22])
@pytest.mark.parametrize("shape", _SHAPES)
def test_equals_the_plain_convolution(shape, chunk_bytes, monkeypatch):
  # Chunks of one image, of some with one left over, of all.
  monkeypatch.setattr(convolution, "_CHUNK_BYTES", chunk_bytes)
  images, height, width, channels, window, outputs, stride, padding = shape
  x = _normal(0, images, height, width, channels)
  kernel = _normal(1, *window, channels, outputs)
  settings = dict(stride=stride, padding=padding)
  y = _plain(x, kernel, **settings)
  np.testing.assert_array_equal(conv2d(x, kernel, **settings), y)
  dy = _normal(2, *y.shape)
  for ours, plain in zip(
    _gradients(conv2d, x, kernel, dy, **settings),
    _gradients(_plain, x, kernel, dy, **settings),
    strict=True,
  ):
    _close(ours, plain)


def test_chunks_with_images_left_over(monkeypatch):
  x, kernel = _normal(0, 7, 9, 9, 2), _normal(1, 3, 3, 2, 64)
  dy = _normal(2, 7, 7, 7, 64)
  expected = _gradients(_plain, x, kernel, dy, stride=1)
  for images in (2, 3, 7):
    monkeypatch.setattr(
      convolution, "_CHUNK_BYTES", images * 4 * 7 * 7 * 3 * 3 * 2
    )
    for ours, plain in zip(
      _gradients(conv2d, x, kernel, dy, stride=1), expected, strict=True
    ):
      _close(ours, plain)


def test_values_by_hand():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
  y, vjp = jax.vjp(lambda x, k: conv2d(x, k, stride=1), x, kernel)
  # Not flipped: 0*1 + 1*2 + 3*3 + 4*4 = 27, and so on.
  np.testing.assert_array_equal(y[0, :, :, 0], [[27, 37], [57, 67]])
  dx, dkernel = vjp(jnp.ones_like(y))
  np.testing.assert_array_equal(
    dx[0, :, :, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]]
  )
  np.testing.assert_array_equal(dkernel[:, :, 0, 0], [[8, 12], [20, 24]])


def test_pixels_outside_every_window_have_no_gradient():
  x, kernel = _normal(0, 2, 11, 11, 2), _normal(1, 4, 4, 2, 3)
  dx, _ = _gradients(conv2d, x, kernel, _normal(2, 2, 2, 2, 3), stride=4)
  np.testing.assert_array_equal(dx[:, 8:], 0)
  np.testing.assert_array_equal(dx[:, :, 8:], 0)


def test_gradient_to_the_images_costs_nothing_where_nobody_asks():
  x, kernel = _normal(0, 40, 20, 20, 8), _normal(1, 4, 4, 8, 16)

  def flops(argnums):
    grad = jax.grad(
      lambda x, k: jnp.sum(conv2d(x, k, stride=2)), argnums=argnums
    )
    text = jax.jit(grad).lower(x, kernel).compile().as_text()
    return text.count(" dot(") + text.count(" convolution(")

  assert flops((1,)) < flops((0, 1))


def test_same_numbers_every_time():
  args = (
    _normal(0, 40, 20, 20, 8),
    _normal(1, 4, 4, 8, 64),
    _normal(2, 40, 9, 9, 64),
  )
  once, again = (_gradients(conv2d, *args, stride=2) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, once, again)


def test_bfloat16():
  x, kernel = _normal(0, 3, 12, 12, 4), _normal(1, 4, 4, 4, 8)
  dy = _normal(2, 3, 5, 5, 8)
  half = tuple(a.astype(jnp.bfloat16) for a in (x, kernel, dy))
  y = conv2d(*half[:2], stride=2)
  assert y.dtype == jnp.bfloat16
  _close(y, _plain(x, kernel, stride=2), 0.02)
  for ours, plain in zip(
    _gradients(conv2d, *half, stride=2),
    _gradients(_plain, x, kernel, dy, stride=2),
    strict=True,
  ):
    assert ours.dtype == jnp.bfloat16
    _close(ours, plain, 0.02)


def test_it_is_the_plain_convolution_unless_a_cpu_asks():
  text = str(
    jax.make_jaxpr(lambda x, k: any_conv2d(x, k, stride=2))(
      jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5))
    )
  )
  assert "custom_vjp" not in text and "conv_general_dilated" in text
