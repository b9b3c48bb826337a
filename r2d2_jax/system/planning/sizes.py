"""Sizes of the parts of a run: agent, update, replay items.

Shapes decide most of it, and are JAX's own: nothing is computed to learn them.
What they cannot tell was measured once and is a constant below;
docs/planning.md has the measurements.
"""

import math
from typing import NamedTuple

import jax
from jax.extend.core import Literal
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config
from r2d2_jax.replay.items import stored_specs
from r2d2_jax.types import AgentInputs, CoreState, EnvSpec, Params

# A uint8 observation in Reverb, as a share of its raw size: the worst of 57
# Atari games, random play (Yars' Revenge; the second is at 0.16, the median at
# 0.09).
_COMPRESSION = 0.25
# Floats and small fields: noise, which does not compress, takes 1.05 to 1.1.
_INCOMPRESSIBLE = 1.1
# Bytes beside an item's rows and state, for each of its own blocks and for the
# item. Reverb: chunks and their keys. Local: objects of Python, arrays of
# numpy.
_REVERB_BLOCK_BYTES, _REVERB_ITEM_BYTES = 1300, 1400
_LOCAL_BLOCK_BYTES, _LOCAL_ARRAY_BYTES, _LOCAL_ITEM_BYTES = 230, 140, 750
# Largest memory of a compiled update, as a multiple of what the trained rows
# keep for the gradient: 1.5 to 1.74 was measured; 'impala' 2.96, as any other
# torso may.
_UPDATE_FACTOR = {"nature": 1.8, "grid": 1.8, "mlp": 1.8, "auto": 1.8}
_UPDATE_FACTOR_OTHERS = 3.1
_FLOAT_BYTES = 4


class AgentSize(NamedTuple):
  """What an agent takes."""

  num_params: int
  params_bytes: int
  learner_bytes: int  # all of its state: both networks, the optimiser's moments
  core_state: CoreState  # of one lane, leading [1]; shapes and dtypes
  row_bytes: float  # what one trained row keeps for the gradient


def agent_size(
  agent: Agent, config: Config, spec: EnvSpec, num_devices: int = 1
) -> AgentSize:
  """Sizes of any agent, by tracing its functions.

  Args:
    agent: as `make_r2d2_agent` makes it.
    config: batch and lengths.
    spec: what the world says of itself.
    num_devices: that split the batch.
  """
  state = jax.eval_shape(lambda: agent.init(jax.random.key(0)))
  items = max(config.agent.batch_size // num_devices, 1)
  kept = _kept_bytes(
    agent, state.params, config.agent.unrolled_rows, items, spec
  )
  return AgentSize(
    sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    tree_bytes(state.params),
    tree_bytes(state),
    jax.eval_shape(lambda: agent.initial_core_state(1)),
    kept / (config.agent.unrolled_rows * items),
  )


def _kept_bytes(
  agent: Agent, params: Params, rows: int, items: int, spec: EnvSpec
) -> int:
  """What the gradient of an unroll keeps of the forward pass.

  These are the residuals of `jax.vjp`, beside its arguments.
  """
  field = lambda dtype, shape=(): jax.ShapeDtypeStruct(
    (rows, items, *shape), dtype
  )
  inputs = AgentInputs(
    field(spec.obs_dtype, spec.obs_shape),
    field(np.int32),
    field(np.float32),
    field(bool),
    field(bool, (spec.num_actions,)) if spec.action_mask else None,
  )
  core_state = jax.eval_shape(lambda: agent.initial_core_state(items))

  def residuals(params, inputs, core_state):
    unroll = lambda p: agent.networks.unroll(p, inputs, core_state)[0]
    return jax.vjp(unroll, params)[1]

  jaxpr = jax.make_jaxpr(residuals)(params, inputs, core_state).jaxpr
  # An array may be named several times; a literal has no name.
  kept = {_origin(var, jaxpr) for var in jaxpr.outvars} - {None}
  return sum(_array_bytes(var.aval) for var in kept.difference(jaxpr.invars))


def _origin(var, jaxpr):
  """The variable that an array was made as, here or in the branch of a `cond`.

  None where it is one number everywhere, as a ReLU's zeros: never stored.
  """
  if isinstance(var, Literal):
    return None
  for equation in jaxpr.eqns:
    if var in equation.outvars:
      place, params = equation.outvars.index(var), equation.params
      if equation.primitive.name == "broadcast_in_dim":
        return None if isinstance(equation.invars[0], Literal) else var
      if equation.primitive.name in ("jit", "pjit"):
        called = params["jaxpr"].jaxpr
        # Not what was found: several calls may share it.
        return var if _origin(called.outvars[place], called) else None
      if "branches_platforms" in params:
        called = _branch_here(params)
        origin = _origin(called.outvars[place], called)
        if origin in called.invars:
          argument = equation.invars[1 + called.invars.index(origin)]
          return _origin(argument, jaxpr)
        return origin
  return var


def _branch_here(params):
  """The branch of a `platform_dependent` that is lowered on this machine.

  It has zeros in place of what only the others keep.
  """
  here = jax.local_devices()[0].client.platform
  for platforms, branch in zip(
    params["branches_platforms"], params["branches"], strict=True
  ):
    if platforms is None or here in platforms:
      return branch.jaxpr
  raise AssertionError(f"no branch for {here}")


def _array_bytes(array) -> int:
  itemsize = array.dtype.itemsize
  # bfloat16 was seen to be kept as float32 (docs/planning.md).
  if jnp.issubdtype(array.dtype, jnp.inexact):
    itemsize = max(itemsize, _FLOAT_BYTES)
  return array.size * itemsize


def tree_bytes(tree) -> int:
  """Bytes of all arrays, or shapes, of a pytree."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def update_bytes(
  config: Config, agent: AgentSize, num_devices: int = 1
) -> float:
  """Memory of one update on each device, beside its arguments.

      parameters + max(factor x (trace_length + lookahead_rows), burn_in)
        x items x row_bytes

  The gradient has the size of the parameters. What the trained rows keep stays
  for it, and the factor, measured, covers what comes on top; the burn-in is
  over before and keeps nothing.

  Args:
    config: batch and lengths.
    agent: from `agent_size`.
    num_devices: that split the batch.
  """
  factor = _UPDATE_FACTOR.get(config.network.torso, _UPDATE_FACTOR_OTHERS)
  rows = max(factor * config.agent.unrolled_rows, config.agent.burn_in)
  rows *= config.agent.batch_size / num_devices
  return agent.params_bytes + rows * agent.row_bytes


class ItemSize(NamedTuple):
  """What a replay item takes, in bytes."""

  row_bytes: int  # one row, raw
  state_bytes: int  # the state before its first row, raw
  lone_bytes: int  # rows and state raw: in a batch, or if nothing were shared
  stored_bytes: float  # as the replay keeps it, in an episode of many items
  short_episode_bytes: float  # the same, in an episode as long as the trace


def item_size(config: Config, spec: EnvSpec, core_state: CoreState) -> ItemSize:
  """Sizes of items in the replay that `config.replay` asks for.

  Neighbouring items share blocks, which are stored once. With S = trace_length
  - overlap an item brings S rows of its own where episodes are long, and at
  most trace_length where they end with it:

      stored = own_rows x row + state + own_rows / R x (per block) + (per item)

  A row in the local replay is raw and carries the actor's values, 4 bytes x
  actions. In Reverb uint8 observations take 0.25 of their size at most, the
  rest 1.1: see docs/planning.md.

  Args:
    config: backend and lengths.
    spec: what the world says of itself.
    core_state: of one lane, leading [1]; arrays or shapes.
  """
  agent = config.agent
  specs = stored_specs(config, spec, core_state)
  fields = {
    name: math.prod(shape) * dtype.itemsize
    for name, (shape, dtype) in specs.items()
  }
  obs_bytes, row_bytes = fields["obs_t"], sum(fields.values())
  frames_bytes, state_bytes = (
    tree_bytes(core_state.frames),
    tree_bytes(core_state),
  )

  if config.replay.backend == "local":
    block_rows = config.block_rows
    stored_row = row_bytes + _FLOAT_BYTES * spec.num_actions
    stored_state = state_bytes
    arrays = len(fields) + 1  # of a block: the values too
    per_block = _LOCAL_BLOCK_BYTES + _LOCAL_ARRAY_BYTES * arrays
    per_item = _LOCAL_ITEM_BYTES
  else:
    block_rows = config.chunk_rows
    share = _COMPRESSION if spec.obs_dtype.itemsize == 1 else _INCOMPRESSIBLE
    as_stored = lambda whole, frames: (
      share * frames + _INCOMPRESSIBLE * (whole - frames)
    )
    stored_row = as_stored(row_bytes, obs_bytes)
    stored_state = as_stored(state_bytes, frames_bytes)
    per_block, per_item = _REVERB_BLOCK_BYTES, _REVERB_ITEM_BYTES

  def stored(own_rows: int) -> float:
    blocks = own_rows / block_rows
    return own_rows * stored_row + stored_state + blocks * per_block + per_item

  return ItemSize(
    row_bytes,
    state_bytes,
    config.item_rows * row_bytes + state_bytes,
    stored(agent.trace_length - agent.overlap),
    stored(agent.trace_length),
  )


def table_bytes(config: Config) -> int:
  """What a replay of this capacity takes empty: the local one's tree and lists.

  16 x 2^ceil(log2 capacity) + 12 x capacity. Reverb's is in the bytes per item.
  """
  if config.replay.backend != "local":
    return 0
  capacity = config.replay.capacity_sequences
  return 16 * (1 << max(capacity - 1, 1).bit_length()) + 12 * capacity


def size_in_words(num_bytes: float) -> str:
  """Bytes for people: three digits and a unit."""
  for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
    if num_bytes >= size:
      # Without a fraction where three digits are there already.
      value = num_bytes / size
      return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
  return f"{num_bytes:.0f} bytes"
