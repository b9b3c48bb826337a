"""Gymnasium's spaces of observations as the agent meets them: one array.

| observation space | the agent sees |
|---|---|
| Box of bytes, [H, W], [H, W, C], [C, H, W] | an image, uint8, channels last |
| Box of other numbers | float32 of that shape, an image's channels last |
| Discrete | one-hot float32 |
| MultiDiscrete | a one-hot for each number, side by side |
| MultiBinary | float32 zeros and ones |
| Dict, Tuple | one vector of all the parts, in the space's own order |
| the same with images of at least 36x36 | these, and one vector of the rest |
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from gymnasium import spaces
import numpy as np

from r2d2_jax.config import ConfigError
from r2d2_jax.parts import join_parts, num_bytes
from r2d2_jax.types import ObsPart

# As in `families`: a larger one-hot would be no observation, but a mistake.
_MAX_ONE_HOT = 2**16
# More channels are planes of a grid, whose two sides are then equal.
_MAX_CHANNELS = 4
# The least side of an image that the torsos with convolutions read.
_IMAGE_SIDE = 36


class Observations(NamedTuple):
  """What becomes of the observations of a space."""

  shape: tuple[int, ...]  # of one of them, as the agent sees it
  dtype: np.dtype
  convert: Callable[[Any], np.ndarray]  # batched by Gymnasium -> [B, *shape],
  # an array of its own
  parts: tuple[ObsPart, ...] = ()  # as EnvSpec.obs_parts


def observations_of(task: str, space: spaces.Space) -> Observations:
  """How the agent sees observations of a Gymnasium space.

  Args:
    task: for the error.
    space: of one environment.

  Raises:
    ConfigError: the space has no fixed size (Text, Sequence, Graph, OneOf).
  """
  leaves = _leaves(space)
  if len(leaves) == 1 and isinstance(leaves[0].space, spaces.Box):
    return _image(leaves[0])
  images = [_image(leaf) for leaf in leaves if _is_image(leaf.space)]
  rest = [_vector(task, leaf) for leaf in leaves if not _is_image(leaf.space)]
  size = sum(size for size, _ in rest)

  def vector(batch: Any) -> np.ndarray:
    return np.concatenate(
      [flatten(batch) for _, flatten in rest], axis=1, dtype=np.float32
    )

  numbers = ObsPart((size,), np.dtype(np.float32))
  if not images:
    return Observations(*numbers, vector)
  found = [*images, Observations(*numbers, vector)] if size else images
  parts = tuple(ObsPart(x.shape, x.dtype) for x in found)
  return Observations(
    (sum(map(num_bytes, parts)),),
    np.dtype(np.uint8),
    lambda batch: join_parts([x.convert(batch) for x in found]),
    parts,
  )


class _Leaf(NamedTuple):
  """A space within Dicts and Tuples, and what gives its part of a batch."""

  name: str  # "['camera']"; "" of the whole
  space: spaces.Space
  pick: Callable[[Any], Any]


def _leaves(space: spaces.Space) -> list[_Leaf]:
  """All of them, in the space's own order."""
  if not isinstance(space, spaces.Dict | spaces.Tuple):
    return [_Leaf("", space, lambda batch: batch)]
  return [
    _Leaf(
      f"[{key!r}]{leaf.name}",
      leaf.space,
      lambda batch, key=key, leaf=leaf: leaf.pick(batch[key]),
    )
    for key, part in _parts(space)
    for leaf in _leaves(part)
  ]


def _is_image(space: spaces.Space) -> bool:
  return (
    isinstance(space, spaces.Box)
    and len(space.shape) in (2, 3)
    and sorted(space.shape)[-2] >= _IMAGE_SIDE
  )


def _image(leaf: _Leaf) -> Observations:
  box = _box(leaf.space)
  return box._replace(convert=lambda batch: box.convert(leaf.pick(batch)))


def _box(space: Any) -> Observations:
  dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
  shape = space.shape or (1,)
  first = len(shape) == 3 and _has_channels_first(*shape)
  if first:
    shape = (*shape[1:], shape[0])
  if len(shape) == 3 and shape[2] == 1:  # the frame stack brings the axis back
    shape = shape[:2]

  def convert(batch: np.ndarray) -> np.ndarray:
    if first:
      batch = np.moveaxis(batch, 1, -1)
    # A copy, since Gymnasium may write its next rows into the same memory.
    return np.array(batch, dtype, order="C").reshape(len(batch), *shape)

  return Observations(shape, dtype, convert)


def _has_channels_first(a: int, b: int, c: int) -> bool:
  if a == b:
    return False
  return b == c or (a <= _MAX_CHANNELS and a < c)


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
  """Keys or places, with their spaces."""
  if isinstance(space, spaces.Dict):
    return list(space.spaces.items())
  return list(enumerate(space.spaces))


def _vector(task: str, leaf: _Leaf) -> tuple[int, Callable[[Any], np.ndarray]]:
  """Size of a part as numbers in a row, and how a batch becomes them."""
  space = leaf.space
  if isinstance(space, spaces.Discrete):
    size, convert = _one_hots(
      task, np.array([space.n]), np.array([space.start])
    )
  elif isinstance(space, spaces.MultiDiscrete):
    size, convert = _one_hots(task, space.nvec.ravel(), space.start.ravel())
  elif isinstance(space, spaces.MultiBinary):
    size, convert = math.prod(space.shape), _flat
  elif isinstance(space, spaces.Box):
    size, convert = math.prod(space.shape), _flat
    if space.dtype == np.uint8:  # as the torsos scale bytes
      convert = lambda batch: _flat(batch) / 255
  else:
    raise ConfigError(
      f"{task}: observations of the space {type(space).__name__}"
      + (f" at {leaf.name}" if leaf.name else "")
      + " have no fixed size: expected Box, Discrete, MultiDiscrete,"
      " MultiBinary, or a Dict or Tuple of these; turn them into one of these"
      " in a wrapper"
    )
  return size, lambda batch: convert(leaf.pick(batch))


def _flat(batch: np.ndarray) -> np.ndarray:
  return np.asarray(batch, np.float32).reshape(len(batch), -1)


def _one_hots(
  task: str, sizes: np.ndarray, starts: np.ndarray
) -> tuple[int, Callable[[Any], np.ndarray]]:
  total = int(sizes.sum())
  if total > _MAX_ONE_HOT:
    raise ConfigError(
      f"{task}: observations number {total} states, more than the"
      f" {_MAX_ONE_HOT} that are shown as one-hot: give them as a Box"
    )
  offsets = np.cumsum(sizes) - sizes - starts

  def convert(batch: Any) -> np.ndarray:
    places = np.asarray(batch).reshape(len(batch), len(sizes)) + offsets
    out = np.zeros((len(places), total), np.float32)
    np.put_along_axis(out, places.astype(np.int64), 1, axis=1)
    return out

  return total, convert


def fault(space: spaces.Space, x: Any) -> str:
  """How an observation of one environment differs from its space; "" if not.

  Only in what would be stored wrongly without a word: shapes, keys, states that
  are not there. Bounds of a Box are often too narrow, and are left alone.
  """
  if isinstance(space, spaces.Dict):
    if not isinstance(x, dict) or x.keys() != space.spaces.keys():
      got = sorted(x) if isinstance(x, dict) else type(x).__name__
      return f"expected a dict of {sorted(space.spaces)}, got {got}"
  elif isinstance(space, spaces.Tuple):
    if not isinstance(x, tuple | list) or len(x) != len(space.spaces):
      return f"expected a tuple of {len(space.spaces)} parts, got {x!r:.80}"
  elif isinstance(space, spaces.Discrete):
    if np.shape(x) != () or not space.start <= x < space.start + space.n:
      return f"expected a state number in {space}, got {x!r:.80}"
    return ""
  else:
    if np.shape(x) != space.shape:
      return f"expected an array of shape {space.shape}, got {np.shape(x)}"
    if isinstance(space, spaces.MultiDiscrete):
      numbers = np.asarray(x) - space.start
      if (numbers < 0).any() or (numbers >= space.nvec).any():
        return f"expected state numbers in {space}, got {x!r:.80}"
    return ""
  for key, part in _parts(space):
    if wrong := fault(part, x[key]):
      return f"at {key!r} {wrong}"
  return ""
