"""Observations of several arrays, packed into the bytes of one.

Worlds, replay and actors hand on one array per observation. One that has images
and numbers travels as their bytes, one part after the other: an image of bytes
takes no more room than alone, and nothing between world and network needs to
know. `EnvSpec.obs_parts` says what the bytes are; the network takes them apart
again (`agent.torsos`).
"""

from collections.abc import Sequence
import math

import numpy as np

from r2d2_jax.types import EnvSpec, ObsPart


def num_bytes(part: ObsPart) -> int:
  """What a part takes of an observation."""
  return math.prod(part.shape) * part.dtype.itemsize


def join_parts(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Packs parts, each [B, *shape], into uint8 [B, bytes], an array of its own.

  The inverse of `split_parts`.
  """
  return np.concatenate(
    [
      np.ascontiguousarray(x).reshape(len(x), -1).view(np.uint8) for x in arrays
    ],
    axis=1,
  )


def split_parts(obs: np.ndarray, spec: EnvSpec) -> list[np.ndarray]:
  """The parts [..., *shape] of observations [..., *spec.obs_shape].

  Those of one part are it.
  """
  if not spec.obs_parts:
    return [obs]
  ends = np.cumsum([num_bytes(part) for part in spec.obs_parts])
  return [
    np.ascontiguousarray(x)
    .view(part.dtype)
    .reshape(*obs.shape[:-1], *part.shape)
    for x, part in zip(
      np.split(obs, ends[:-1], axis=-1), spec.obs_parts, strict=True
    )
  ]


def obs_in_words(spec: EnvSpec) -> str:
  """'84x84x3 uint8', or '84x84x3 uint8 and 5 float32'."""
  parts = spec.obs_parts or (ObsPart(spec.obs_shape, spec.obs_dtype),)
  return " and ".join(
    f"{'x'.join(map(str, part.shape))} {part.dtype}" for part in parts
  )
