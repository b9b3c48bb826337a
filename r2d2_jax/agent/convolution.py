"""Convolution of the torso."""

import jax
from jax import lax


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: str = "VALID"
) -> jax.Array:
  """Cross-correlates images with a kernel: y = x * kernel.

  Args:
    x: float [M, H, W, C].
    kernel: float [kh, kw, C, O].
    stride: step of the window along both axes, in pixels.
    padding: "VALID" or "SAME".

  Returns:
    float [M, H', W', O]; gradients flow to both arguments.
  """
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"))
