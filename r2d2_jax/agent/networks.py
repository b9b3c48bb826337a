"""The recurrent Q-network: frame stack, torso, core, duelling head.

`step` (acting, evaluation) is `unroll` (training) over one row, so that what the
learner computes for a row is what the actor saw.
"""

import dataclasses
import functools
from typing import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from r2d2_jax.agent.convolution import (
    conv2d,
    even_chunk,
    from_blocks,
    to_blocks,
)
from r2d2_jax.agent.lstm import lstm_unroll
from r2d2_jax.agent.observation import GRID_VALUES, check_observation
from r2d2_jax.agent.product import product
from r2d2_jax.config import NetworkConfig
from r2d2_jax.types import AgentInputs, Array, CoreState, EnvSpec, Params

_NATURE_STRIDES = (4, 2, 1)
# Rows of one pass through a torso whose activations nobody needs later: few enough
# to be in the caches still when the next layer reads them.
_CHUNK_ROWS = 320

# Parameters are given their dtype: the default is float64 in JAX's 64-bit mode.
_fan_in = nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class Networks:
  """The network as pure functions of parameters; hashable, for jit closures.

  Attributes:
    init: key -> params, float32.
    initial_core_state: batch size -> CoreState of zeros, leading [B].
    step: (params, inputs [B, ...], core_state [B, ...]) -> (q [B, A], state).
    unroll: (params, inputs [T, B, ...], core_state [B, ...]) -> (q [T, B, A],
      state after the last row). At a row with is_first_t the recurrent state,
      the previous action and the previous reward are null, whatever was given.
    unroll_without_gradient: the same values, no gradient to the parameters, and
      on CPU less memory and time for long batches.
  """

  init: Callable[[Array], Params]
  initial_core_state: Callable[[int], CoreState]
  step: Callable[[Params, AgentInputs, CoreState], tuple[Array, CoreState]]
  unroll: Callable[[Params, AgentInputs, CoreState], tuple[Array, CoreState]]
  unroll_without_gradient: Callable[
      [Params, AgentInputs, CoreState], tuple[Array, CoreState]
  ]


def make_networks(spec: EnvSpec, *, config: NetworkConfig) -> Networks:
  """Builds the network for a world.

  Args:
    spec: shape and dtype of one observation, number of actions.
    config: what to build; the defaults are the paper's (appendix).

  Returns:
    The four functions; none of them is jit-compiled.

  Raises:
    ConfigError: the torso cannot read observations of this shape.
  """
  check_observation(spec, config)
  module = _RecurrentQNetwork(spec.num_actions, config, in_chunks=False)
  # Chosen by measurement, docs/performance.md: accelerators want all rows at once.
  without_gradient = module.clone(
      in_chunks=config.torso in ("nature", "impala")
      and jax.default_backend() == "cpu"
  )

  def initial_core_state(batch_size: int) -> CoreState:
    frames = jnp.zeros(
        (batch_size, config.frame_stack - 1, *spec.obs_shape), spec.obs_dtype
    )
    if config.core == "feedforward":
      return CoreState(frames, ())
    zeros = lambda: jnp.zeros((batch_size, config.core_units), jnp.float32)
    return CoreState(frames, (zeros(), zeros()))

  def unroll(params, inputs, core_state):
    return module.apply(params, inputs, core_state)

  def unroll_without_gradient(params, inputs, core_state):
    return without_gradient.apply(
        jax.lax.stop_gradient(params), inputs, core_state
    )

  def step(params, inputs, core_state):
    q, core_state = unroll(
        params, jax.tree.map(lambda x: x[None], inputs), core_state
    )
    return q[0], core_state

  def init(key):
    inputs = AgentInputs(
        obs_t=jnp.zeros((1, 1, *spec.obs_shape), spec.obs_dtype),
        a_tm1=jnp.zeros((1, 1), jnp.int32),
        r_t=jnp.zeros((1, 1), jnp.float32),
        is_first_t=jnp.ones((1, 1), bool),
    )
    return module.init(key, inputs, initial_core_state(1))

  return Networks(
      init, initial_core_state, step, unroll, unroll_without_gradient
  )


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


def _stack_blocks(
    obs_t: Array, is_first_t: Array, frames: Array, size: int
) -> tuple[Array, Array]:
  """`stack_frames` of images in blocks: [T, B, H / size, W / size, k size^2 C].

  Blocks are cut from single frames, a k-th of the pixels of their stacks. Pixels
  beyond the last whole block are not in them; no window of a convolution whose
  stride is the block's size reaches them.
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


class _RecurrentQNetwork(nn.Module):
  """[T, B] rows -> q [T, B, A]; only the LSTM's recurrence is sequential."""

  num_actions: int
  config: NetworkConfig
  in_chunks: bool  # the torso's rows, one chunk after the other

  @nn.compact
  def __call__(
      self, inputs: AgentInputs, core_state: CoreState
  ) -> tuple[Array, CoreState]:
    config = self.config
    dtype = jnp.dtype(config.compute_dtype)
    is_first_t = inputs.is_first_t
    num_steps, batch_size = is_first_t.shape

    # On CPU a convolution over blocks of stride x stride pixels is faster than
    # one with a stride; chosen by measurement, docs/performance.md.
    in_blocks = config.torso == "nature" and jax.default_backend() == "cpu"
    if in_blocks:
      x, frames = _stack_blocks(
          inputs.obs_t, is_first_t, core_state.frames, _NATURE_STRIDES[0]
      )
    else:
      x, frames = stack_frames(inputs.obs_t, is_first_t, core_state.frames)
    x = x.reshape(num_steps * batch_size, *x.shape[2:])
    torso = _Torso(config, dtype, in_blocks, name="torso")
    x = _in_chunks(torso, x) if self.in_chunks else torso(x)
    x = x.reshape(num_steps, batch_size, -1)

    features = [x]
    seen = ~is_first_t[..., None]
    if config.use_previous_action:
      one_hot = jax.nn.one_hot(inputs.a_tm1, self.num_actions, dtype=dtype)
      features.append(jnp.where(seen, one_hot, 0))
    if config.use_previous_reward:
      r_t = inputs.r_t[..., None].astype(dtype)
      features.append(jnp.where(seen, r_t, 0))
    x = jnp.concatenate(features, axis=-1)

    lstm = core_state.lstm
    if config.core == "lstm":
      x, lstm = _LSTM(config.core_units, dtype, name="core")(
          x, lstm, is_first_t
      )
    else:
      x = nn.relu(nn.Dense(config.core_units, dtype=dtype, name="core")(x))

    # The heads' outputs in float32: targets and priorities are computed there.
    def stream(name, units):
      hidden = nn.Dense(config.head_units, dtype=dtype, name=f"{name}_hidden")
      return nn.Dense(units, dtype=jnp.float32, name=name)(
          nn.relu(hidden(x)).astype(jnp.float32)
      )

    advantage = stream("advantage", self.num_actions)
    value = stream("value", 1)
    q = value + advantage - advantage.mean(axis=-1, keepdims=True)
    return q, CoreState(frames, lstm)


def _in_chunks(torso: nn.Module, x: Array) -> Array:
  """torso(x), some rows after the other, as far as their number allows."""
  rows = x.shape[0]
  size = even_chunk(rows, _CHUNK_ROWS)
  if size in (0, rows):
    return torso(x)
  _, y = nn.scan(
      lambda torso, carry, x: (carry, torso(x)),
      variable_broadcast="params",
      split_rngs={"params": False},
  )(torso, (), x.reshape(-1, size, *x.shape[1:]))
  return y.reshape(rows, -1)


class _LSTM(nn.Module):
  """An LSTM whose input projection is one product over all rows."""

  units: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, state, is_first_t: Array):
    w_x = self.param(
        "w_x", _fan_in, (x.shape[-1], 4 * self.units), jnp.float32
    )
    w_h = self.param(
        "w_h",
        nn.initializers.orthogonal(),
        (self.units, 4 * self.units),
        jnp.float32,
    )
    b = self.param("b", _forget_gate_bias, (4 * self.units,), jnp.float32)
    x_proj = x.astype(self.dtype) @ w_x.astype(self.dtype) + b.astype(
        self.dtype
    )
    outputs, state = lstm_unroll(
        x_proj, w_h.astype(self.dtype), state, is_first_t
    )
    return outputs, state


def _forget_gate_bias(key, shape, dtype):
  """Zeros, but 1 for the forget gate (second of i, f, g, o): it starts open."""
  del key
  return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1.0)


class _Conv(nn.Module):
  """A convolution with bias over `conv2d`.

  With `frames_in_blocks` k > 0, x holds k frames, each in blocks of stride x
  stride pixels, and the padding is VALID; the parameters are the same.
  """

  channels: int
  size: int
  stride: int
  padding: str
  dtype: jnp.dtype
  frames_in_blocks: int = 0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k, size, stride = self.frames_in_blocks, self.size, self.stride
    inputs = x.shape[-1] // stride**2 if k else x.shape[-1]
    kernel = self.param(
        "kernel", _fan_in, (size, size, inputs, self.channels), jnp.float32
    )
    bias = self.param(
        "bias", nn.initializers.zeros, (self.channels,), jnp.float32
    )
    kernel = kernel.astype(self.dtype)
    if k:
      blocks = (size // stride, stride) * 2
      kernel = kernel.reshape(*blocks, k, inputs // k, self.channels)
      kernel = kernel.transpose(0, 2, 4, 1, 3, 5, 6)
      kernel = kernel.reshape(*kernel.shape[:2], x.shape[-1], self.channels)
      stride = 1
    y = conv2d(x, kernel, stride=stride, padding=self.padding)
    return y + bias.astype(self.dtype)


class _Dense(nn.Module):
  """A linear layer with bias over `product`."""

  units: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param(
        "kernel", _fan_in, (x.shape[-1], self.units), jnp.float32
    )
    bias = self.param("bias", nn.initializers.zeros, (self.units,), jnp.float32)
    return product(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class _Torso(nn.Module):
  """[M, ...] stacked observations -> [M, features].

  With `in_blocks` they are in blocks of the first convolution's stride.
  """

  config: NetworkConfig
  dtype: jnp.dtype
  in_blocks: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    config = self.config
    if config.torso == "grid":
      x = jnp.concatenate(
          [
              jax.nn.one_hot(x[..., i], n, dtype=self.dtype)
              for i, n in enumerate(GRID_VALUES)
          ],
          axis=-1,
      )
    elif x.dtype == jnp.uint8:
      x = x.astype(self.dtype) / 255
    else:
      x = x.astype(self.dtype)

    if config.torso == "nature":
      for i, (channels, size, stride) in enumerate(
          zip(config.torso_channels, (8, 4, 3), _NATURE_STRIDES)
      ):
        x = nn.relu(
            _Conv(
                channels, size, stride, "VALID", self.dtype,
                frames_in_blocks=config.frame_stack * (self.in_blocks and i == 0),
                name=f"conv_{i}",
            )(x)
        )  # fmt: skip
    elif config.torso == "impala":
      for i, channels in enumerate(config.torso_channels):
        x = self._residual_stage(x, channels, i)
      x = nn.relu(x)

    x = x.reshape(x.shape[0], -1)
    if config.torso in ("grid", "mlp"):
      for i, units in enumerate(config.torso_channels):
        x = nn.relu(nn.Dense(units, dtype=self.dtype, name=f"dense_{i}")(x))
    elif config.torso_units:
      x = nn.relu(_Dense(config.torso_units, self.dtype, name="dense")(x))
    return x

  def _residual_stage(self, x: Array, channels: int, i: int) -> Array:
    """IMPALA's stage: convolution, 3x3/2 max-pooling, two residual blocks."""
    conv = functools.partial(_Conv, channels, 3, 1, "SAME", self.dtype)
    x = conv(name=f"stage_{i}_conv")(x)
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for j in range(2):
      residual = x
      for k in range(2):
        x = conv(name=f"stage_{i}_block_{j}_conv_{k}")(nn.relu(x))
      x = x + residual
    return x
