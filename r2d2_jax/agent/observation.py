"""Which observations a torso reads. Without JAX: a plan asks before it is imported."""

import numpy as np

from r2d2_jax.config import NetworkConfig
from r2d2_jax.types import EnvSpec

# MiniGrid's cell: object index, colour index, state; one more than the highest.
GRID_VALUES = (11, 6, 4)


def check_observation(spec: EnvSpec, config: NetworkConfig) -> None:
  """Fails early, with words, where a shape error deep inside would follow.

  Args:
    spec: what the world says of itself.
    config: the network.

  Raises:
    ValueError: the torso cannot read observations of this shape.
  """
  rank = len(spec.obs_shape)
  if config.torso in ("nature", "impala"):
    if rank not in (2, 3) or min(spec.obs_shape[:2]) < 36:
      raise ValueError(
          f"torso '{config.torso}' expects images [H, W] or [H, W, C] of at"
          f" least 36x36, got observations {spec.obs_shape}; use torso 'grid'"
          " for MiniGrid or 'mlp' for small inputs"
      )
    if len(config.torso_channels) != 3:
      raise ValueError(
          f"torso '{config.torso}' expects three torso_channels, got"
          f" {config.torso_channels}"
      )
  if config.torso == "grid" and (
      rank != 3
      or spec.obs_shape[-1] != len(GRID_VALUES)
      or spec.obs_dtype != np.uint8
      or config.frame_stack != 1
  ):
    raise ValueError(
        "torso 'grid' expects MiniGrid's uint8 observations [7, 7, 3] and"
        f" frame_stack 1, got {spec.obs_shape} {spec.obs_dtype} and frame_stack"
        f" {config.frame_stack}"
    )
