"""The learner's loss: burn-in, two unrolls, n-step Q errors, their penalty."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2d2_jax.agent.arguments import (
  check_config,
  check_items,
  check_one_per_item,
)
from r2d2_jax.agent.networks import Networks
from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import AgentInputs, Array, CoreState, Params, Sequence


class LossOutput(NamedTuple):
  """What the loss is made of, for priorities and metrics."""

  td_error: Array  # float32 [T-1, B]
  mask: Array  # bool [T-1, B]
  q: Array  # float32 [T, B, A], online, trained rows


def burn_in(
  params: Params,
  core_state: CoreState,
  prefix: AgentInputs,
  *,
  networks: Networks,
) -> CoreState:
  """Unrolls over the burn-in rows and keeps the state alone (section 3).

  With no rows it returns core_state. No gradient passes through: the trained
  part sees the state as a constant.

  Args:
    params: of the network that will be unrolled further.
    core_state: before the first row, leading [B].
    prefix: rows [T, B, ...], T >= 0.
    networks: from `make_networks`.

  Returns:
    The state before the first trained row, leading [B]; carries no gradient.
  """
  if prefix.is_first_t.shape[0]:
    _, core_state = networks.unroll_without_gradient(params, prefix, core_state)
  return jax.lax.stop_gradient(core_state)


def start_state(core_state: CoreState, *, config: AgentConfig) -> CoreState:
  """The stored state, or the zero state in its place (section 3's strategies).

  'zero' empties the core's carry; the frames, being observations, stay.
  """
  check_config(config, AgentConfig)
  if config.start_state == "stored":
    return core_state
  return core_state._replace(
    carry=jax.tree.map(jnp.zeros_like, core_state.carry)
  )


def half_square(td_error: Array) -> Array:
  """1/2 td^2, R2D2's penalty of an error."""
  return 0.5 * jnp.square(td_error)


def huber(td_error: Array) -> Array:
  """1/2 td^2 up to |td| = 1, |td| - 1/2 beyond: DQN's clipping of errors.

  Its gradient is td clipped to [-1, 1]. Source: Mnih et al. 2015, methods.
  """
  absolute = jnp.abs(td_error)
  clipped = jnp.minimum(absolute, 1.0)
  return clipped * (absolute - 0.5 * clipped)


PENALTIES = {"squared": half_square, "huber": huber}


def sequence_loss(
  params: Params,
  target_params: Params,
  sequence: Sequence,
  weights: Array,
  *,
  networks: Networks,
  config: AgentConfig,
  penalty: Callable[[Array], Array] | None = None,
) -> tuple[Array, LossOutput]:
  """(1/B) sum_b w_b sum_t penalty(td_tb) over the trained transitions.

  Both networks are unrolled over the same rows from the same stored state, each
  with its own parameters, burn-in included. Source: section 2.3 and 3; that the
  squares are summed, not averaged, over time is our reading
  (docs/deviations.md, 1).

  Args:
    params: online parameters; the gradient's only way in.
    target_params: the target network's.
    sequence: batch of items, [B, L, ...] with L = burn_in + trace_length
      + lookahead_rows.
    weights: float32 [B], importance weights.
    networks: from `make_networks`.
    config: the agent's settings.
    penalty: of each error, float32 [T-1, B] -> the same, penalty(0) = 0 (errors
      that do not count are 0). None takes that of `config.loss`; one of your
      own: `functools.partial(sequence_loss, penalty=...)`.

  Returns:
    The loss, float32 [], and its parts.

  Raises:
    ValueError: the axes are not [B, L].
  """
  check_config(config, AgentConfig)
  check_items(sequence, config=config)
  check_one_per_item("weights", weights, sequence)
  inputs, a_t, discount_t, valid_t = jax.tree.map(
    lambda x: jnp.swapaxes(x, 0, 1),
    (sequence.inputs, sequence.a_t, sequence.discount_t, sequence.valid_t),
  )
  state = start_state(sequence.core_state, config=config)
  prefix = jax.tree.map(lambda x: x[: config.burn_in], inputs)
  trace = jax.tree.map(lambda x: x[config.burn_in :], inputs)

  def trace_state(p):
    return burn_in(p, state, prefix, networks=networks)

  q, _ = networks.unroll(params, trace, trace_state(params))
  target_q, _ = networks.unroll_without_gradient(
    target_params, trace, trace_state(target_params)
  )
  td_error, mask = n_step_td_error(
    q,
    jax.lax.stop_gradient(target_q),
    a_t[config.burn_in :],
    trace.r_t,
    discount_t[config.burn_in :],
    valid_t[config.burn_in :],
    config=config,
  )
  penalty = penalty or PENALTIES[config.loss]
  loss = jnp.mean(weights * penalty(td_error).sum(axis=0))
  return loss, LossOutput(td_error, mask, q[: config.trace_length])
