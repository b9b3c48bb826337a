"""The frame stack: the last k frames of every row, from single frames."""

from collections.abc import Callable
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.ops.convolution import from_blocks, to_blocks
from r2d2_jax.parts import num_bytes
from r2d2_jax.types import Array, ObsPart


def stack_frames(
  obs_t: Array, is_first_t: Array, frames: Array
) -> tuple[Array, Array]:
  """Rebuilds the k-frame stack of every row from single frames.

  stack_t = (obs_{t-k+1}, ..., obs_t) within the episode; at an episode's first
  row the first frame is repeated, as EnvPool does it. Written as k - 1 shifted
  selections, slot j of row t being slot j + 1 of row t - 1.

  Args:
    obs_t: [T, B, ...] single frames.
    is_first_t: bool [T, B].
    frames: [B, k - 1, ...] the frames before row 0, oldest first.

  Returns:
    The stacks [T, B, ..., k] (a channels axis is last: [T, B, H, W, C] gives
    [T, B, H, W, k C]), and the k - 1 frames after the last row [B, k - 1, ...].
  """
  first = is_first_t.reshape(is_first_t.shape + (1,) * (obs_t.ndim - 2))
  slots = [obs_t]  # newest first
  for j in reversed(range(frames.shape[1])):
    shifted = jnp.concatenate([frames[None, :, j], slots[-1][:-1]])
    slots.append(jnp.where(first, obs_t, shifted))
  slots.reverse()
  new_frames = (
    jnp.stack([s[-1] for s in slots[1:]], axis=1) if slots[1:] else frames
  )
  if obs_t.ndim >= 5:  # [T, B, H, W, C]
    return jnp.concatenate(slots, axis=-1), new_frames
  return jnp.stack(slots, axis=-1), new_frames


def stack_parts(
  obs_t: Array,
  is_first_t: Array,
  frames: Array,
  *,
  parts: tuple[ObsPart, ...],
  stacks: tuple[Callable[..., tuple[Array, Array]], ...],
) -> tuple[tuple[Array, ...], Array]:
  """`stack_frames` of observations packed by `parts.join_parts`.

  Args:
    obs_t: uint8 [T, B, bytes].
    is_first_t: bool [T, B].
    frames: uint8 [B, k - 1, bytes].
    parts: what the bytes are.
    stacks: how each part is stacked, as `stack_frames`.

  Returns:
    The stacks of each part, and the packed frames after the last row.
  """
  ends = itertools.accumulate(map(num_bytes, parts))
  stacked = tuple(
    stack(_part(obs_t, end, part), is_first_t, _part(frames, end, part))[0]
    for end, part, stack in zip(ends, parts, stacks, strict=True)
  )
  return stacked, stack_frames(obs_t, is_first_t, frames)[1]


def _part(packed: Array, end: int, part: ObsPart) -> Array:
  """The part [..., *shape] whose last byte is before `end`."""
  x = packed[..., end - num_bytes(part) : end]
  x = x.reshape(*packed.shape[:-1], *part.shape, part.dtype.itemsize)
  if part.dtype == np.uint8:
    return x[..., 0]
  return jax.lax.bitcast_convert_type(x, part.dtype)


def stack_blocks(
  obs_t: Array, is_first_t: Array, frames: Array, *, size: int
) -> tuple[Array, Array]:
  """`stack_frames` of images in blocks: [T, B, H / size, W / size, k size^2 C].

  Blocks are cut from single frames, a k-th of the pixels of their stacks.
  Pixels beyond the last whole block are not in them; no window of a convolution
  whose stride is the block's size reaches them.
  """
  shape = frames.shape[2:]
  whole = [side // size for side in shape[:2]]

  def cut(images):
    if len(shape) == 2:
      images = images[..., None]
    fill = [(0, 0)] * (images.ndim - 3)
    fill += [(0, -side % size) for side in shape[:2]] + [(0, 0)]
    return to_blocks(jnp.pad(images, fill), size)

  # The barriers keep the compiler from doing all steps pixel by pixel in one
  # loop.
  x, new_frames = stack_frames(
    jax.lax.optimization_barrier(cut(obs_t)), is_first_t, cut(frames)
  )
  new_frames = from_blocks(new_frames, size)[:, :, : shape[0], : shape[1]]
  x = jax.lax.optimization_barrier(x[:, :, : whole[0], : whole[1]])
  return x, new_frames.reshape(frames.shape)
