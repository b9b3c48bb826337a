"""Convolution of the torso, with its gradient written by hand for CPUs.

Forward it is `lax.conv_general_dilated` everywhere. On GPU and TPU so is the
gradient. On CPU, XLA's own gradients of a convolution run well below the speed
of its forward pass: that of the input is a convolution over an image diluted
with zeros (stride > 1), that of the kernel one whose window is the whole
output. Here both are matrix products, for some images at a time, so that their
patches stay in the cache:

    dL/dkernel = patches(x)^T dL/dy
    dL/dx      = overlapping patches of (dL/dy kernel^T), summed

A stride s that divides the window is taken out first: blocks of s x s pixels
become channels, and what remains is a convolution with stride 1.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

# Patches of one chunk of images: about what the second-level caches hold.
_CHUNK_BYTES = 4 * 2**20
# Fewer channels than this, and with stride 1 the gradient of the input spends
# more on summing patches than it saves.
_MIN_OUTPUTS = 64


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: str = "VALID"
) -> jax.Array:
  """Cross-correlates images with a kernel.

      y[m, i, j, o] = sum_{u, v, c} x[m, i s + u, j s + v, c] kernel[u, v, c, o]

  On CPU: reverse-mode derivatives only, and only once (no jvp, no second
  derivatives).

  Args:
    x: float [M, H, W, C].
    kernel: float [kh, kw, C, O], dtype of x.
    stride: s >= 1, step of the window along both axes, in pixels.
    padding: "VALID" (none) or "SAME" (zeros, so that H' = ceil(H / s)).

  Returns:
    float [M, H', W', O], dtype of x. Gradients flow to x and kernel; under jit
    the gradient to x costs nothing where nobody asks for it.
  """
  # Decided while tracing. A stride that does not divide the window would waste
  # more in the padded window than the products gain.
  if jax.default_backend() == "cpu" and not any(
      size % stride for size in kernel.shape[:2]):
    return _conv2d_cpu(x, kernel, stride, padding)
  return _conv2d_plain(x, kernel, stride, padding)


def _conv2d_plain(x, kernel, stride, padding):
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d_cpu(x, kernel, stride, padding):
  return _conv2d_plain(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
  return _conv2d_plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, dy):
  x, kernel = residuals
  window = kernel.shape[:2]
  low = [lo for lo, _ in lax.padtype_to_pads(
      x.shape[1:3], window, (stride, stride), padding)]
  # What the windows cover, a multiple of the stride: more than the image where
  # it is padded, less where the last window ends before the image does.
  covered = [(n - 1) * stride + k for n, k in zip(dy.shape[1:3], window)]
  high = [c - size - lo for c, size, lo in zip(covered, x.shape[1:3], low)]
  to_blocks = lambda images: _to_blocks(_pad(images, low, high), stride)
  from_blocks = lambda blocks: _pad(
      _from_blocks(blocks, stride),
      [-lo for lo in low], [-hi for hi in high])

  # The kernel as O images of the window: stride 1 from here on.
  blocks = _to_blocks(jnp.moveaxis(kernel, 3, 0), stride)
  dkernel = _kernel_gradient(x, dy, blocks.shape, to_blocks)
  dkernel = jnp.moveaxis(_from_blocks(dkernel, stride), 0, 3)
  if stride > 1 or dy.shape[3] >= _MIN_OUTPUTS:
    dx = _input_gradient(blocks, dy, from_blocks)
  else:
    dx, = jax.linear_transpose(
        lambda x: _conv2d_plain(x, kernel, stride, padding), x)(dy)
  return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_conv2d_cpu.defvjp(_forward, _backward)


def _kernel_gradient(x, dy, shape, to_blocks):
  """[O, kh, kw, C]: the product of dy and the patches of x."""
  outputs, *window, _ = shape

  def add(total, chunk):
    x, dy = chunk
    patches = _patches(to_blocks(x), window, dy.shape[1:3])
    # dy on the left: the CPU's product repacks its left operand slowly, and dy
    # is several times narrower than the patches.
    return total + _product(
        dy.reshape(-1, outputs), patches.reshape(-1, total.shape[1]), 0), None

  total, _ = _over_chunks(
      add, jnp.zeros((outputs, math.prod(shape[1:])), jnp.float32), (x, dy),
      _images_per_chunk(shape, dy))
  return total.reshape(shape)


def _input_gradient(blocks, dy, from_blocks):
  """[M, H, W, C]: the patches that dy and the kernel span, summed in place."""
  outputs, *window, channels = blocks.shape

  def spread(_, dy):
    patches = _product(dy, blocks.reshape(outputs, -1), 3).reshape(
        *dy.shape[:3], *window, channels)
    patches = lax.optimization_barrier(patches)
    return None, from_blocks(sum(
        _pad(patches[:, :, :, u, v], (u, v),
             (window[0] - 1 - u, window[1] - 1 - v))
        for u in range(window[0]) for v in range(window[1])))

  return _over_chunks(spread, None, dy, _images_per_chunk(blocks.shape, dy))[1]


def _product(a, b, axis):
  """Of axis `axis` of a and axis 0 of b, summed in float32."""
  return lax.dot_general(
      a, b, (((axis,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _patches(x, window, size):
  """[M, H, W, C] -> [M, *size, kh * kw, C], the patches of a stride of 1."""
  # The barriers stop the compiler from fusing the copies into one loop that
  # decides pixel by pixel from which of them to take it.
  x = lax.optimization_barrier(x)
  return lax.optimization_barrier(jnp.stack([
      x[:, u:u + size[0], v:v + size[1]]
      for u in range(window[0]) for v in range(window[1])], axis=3))


def _images_per_chunk(kernel_shape, dy):
  patches = math.prod(dy.shape[1:3]) * math.prod(kernel_shape[1:])
  return max(1, _CHUNK_BYTES // (4 * patches))


def _over_chunks(body, carry, images, size):
  """A scan of body over chunks of `size` images; the last may be smaller."""
  count = jax.tree.leaves(images)[0].shape[0]
  whole = count - count % size
  carry, out = lax.scan(body, carry, jax.tree.map(
      lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), images))
  out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
  if whole < count:
    carry, rest = body(carry, jax.tree.map(lambda a: a[whole:], images))
    out = jax.tree.map(lambda *a: jnp.concatenate(a), out, rest)
  return carry, out


def _pad(images, low, high):
  """Pads height and width with zeros; negative amounts crop."""
  return lax.pad(images, jnp.zeros((), images.dtype), [
      (0, 0, 0), *((lo, hi, 0) for lo, hi in zip(low, high)), (0, 0, 0)])


def _to_blocks(x, s):
  """[M, s H, s W, C] -> [M, H, W, s s C]."""
  if s == 1:
    return x
  m, h, w, c = x.shape
  x = x.reshape(m, h // s, s, w // s, s, c).swapaxes(2, 3)
  return x.reshape(m, h // s, w // s, s * s * c)


def _from_blocks(x, s):
  """[M, H, W, s s C] -> [M, s H, s W, C]."""
  if s == 1:
    return x
  m, h, w, c = x.shape
  x = x.reshape(m, h, w, s, s, c // (s * s)).swapaxes(2, 3)
  return x.reshape(m, s * h, s * w, c // (s * s))
