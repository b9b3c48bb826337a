"""How large things are: network, replay, one update. Formulas, without JAX.

Shapes decide most of it, exactly. What they cannot tell was measured once and is a
constant below, its measurement beside it; docs/planning.md has them all.
"""

import math
from typing import NamedTuple

import numpy as np

from r2d2_jax.config import Config, NetworkConfig
from r2d2_jax.replay.sequences import row_specs
from r2d2_jax.types import CoreState, EnvSpec

# A uint8 observation in Reverb, as a share of its raw size: the worst of 57 Atari
# games, random play (Yars' Revenge; the second is at 0.16, the median at 0.09).
_COMPRESSION = 0.25
# Floats and small fields: noise, which does not compress, takes 1.05 to 1.1.
_INCOMPRESSIBLE = 1.1
# Bytes beside an item's rows and state, for each of its own blocks and for the
# item. Reverb: chunks and their keys. Local: objects of Python, arrays of numpy.
_REVERB_BLOCK_BYTES, _REVERB_ITEM_BYTES = 1300, 1400
_LOCAL_BLOCK_BYTES, _LOCAL_ARRAY_BYTES, _LOCAL_ITEM_BYTES = 230, 140, 750
# Largest memory of a compiled update, as a multiple of what the forward pass of the
# trained rows keeps: 1.5 to 1.85 was measured, 'impala' 2.45.
_UPDATE_FACTOR = {"impala": 2.6}
_UPDATE_FACTOR_OTHERS = 2.0
_FLOAT_BYTES = 4

_GRID_PLANES = 11 + 6 + 4  # one-hot planes of MiniGrid's three channels
_NATURE_LAYERS = ((8, 4), (4, 2), (3, 1))  # size and stride of the convolutions


class NetworkSize(NamedTuple):
  """What a network takes."""

  num_params: int
  row_numbers: int  # inputs and outputs of all layers for one row: what a gradient
  #                   needs of the forward pass


def network_size(spec: EnvSpec, config: NetworkConfig) -> NetworkSize:
  """Parameters of `make_networks(spec, config=config)`, and numbers per row.

  A layer from n to m numbers has (n + 1) m parameters, a convolution of s x s
  pixels from c to o channels (s^2 c + 1) o, the LSTM of D units over n numbers
  4 D (n + D + 1).

  Args:
    spec: what the world says of itself.
    config: the network; one that `make_networks` accepts.
  """
  params, numbers = 0, 0

  def dense(inputs: int, units: int) -> int:
    nonlocal params, numbers
    params += (inputs + 1) * units
    numbers += units
    return units

  def conv(shape: tuple[int, int, int], channels: int, size: int,
           sides: tuple[int, int]) -> tuple[int, int, int]:
    nonlocal params, numbers
    params += (size**2 * shape[-1] + 1) * channels
    numbers += math.prod(sides) * channels
    return (*sides, channels)

  shape = spec.obs_shape
  width = math.prod(shape) * config.frame_stack
  if config.torso == "grid":
    width = math.prod(shape[:2]) * _GRID_PLANES
  numbers += width
  if config.torso in ("nature", "impala"):
    image = (shape[0], shape[1], width // (shape[0] * shape[1]))
    for i, channels in enumerate(config.torso_channels):
      if config.torso == "nature":
        size, stride = _NATURE_LAYERS[i]
        sides = tuple((side - size) // stride + 1 for side in image[:2])
        image = conv(image, channels, size, sides)
      else:
        image = conv(image, channels, 3, image[:2])
        image = (-(-image[0] // 2), -(-image[1] // 2), channels)
        numbers += math.prod(image)
        for _ in range(4):
          image = conv(image, channels, 3, image[:2])
          numbers += math.prod(image)  # the rectified input
    width = math.prod(image)
    if config.torso_units:
      width = dense(width, config.torso_units)
  else:
    for units in config.torso_channels:
      width = dense(width, units)

  width += config.use_previous_action * spec.num_actions
  width += config.use_previous_reward
  units = config.core_units
  if config.core == "lstm":
    params += 4 * units * (width + units + 1)
    numbers += 10 * units  # projection, gates, cell, output
  else:
    dense(width, units)
  for outputs in (spec.num_actions, 1):
    dense(dense(units, config.head_units), outputs)
  return NetworkSize(params, numbers)


class ItemSize(NamedTuple):
  """What a replay item takes, in bytes."""

  row_bytes: int  # one row, raw
  state_bytes: int  # the state before its first row, raw
  lone_bytes: int  # rows and state raw: in a batch, or if nothing were shared
  stored_bytes: float  # as the replay keeps it, in an episode of many items
  short_episode_bytes: float  # the same, in an episode as long as the trace


def item_size(config: Config, spec: EnvSpec) -> ItemSize:
  """Sizes of items in the replay that `config.replay` asks for.

  Neighbouring items share blocks, which are stored once. With S = trace_length -
  overlap an item brings S rows of its own where episodes are long, and at most
  trace_length where they end with it:

      stored = own_rows x row + state + own_rows / R x (per block) + (per item)

  A row in the local replay is raw and carries the actor's values, 4 bytes x
  actions. In Reverb uint8 observations take 0.25 of their size at most, the rest
  1.1: see docs/planning.md.

  Args:
    config: backend, lengths, core.
    spec: what the world says of itself.
  """
  agent = config.agent
  core_state = _example_core_state(config.network, spec)
  fields = {
      name: math.prod(shape) * dtype.itemsize
      for name, (shape, dtype) in row_specs(
          spec, core_state, config.replay.row_states
      ).items()
  }
  obs_bytes, row_bytes = fields["obs_t"], sum(fields.values())
  frames_bytes = core_state.frames.nbytes
  lstm_bytes = sum(leaf.nbytes for leaf in core_state.lstm)
  state_bytes = frames_bytes + lstm_bytes

  if config.replay.backend == "local":
    stored_row = row_bytes + _FLOAT_BYTES * spec.num_actions
    stored_state = state_bytes
    arrays = len(fields) + 1  # of a block: the values too
    per_block = _LOCAL_BLOCK_BYTES + _LOCAL_ARRAY_BYTES * arrays
    per_item = _LOCAL_ITEM_BYTES
  else:
    share = _COMPRESSION if spec.obs_dtype.itemsize == 1 else _INCOMPRESSIBLE
    stored_row = share * obs_bytes + _INCOMPRESSIBLE * (row_bytes - obs_bytes)
    stored_state = share * frames_bytes + _INCOMPRESSIBLE * lstm_bytes
    per_block, per_item = _REVERB_BLOCK_BYTES, _REVERB_ITEM_BYTES

  def stored(own_rows: int) -> float:
    blocks = own_rows / config.block_rows
    return own_rows * stored_row + stored_state + blocks * per_block + per_item

  return ItemSize(
      row_bytes,
      state_bytes,
      config.item_rows * row_bytes + state_bytes,
      stored(agent.trace_length - agent.overlap),
      stored(agent.trace_length),
  )


def _example_core_state(config: NetworkConfig, spec: EnvSpec) -> CoreState:
  """What the network's `initial_core_state(1)` is, in numpy."""
  lstm = np.zeros((1, config.core_units), np.float32)
  return CoreState(
      np.zeros((1, config.frame_stack - 1, *spec.obs_shape), spec.obs_dtype),
      (lstm, lstm) if config.core == "lstm" else (),
  )


def table_bytes(config: Config) -> int:
  """What a replay of this capacity takes empty: the local one's tree and lists.

  16 x 2^ceil(log2 capacity) + 12 x capacity. Reverb's is in the bytes per item.
  """
  if config.replay.backend != "local":
    return 0
  capacity = config.replay.capacity_sequences
  return 16 * (1 << max(capacity - 1, 1).bit_length()) + 12 * capacity


def update_bytes(config: Config, network: NetworkSize, devices: int = 1) -> float:
  """Memory of one update on each device, beside its arguments.

      4 bytes x (parameters + max(factor x trace_length, burn_in) x items x row
                 numbers)

  The gradient has the size of the parameters. The trained rows' forward pass is
  kept for it, and the factor, measured, covers what comes on top; the burn-in is
  over before and keeps nothing.

  Args:
    config: batch and lengths.
    network: from `network_size`.
    devices: that split the batch.
  """
  agent = config.agent
  factor = _UPDATE_FACTOR.get(config.network.torso, _UPDATE_FACTOR_OTHERS)
  rows = max(factor * agent.trace_length, agent.burn_in)
  rows *= agent.batch_size / devices
  return _FLOAT_BYTES * (network.num_params + rows * network.row_numbers)
