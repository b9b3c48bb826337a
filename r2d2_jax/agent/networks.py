"""The recurrent network: frame stack, torso, core, head of values or of a
policy.

`step` (acting, evaluation) is `unroll` (training) over one row, so that what
the learner computes for a row is what the actor saw.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from r2d2_jax.agent.arguments import check_config, check_inputs
from r2d2_jax.agent.cores import CORES
from r2d2_jax.agent.joined_torso import joined_torso
from r2d2_jax.agent.torsos import (
  TORSOS,
  OnCpu,
  Torso,
  chosen_torso,
)
from r2d2_jax.config import ConfigError, NetworkConfig
from r2d2_jax.factories import factory
from r2d2_jax.ops.convolution import even_chunk
from r2d2_jax.types import AgentInputs, Array, CoreState, EnvSpec, Params

_Apply = Callable[[Params, AgentInputs, CoreState], tuple[Any, CoreState]]

# Rows of one pass through a torso whose activations nobody needs later: few
# enough to be in the caches still when the next layer reads them.
_CHUNK_ROWS = 320

# The value of an action that may not be taken: below all others, so that no
# maximum is its, and finite, so that h^-1 and differences of it are.
MASKED_Q = -1e9


class PolicyOutput(NamedTuple):
  """What a network with a policy says of a row, in the place of q."""

  logits: Array  # float32 [..., A], of pi(a | x) = softmax(logits)[a]
  value: Array  # float32 [...], V(x)


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
      Actions that the row does not allow have the value `MASKED_Q`: actors,
      targets and priorities take their maxima over the others.
    unroll_without_gradient: the same values, no gradient to the parameters, and
      on CPU less memory and time for long batches.

  With a policy a `PolicyOutput` stands in the place of q.

  The last three raise ValueError where inputs and state don't fit together.
  """

  init: Callable[[Array], Params]
  initial_core_state: Callable[[int], CoreState]
  step: _Apply
  unroll: _Apply
  unroll_without_gradient: _Apply


def make_networks(
  spec: EnvSpec, *, config: NetworkConfig, policy: bool = False
) -> Networks:
  """Builds the network for a world.

  Args:
    spec: shape and dtype of one observation, number of actions.
    config: what to build; the defaults are the paper's (appendix). Its torso
      and core are names in `TORSOS` and `CORES`, or "module:name" of one's own.
    policy: whether its heads are a policy and a value, instead of values of the
      actions; `dueling` is then not read.

  Returns:
    The four functions; none of them is jit-compiled.

  Raises:
    ConfigError: there is no such torso or core, or the torso cannot read
      observations of this shape.
    TypeError: config is not a NetworkConfig.
  """
  check_config(config, NetworkConfig)
  # As a Gymnasium Dict space has it: shape None.
  if not isinstance(spec.obs_shape, tuple):
    raise ConfigError(
      "expected observations of one array, spec.obs_shape a tuple of sizes,"
      f" got {spec.obs_shape!r}; a world whose observations have several parts"
      " (a Dict) has to join them (r2d2_jax.parts), or leave out all but one"
    )
  torso = factory("network.torso", chosen_torso(config.torso, spec), TORSOS)
  if not isinstance(torso, Torso):
    torso = Torso(torso)
  if spec.obs_parts:
    torso = joined_torso(torso, spec.obs_parts)
  core = factory("network.core", config.core, CORES)
  torso.check(spec, config)

  def network(torso: Torso | OnCpu, in_chunks: bool) -> nn.Module:
    return _RecurrentNetwork(
      spec.num_actions,
      config,
      torso.stack,
      torso.make(config),
      core.make(config),
      policy=policy,
      in_chunks=in_chunks,
    )

  module = network(torso, in_chunks=False)
  if on_cpu := torso.on_cpu:
    apply = _by_platform(network(on_cpu, in_chunks=False), module)
    # Accelerators want all rows at once.
    apply_without_gradient = _by_platform(
      network(on_cpu, in_chunks=on_cpu.in_chunks), module
    )
  else:
    apply = apply_without_gradient = _apply_of(module)

  def initial_core_state(batch_size: int) -> CoreState:
    frames = jnp.zeros(
      (batch_size, config.frame_stack - 1, *spec.obs_shape), spec.obs_dtype
    )
    return CoreState(frames, core.initial_carry(config, batch_size))

  def check(inputs, core_state, axes):
    batch_size = inputs.is_first_t.shape[-1] if inputs.is_first_t.ndim else 0
    zero = jax.eval_shape(lambda: initial_core_state(batch_size))
    num_masked = spec.num_actions if spec.action_mask else None
    check_inputs(
      inputs, core_state, zero=zero, axes=axes, num_masked=num_masked
    )

  def unroll(params, inputs, core_state):
    check(inputs, core_state, "TB")
    return apply(params, inputs, core_state)

  def unroll_without_gradient(params, inputs, core_state):
    check(inputs, core_state, "TB")
    return apply_without_gradient(
      jax.lax.stop_gradient(params), inputs, core_state
    )

  def step(params, inputs, core_state):
    check(inputs, core_state, "B")
    output, core_state = unroll(
      params, jax.tree.map(lambda x: x[None], inputs), core_state
    )
    return jax.tree.map(lambda x: x[0], output), core_state

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


def _apply_of(module: nn.Module) -> _Apply:
  # Without `mutable` flax gives what the module returns, and nothing else.
  return cast(_Apply, module.apply)


def _by_platform(cpu: nn.Module, other: nn.Module) -> _Apply:
  """`apply` of one of two modules, chosen when the program is lowered.

  Not by jax.default_backend() while JAX traces: a program may be lowered for
  another platform than that of this process, or placed on its CPU beside an
  accelerator.
  """

  def apply(params, inputs, core_state):
    return jax.lax.platform_dependent(
      params,
      inputs,
      core_state,
      cpu=_apply_of(cpu),
      default=_apply_of(other),
    )

  return apply


class _RecurrentNetwork(nn.Module):
  """[T, B] rows -> q [T, B, A], or policy and value; only the core's recurrence
  is sequential."""

  num_actions: int
  config: NetworkConfig
  stack: Callable[[Array, Array, Array], tuple[Array, Array]]
  torso: nn.Module
  core: nn.Module
  policy: bool
  in_chunks: bool  # the torso's rows, one chunk after the other

  @nn.compact
  def __call__(
    self, inputs: AgentInputs, core_state: CoreState
  ) -> tuple[Array | PolicyOutput, CoreState]:
    config = self.config
    dtype = jnp.dtype(config.compute_dtype)
    is_first_t = inputs.is_first_t
    num_steps, batch_size = is_first_t.shape

    x, frames = self.stack(inputs.obs_t, is_first_t, core_state.frames)
    x = jax.tree.map(  # a tuple where observations have several parts
      lambda x: x.reshape(num_steps * batch_size, *x.shape[2:]), x
    )
    x = _in_chunks(self.torso, x) if self.in_chunks else self.torso(x)
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

    x, carry = self.core(x, core_state.carry, is_first_t)

    # The heads' outputs in float32: targets and priorities are computed there.
    def stream(name, units):
      y = x
      if config.head_units:
        hidden = nn.Dense(config.head_units, dtype=dtype, name=f"{name}_hidden")
        y = nn.relu(hidden(x))
      return nn.Dense(units, dtype=jnp.float32, name=name)(
        y.astype(jnp.float32)
      )

    mask_t = inputs.action_mask_t

    def allowed(x):
      return x if mask_t is None else jnp.where(mask_t, x, MASKED_Q)

    if self.policy:
      logits = allowed(stream("policy", self.num_actions))
      value = stream("value", 1)[..., 0]
      return PolicyOutput(logits, value), CoreState(frames, carry)
    if config.dueling:
      advantage = stream("advantage", self.num_actions)
      value = stream("value", 1)
      q = value + advantage - advantage.mean(axis=-1, keepdims=True)
    else:
      q = stream("q", self.num_actions)
    return allowed(q), CoreState(frames, carry)


def _in_chunks(torso: nn.Module, x: Array) -> Array:
  """torso(x), some rows after the other, as far as their number allows."""
  rows = jax.tree.leaves(x)[0].shape[0]
  size = even_chunk(rows, _CHUNK_ROWS)
  if size in (0, rows):
    return torso(x)
  _, y = nn.scan(
    lambda torso, carry, x: (carry, torso(x)),
    variable_broadcast="params",
    split_rngs={"params": False},
  )(torso, (), jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), x))
  return y.reshape(rows, -1)
