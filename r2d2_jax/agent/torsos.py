"""Torsos: from the stacked frames of a row to its features, by name.

A torso of one's own is an entry like those of `TORSOS`, or a function from
`NetworkConfig` to a flax module, named by `network.torso` as "module:name".
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.frames import stack_blocks, stack_frames
from r2d2_jax.config import ConfigError, NetworkConfig
from r2d2_jax.ops.convolution import conv2d
from r2d2_jax.ops.product import product
from r2d2_jax.types import Array, EnvSpec

# MiniGrid's cell: object index, colour index, state; one more than the highest.
_GRID_VALUES = (11, 6, 4)
_NATURE_LAYERS = ((8, 4), (4, 2), (3, 1))  # size and stride of the convolutions

# Types are given: the default is float64 in JAX's 64-bit mode.
fan_in = nn.initializers.lecun_normal(dtype=jnp.float32)
zeros = functools.partial(nn.initializers.zeros, dtype=jnp.float32)


class OnCpu(NamedTuple):
  """A CPU's own way to a torso's features, from the same parameters.

  The same numbers up to rounding, faster there (docs/performance.md).
  """

  make: Callable[[NetworkConfig], nn.Module]
  """As `Torso.make`."""
  stack: Callable[..., tuple[Array, Array]] = stack_frames
  """As `Torso.stack`."""
  in_chunks: bool = False
  """Whether few rows at a time are faster where no gradient is wanted."""


class Torso(NamedTuple):
  """How a torso is made, and what it wants to see."""

  make: Callable[[NetworkConfig], nn.Module]
  """The module: M stacked observations, as they come, [M, *obs_shape, k]
  (images with channels [M, H, W, k C]) -> [M, features]."""
  check: Callable[[EnvSpec, NetworkConfig], None] = lambda spec, config: None
  """Raises ConfigError where it cannot read such observations."""
  stack: Callable[..., tuple[Array, Array]] = stack_frames
  """(obs_t, is_first_t, frames) -> (stacks, new frames), see `stack_frames`."""
  on_cpu: OnCpu | None = None
  """What is lowered for CPUs in place of `make` and `stack`; None: these."""


def as_floats(x: Array, config: NetworkConfig) -> Array:
  """Observations in the type of the torso's arithmetic; bytes become [0, 1]."""
  dtype = jnp.dtype(config.compute_dtype)
  return x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)


class Conv(nn.Module):
  """A convolution with bias over `conv2d`.

  With `frames_in_blocks` k > 0, x holds k frames, each in blocks of stride x
  stride pixels, and the padding is VALID; the parameters are the same.
  `on_cpu` is that of `conv2d`.
  """

  channels: int
  size: int
  stride: int
  padding: str
  dtype: jnp.dtype
  frames_in_blocks: int = 0
  on_cpu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k, size, stride = self.frames_in_blocks, self.size, self.stride
    inputs = x.shape[-1] // stride**2 if k else x.shape[-1]
    kernel = self.param("kernel", fan_in, (size, size, inputs, self.channels))
    bias = self.param("bias", zeros, (self.channels,))
    kernel = kernel.astype(self.dtype)
    if k:
      blocks = (size // stride, stride) * 2
      kernel = kernel.reshape(*blocks, k, inputs // k, self.channels)
      kernel = kernel.transpose(0, 2, 4, 1, 3, 5, 6)
      kernel = kernel.reshape(*kernel.shape[:2], x.shape[-1], self.channels)
      stride = 1
    y = conv2d(
      x, kernel, stride=stride, padding=self.padding, on_cpu=self.on_cpu
    )
    return y + bias.astype(self.dtype)


class Dense(nn.Module):
  """A linear layer with bias over `product`, whose `on_cpu` it is."""

  units: int
  dtype: jnp.dtype
  on_cpu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param("kernel", fan_in, (x.shape[-1], self.units))
    bias = self.param("bias", zeros, (self.units,))
    y = product(x, kernel.astype(self.dtype), on_cpu=self.on_cpu)
    return y + bias.astype(self.dtype)


def _linear(x: Array, config: NetworkConfig, on_cpu: bool) -> Array:
  """The layer between convolutions and core, where there is one."""
  x = x.reshape(x.shape[0], -1)
  if config.torso_units:
    dtype = jnp.dtype(config.compute_dtype)
    x = nn.relu(Dense(config.torso_units, dtype, on_cpu, name="dense")(x))
  return x


class _Nature(nn.Module):
  """DQN's three convolutions (appendix).

  With `on_cpu` the frames come in blocks of the first stride: on CPUs a
  convolution over these is faster than one with a stride.
  """

  config: NetworkConfig
  on_cpu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config = self.config
    x = as_floats(x, config)
    for i, (channels, (size, stride)) in enumerate(
      zip(config.torso_channels, _NATURE_LAYERS, strict=True)
    ):
      x = nn.relu(
        Conv(
          channels,
          size,
          stride,
          "VALID",
          x.dtype,
          frames_in_blocks=config.frame_stack * (i == 0 and self.on_cpu),
          on_cpu=self.on_cpu,
          name=f"conv_{i}",
        )(x)
      )
    return _linear(x, config, self.on_cpu)


class _Impala(nn.Module):
  """IMPALA's 15-layer residual torso."""

  config: NetworkConfig
  on_cpu: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = as_floats(x, self.config)
    for i, channels in enumerate(self.config.torso_channels):
      x = self._stage(x, channels, i)
    return _linear(nn.relu(x), self.config, self.on_cpu)

  def _stage(self, x: Array, channels: int, i: int) -> Array:
    """Convolution, 3x3/2 max-pooling, two residual blocks."""
    conv = functools.partial(
      Conv, channels, 3, 1, "SAME", x.dtype, on_cpu=self.on_cpu
    )
    x = conv(name=f"stage_{i}_conv")(x)
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for j in range(2):
      residual = x
      for k in range(2):
        x = conv(name=f"stage_{i}_block_{j}_conv_{k}")(nn.relu(x))
      x = x + residual
    return x


class _Layers(nn.Module):
  """Linear layers with ReLU over flat inputs; MiniGrid's cells one-hot."""

  config: NetworkConfig
  one_hot: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dtype = jnp.dtype(self.config.compute_dtype)
    if self.one_hot:
      planes = [
        jax.nn.one_hot(x[..., i], n, dtype=dtype)
        for i, n in enumerate(_GRID_VALUES)
      ]
      x = jnp.concatenate(planes, axis=-1)
    else:
      x = as_floats(x, self.config)
    x = x.reshape(x.shape[0], -1)
    for i, units in enumerate(self.config.torso_channels):
      x = nn.relu(nn.Dense(units, dtype=dtype, name=f"dense_{i}")(x))
    return x


def chosen_torso(name: str, spec: EnvSpec) -> str:
  """The name of a torso; of 'auto' the one that suits the observations.

  'nature' for images of at least 36x36, 'mlp' for all else. Of an observation
  of several parts it is that of the images.
  """
  if name != "auto":
    return name
  return "nature" if spec.obs_parts or _is_image(spec) else "mlp"


def _is_image(spec: EnvSpec) -> bool:
  return len(spec.obs_shape) in (2, 3) and min(spec.obs_shape[:2]) >= 36


def _check_images(spec: EnvSpec, config: NetworkConfig) -> None:
  if not _is_image(spec):
    raise ConfigError(
      f"torso '{config.torso}' expects images [H, W] or [H, W, C] of at"
      f" least 36x36, got observations {spec.obs_shape}; use torso 'grid'"
      " for MiniGrid, 'mlp' for small inputs, or 'auto', which chooses"
    )
  if len(config.torso_channels) != 3:
    raise ConfigError(
      f"torso '{config.torso}' expects three torso_channels, got"
      f" {config.torso_channels}"
    )


def _check_grid(spec: EnvSpec, config: NetworkConfig) -> None:
  if (
    len(spec.obs_shape) != 3
    or spec.obs_shape[-1] != len(_GRID_VALUES)
    or spec.obs_dtype != np.uint8
    or config.frame_stack != 1
  ):
    raise ConfigError(
      "torso 'grid' expects MiniGrid's uint8 observations [7, 7, 3] and"
      f" frame_stack 1, got {spec.obs_shape} {spec.obs_dtype} and frame_stack"
      f" {config.frame_stack}"
    )


TORSOS: dict[str, Torso] = {
  "nature": Torso(
    _Nature,
    _check_images,
    on_cpu=OnCpu(
      functools.partial(_Nature, on_cpu=True),
      functools.partial(stack_blocks, size=_NATURE_LAYERS[0][1]),
      in_chunks=True,
    ),
  ),
  "impala": Torso(
    _Impala,
    _check_images,
    on_cpu=OnCpu(functools.partial(_Impala, on_cpu=True), in_chunks=True),
  ),
  "grid": Torso(functools.partial(_Layers, one_hot=True), _check_grid),
  "mlp": Torso(functools.partial(_Layers, one_hot=False)),
}
