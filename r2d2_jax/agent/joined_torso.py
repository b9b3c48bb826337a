"""The torso of observations of several parts: images and numbers."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from r2d2_jax.agent.frames import stack_parts
from r2d2_jax.agent.torsos import TORSOS, OnCpu, Torso
from r2d2_jax.config import NetworkConfig
from r2d2_jax.types import Array, EnvSpec, ObsPart


class _Joined(nn.Module):
  """The features of several parts, each by a torso of its own, side by side."""

  torsos: tuple[nn.Module, ...]

  @nn.compact
  def __call__(self, x: tuple[Array, ...]) -> Array:
    features = [torso(part) for torso, part in zip(self.torsos, x, strict=True)]
    return jnp.concatenate(features, axis=-1)


def joined_torso(images: Torso, parts: tuple[ObsPart, ...]) -> Torso:
  """The torso of observations of several parts.

  Args:
    images: reads each image, with parameters for each; numbers go through
      'mlp', whose layers are as wide as the convolutions have channels.
    parts: of the observations.
  """
  torsos = [TORSOS["mlp"] if len(p.shape) == 1 else images for p in parts]

  def check(spec: EnvSpec, config: NetworkConfig) -> None:
    for part, torso in zip(parts, torsos, strict=True):
      torso.check(
        spec._replace(obs_shape=part.shape, obs_dtype=part.dtype, obs_parts=()),
        config,
      )

  def joined(ways: list[Any]) -> dict[str, Any]:
    return {
      "make": lambda config: _Joined(tuple(way.make(config) for way in ways)),
      "stack": functools.partial(
        stack_parts, parts=parts, stacks=tuple(way.stack for way in ways)
      ),
    }

  on_cpu = None
  if images.on_cpu:
    ways = [torso.on_cpu or torso for torso in torsos]
    on_cpu = OnCpu(**joined(ways), in_chunks=images.on_cpu.in_chunks)
  return Torso(check=check, on_cpu=on_cpu, **joined(torsos))
