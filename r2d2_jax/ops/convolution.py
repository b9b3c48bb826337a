"""Convolution of the torso, with its gradient written by hand for CPUs.

Forward it is `lax.conv_general_dilated` everywhere, and so is the gradient,
unless the caller asks for the CPU's (`on_cpu`). There, XLA's own gradients of
a convolution run well below the speed of its forward pass: that of the input is
a convolution over an image diluted with zeros (stride > 1), that of the kernel
one whose window is the whole output. Here a stride s that divides the window is
taken out first: blocks of s x s pixels become channels, and what remains is a
convolution with stride 1. Then the gradient of the input is an ordinary
convolution (products summed in place, where images are small), and that of the
kernel one matrix product, over the pixels of all images, of the input and of
dL/dy shifted to every place of the window:

    dL/dkernel[u, v] = sum_{m, i, j} x[m, i, j]^T dL/dy[m, i - u, j - v]

The product is taken for some images at a time, so that the shifted copies stay
in the cache (docs/performance.md).
"""

import functools
import math
import operator

import jax
from jax import lax
import jax.numpy as jnp

# Operands of the product of one chunk of images: about what the second-level
# caches hold.
_CHUNK_BYTES = 4 * 2**20
# What works on the grid of x, larger than that of dy by the window's margin, is
# done so while the ratio of the widths is at most this; else on that of dy.
_MAX_WIDTH_RATIO = 1.2


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int,
  padding: str = "VALID",
  on_cpu: bool = False,
) -> jax.Array:
  """Cross-correlates images with a kernel.

      y[m, i, j, o] = sum_{u, v, c} x[m, i s + u, j s + v, c] kernel[u, v, c, o]

  With `on_cpu`: reverse-mode derivatives only, and only once (no jvp, no second
  derivatives).

  Args:
    x: float [M, H, W, C].
    kernel: float [kh, kw, C, O], dtype of x.
    stride: s >= 1, step of the window along both axes, in pixels.
    padding: "VALID" (none) or "SAME" (zeros, so that H' = ceil(H / s)).
    on_cpu: the gradients in the way that is faster on CPUs, the same numbers up
      to rounding. Right everywhere, slow elsewhere; who lowers for several
      platforms chooses by `jax.lax.platform_dependent`.

  Returns:
    float [M, H', W', O], dtype of x. Gradients flow to x and kernel; under jit
    the gradient to x costs nothing where nobody asks for it.
  """
  # A stride that does not divide the window would waste more in the padded
  # window than the products gain.
  if on_cpu and not any(size % stride for size in kernel.shape[:2]):
    return _conv2d_cpu(x, kernel, stride, padding)
  return _conv2d_plain(x, kernel, stride, padding)


def _conv2d_plain(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d_cpu(x, kernel, stride, padding):
  return _conv2d_plain(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
  return _conv2d_plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, dy):
  x, kernel = residuals
  window = kernel.shape[:2]
  low = [
    lo
    for lo, _ in lax.padtype_to_pads(
      x.shape[1:3], window, (stride, stride), padding
    )
  ]
  # What the windows cover, a multiple of the stride: more than the image where
  # it is padded, less where the last window ends before the image does.
  covered = [
    (n - 1) * stride + k for n, k in zip(dy.shape[1:3], window, strict=True)
  ]
  high = [
    c - size - lo
    for c, size, lo in zip(covered, x.shape[1:3], low, strict=True)
  ]

  # The kernel as O images of the window: stride 1 from here on.
  kernel_blocks = jnp.moveaxis(
    to_blocks(jnp.moveaxis(kernel, 3, 0), stride), 0, 3
  )
  dkernel = _kernel_gradient(
    x,
    dy,
    kernel_blocks.shape,
    lambda images: to_blocks(_pad(images, low, high), stride),
  )
  dkernel = jnp.moveaxis(from_blocks(jnp.moveaxis(dkernel, 3, 0), stride), 0, 3)

  dx = _pad(
    from_blocks(_input_gradient(kernel_blocks, dy), stride),
    [-lo for lo in low],
    [-hi for hi in high],
  )
  return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_conv2d_cpu.defvjp(_forward, _backward)


def _input_gradient(kernel, dy):
  """[M, H, W, C] of a convolution with stride 1: a convolution of padded dy."""
  kh, kw, channels, outputs = kernel.shape
  if _is_wide(dy, kw):
    return lax.conv_general_dilated(
      dy,
      jnp.flip(kernel, (0, 1)),
      (1, 1),
      [(kh - 1,) * 2, (kw - 1,) * 2],
      dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )
  # The patches that dy and the kernel span, summed in place.
  patches = lax.dot_general(
    dy,
    kernel.transpose(3, 0, 1, 2).reshape(outputs, -1),
    (((3,), (0,)), ((), ())),
  ).reshape(*dy.shape[:3], kh, kw, channels)
  return functools.reduce(
    operator.add,
    (
      _pad(patches[:, :, :, u, v], (u, v), (kh - 1 - u, kw - 1 - v))
      for u in range(kh)
      for v in range(kw)
    ),
  )


def _is_wide(dy, kw):
  return dy.shape[2] + kw - 1 <= _MAX_WIDTH_RATIO * dy.shape[2]


def _kernel_gradient(x, dy, shape, blocks_of):
  """float32 [kh, kw, C, O] of a convolution with stride 1 over blocks_of(x)."""
  kh, kw, channels, outputs = shape
  # Rows: dy is shifted. Columns: dy is, or x.
  x_shifts, dy_shifts = (1, kw) if _is_wide(dy, kw) else (kw, 1)
  grid = (dy.shape[1] + kh - 1, dy.shape[2] + dy_shifts - 1)
  padding = (kh - 1, dy_shifts - 1)
  columns = (x_shifts * channels, kh * dy_shifts * outputs)

  def add(total, chunk):
    x, dy = chunk
    x = _shifted(blocks_of(x), (1, x_shifts), grid)
    dy = _shifted(_pad(dy, padding, padding), (kh, dy_shifts), grid)
    return total + lax.dot_general(
      x.reshape(-1, columns[0]),
      dy.reshape(-1, columns[1]),
      (((0,), (0,)), ((), ())),
      preferred_element_type=jnp.float32,
    ), None

  image_bytes = 4 * math.prod(grid) * sum(columns)
  total = _over_chunks(
    add, jnp.zeros(columns, jnp.float32), (x, dy), _CHUNK_BYTES // image_bytes
  )
  total = total.reshape(x_shifts, channels, kh, dy_shifts, outputs)
  # Copy a of dy is shifted by kh - 1 - a.
  total = jnp.flip(total, (2, 3)).transpose(2, 0, 3, 1, 4)
  return total.reshape(shape)


def _shifted(x, shifts, size):
  """[M, H, W, C] -> [M, *size, shifts, C]: x[m, i + u, j + v] for all u, v."""
  if shifts == (1, 1):
    return x
  # The barriers stop the compiler from fusing the copies into one loop that
  # decides pixel by pixel from which of them to take it.
  x = lax.optimization_barrier(x)
  return lax.optimization_barrier(
    jnp.stack(
      [
        x[:, u : u + size[0], v : v + size[1]]
        for u in range(shifts[0])
        for v in range(shifts[1])
      ],
      axis=3,
    )
  )


def _over_chunks(add, total, images, most):
  """add(total, chunk) over chunks of about `most` images."""
  count = jax.tree.leaves(images)[0].shape[0]
  most = min(max(1, most), count)
  # A last chunk of another size costs as much as several.
  size = even_chunk(count, most) or most
  whole = count - count % size
  total, _ = lax.scan(
    add,
    total,
    jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), images),
  )
  if whole < count:
    total, _ = add(total, jax.tree.map(lambda a: a[whole:], images))
  return total


def even_chunk(count: int, most: int) -> int:
  """The largest divisor of count up to `most`; 0 if below half of that."""
  most = min(most, count)
  size = max(n for n in range(1, most + 1) if count % n == 0)
  return size if 2 * size >= most else 0


def _pad(images, low, high):
  """Pads height and width with zeros; negative amounts crop."""
  return lax.pad(
    images,
    jnp.zeros((), images.dtype),
    [
      (0, 0, 0),
      *((lo, hi, 0) for lo, hi in zip(low, high, strict=True)),
      (0, 0, 0),
    ],
  )


def to_blocks(x: jax.Array, s: int) -> jax.Array:
  """[..., s H, s W, C] -> [..., H, W, s s C]: s x s pixels become channels."""
  if s == 1:
    return x
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h // s, s, w // s, s, c).swapaxes(-4, -3)
  return x.reshape(*lead, h // s, w // s, s * s * c)


def from_blocks(x: jax.Array, s: int) -> jax.Array:
  """The inverse of `to_blocks`."""
  if s == 1:
    return x
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h, w, s, s, c // (s * s)).swapaxes(-4, -3)
  return x.reshape(*lead, s * h, s * w, c // (s * s))
