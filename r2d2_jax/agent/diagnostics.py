"""What recurrent states are worth: dQ, and acting with a short memory.

Neither is part of the algorithm. Pure, no gradients.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from r2d2_jax.agent.acting import actor_step, init_actor_state
from r2d2_jax.agent.arguments import (
  check_carry,
  check_config,
  check_item_rows,
  check_items,
)
from r2d2_jax.agent.donation import Donating
from r2d2_jax.agent.loss import start_state
from r2d2_jax.agent.networks import Networks
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import (
  ActorState,
  AgentInputs,
  Array,
  CoreState,
  Params,
  Sequence,
  Timestep,
)

# Items whose largest value is nearer to 0 than this don't blow dQ up further.
_MIN_SCALE = 1e-3


def first_and_last_row(valid_t: Array, *, config: AgentConfig) -> Array:
  """The rows at which the paper measures dQ: first and last of the trace.

  Args:
    valid_t: bool [B, L], of whole items.
    config: the agent's settings.

  Returns:
    int32 [B, 2], rows of the item: burn_in, and the last valid one from there
    on (burn_in again where there is none: `q_discrepancy` masks it).

  Raises:
    ValueError: the axes are not [B, L].
  """
  check_config(config, AgentConfig)
  check_item_rows({"valid_t": valid_t}, config=config)
  row = jnp.arange(valid_t.shape[1], dtype=jnp.int32)
  trained = valid_t & (row < config.burn_in + config.trace_length)
  last = jnp.where(trained, row, config.burn_in).max(axis=1)
  return jnp.stack([jnp.full_like(last, config.burn_in), last], axis=1)


def q_discrepancy(
  params: Params,
  sequence: Sequence,
  row_carry: Any,
  rows: Array,
  *,
  networks: Networks,
  config: AgentConfig,
) -> tuple[Array, Array]:
  """dQ: how much staleness of the recurrent state is felt in the values.

      dQ_t = |q(h_hat_t) - q(h_t)|_2 / |max_{j, a} q(h_hat_j)[a]|

  with h_t the state that the actor stored for row t and h_hat_t the one that
  training unrolls to (from `start_state`, burn-in included), both read with
  `params`. The maximum is over the item's own valid trained rows j and the
  actions; where its magnitude is below 1e-3 (rescaled unit) 1e-3 is divided by.
  A maximum near 0 still makes a large ratio: over items take the median rather
  than the mean.

  One unroll of the batch, and one step of B x R lanes. At an episode's first
  row both states are null and dQ is 0; so it is in every row of a feed-forward
  core.
  Source: section 3, figure 1; the floor is ours.

  Args:
    params: today's.
    sequence: items [B, L, ...], L = burn_in + trace_length + lookahead_rows.
    row_carry: `CoreState.carry` of the actor before each row, leaves [B, L,
      ...], as `ReplaySample.row_carry` is with `replay.row_states`; ignored
      where is_first_t, and of a feed-forward core.
    rows: int32 [B, R], or [R] for all items alike: rows of the item, burn-in
      counted, at which to measure; see `first_and_last_row`.
    networks: from `make_networks`.
    config: the agent's settings; burn_in and start_state are read.

  Returns:
    dq: float32 [B, R], 0 where the mask is False.
    mask: bool [B, R], False where the row is padding.

  Raises:
    ValueError: there are no states of the rows though the core has one, or the
      axes are not [B, L].
  """
  check_config(config, AgentConfig)
  check_items(sequence, config=config)
  batch_size, num_rows = sequence.valid_t.shape
  rows = jnp.broadcast_to(rows, (batch_size, rows.shape[-1]))
  at_rows = functools.partial(_take_rows, rows=rows)
  mask = at_rows(sequence.valid_t)
  zero = jax.eval_shape(lambda: networks.initial_core_state(batch_size))
  if not jax.tree.leaves(zero.carry):  # a core without state
    return jnp.zeros(mask.shape, jnp.float32), mask  # not even rounding
  if row_carry is None:
    raise ValueError(
      "row_carry: expected the actor's carry before each row, got None;"
      " replay keeps it with replay.row_states"
    )
  of_row = lambda x: jax.ShapeDtypeStruct(
    (batch_size, num_rows, *x.shape[1:]), x.dtype
  )
  check_carry("row_carry", row_carry, jax.tree.map(of_row, zero.carry))

  q_hat, _ = networks.unroll_without_gradient(
    params,
    jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), sequence.inputs),
    start_state(sequence.core_state, config=config),
  )
  q_hat = jnp.swapaxes(q_hat, 0, 1)

  lanes, core_state = jax.tree.map(
    lambda x: x.reshape(rows.size, *x.shape[2:]),
    (
      jax.tree.map(at_rows, sequence.inputs),
      CoreState(
        _frames_before(sequence, rows), jax.tree.map(at_rows, row_carry)
      ),
    ),
  )
  q, _ = networks.unroll_without_gradient(
    params, jax.tree.map(lambda x: x[None], lanes), core_state
  )
  q = q.reshape(*rows.shape, -1)

  row = jnp.arange(q_hat.shape[1])
  trained = row >= config.burn_in
  trained &= row < config.burn_in + config.trace_length
  largest = jnp.where(
    sequence.valid_t & trained, q_hat.max(axis=-1), -jnp.inf
  ).max(axis=1)
  scale = jnp.maximum(jnp.abs(largest), _MIN_SCALE)
  distance = jnp.linalg.norm(at_rows(q_hat) - q, axis=-1)
  return jnp.where(mask, distance / scale[:, None], 0.0), mask


def _take_rows(x: Array, rows: Array) -> Array:
  """x [B, L, ...] at rows [B, R] -> [B, R, ...]."""
  return jax.vmap(lambda items, i: items[i])(x, rows)


def _frames_before(sequence: Sequence, rows: Array) -> Array:
  """`CoreState.frames` before the given rows: [B, R, k - 1, ...].

  What `networks.stack_frames` carries, by index: the k - 1 frames before a row,
  those from before the episode's first row replaced by that row's.
  """
  obs_t, is_first_t = sequence.inputs.obs_t, sequence.inputs.is_first_t
  frames = sequence.core_state.frames
  count: int = frames.shape[1]
  # Of each row: the episode's first row, if it is in the item, else the oldest
  # frame that came with the item.
  start = jax.lax.cummax(
    jnp.where(is_first_t, jnp.arange(is_first_t.shape[1]), -count), axis=1
  )
  wanted = rows[..., None] + jnp.arange(-count, 0)
  wanted = jnp.maximum(wanted, _take_rows(start, rows)[..., None])
  known = jnp.concatenate([frames, obs_t], axis=1)
  return _take_rows(known, wanted + count)


class HorizonOutput(NamedTuple):
  """What `horizon_actor_step` hands out, for the B lanes that stepped."""

  a_t: Array  # int32 [B], the action to take (epsilon-greedy in q_t)
  q_t: Array  # float32 [B, A], of the core with the short memory
  q_full: Array  # float32 [B, A], of the one with the whole episode's


def init_horizon_state(
  key: Array, num_envs: int, *, horizon: int, networks: Networks
) -> ActorState:
  """State of N lanes before their first row, for `horizon_actor_step`.

  Args:
    key: gives each lane a stream of its own, as in `init_actor_state`.
    num_envs: N lanes.
    horizon: k >= 0, rows remembered.
    networks: from `make_networks`.

  Returns:
    As from `init_actor_state`, but with k + 1 carries per lane, leaves
    [N, k + 1, ...]: those that have seen the last 1, 2, ... k rows, and the one
    that has seen the whole episode.

  Raises:
    ValueError: the horizon is negative.
  """
  if horizon < 0:
    raise ValueError(
      f"horizon: expected at least 0 rows, got {horizon}; for the whole"
      " episode's memory use make_actor"
    )
  state = init_actor_state(key, num_envs, networks=networks)
  frames, carry = state.core_state
  carry = jax.tree.map(
    lambda x: jnp.repeat(x[:, None], horizon + 1, axis=1), carry
  )
  return state._replace(core_state=CoreState(frames, carry))


def horizon_actor_step(
  params: Params,
  state: ActorState,
  timestep: Timestep,
  epsilon: Array,
  *,
  horizon: int,
  networks: Networks,
) -> tuple[ActorState, HorizonOutput]:
  """`actor_step` with a core that remembers the last k rows alone.

  q_t is what a core gives whose carry was zero before row t - k and has seen
  rows t - k .. t: k = 0 is the current row from the zero state. In an episode's
  first k + 1 rows that is the whole of it, and the step is `actor_step`. The
  frame stack, being observation, stays as it is, and so do the action and the
  reward that came with row t - k.

  Instead of unrolling k + 1 rows anew, each lane keeps the carries that began
  1 .. k rows ago one row on; the torso, which they share, runs once.
  Source: section 5, figure 5, which counts observations: its k is horizon + 1.

  Args:
    params: of the network to be judged.
    state: of all N lanes, from `init_horizon_state` with the same horizon.
    timestep: rows of B <= N lanes; env_id says which, each at most once.
    epsilon: float32 [N], chance of a uniformly random action, by lane.
    horizon: k >= 0.
    networks: from `make_networks`.

  Returns:
    The state of all N lanes, and the output for the B lanes, in the order of
    `timestep`; q_full is of the same rows, with the actions that were taken.
  """
  lane = timestep.env_id
  frames, carry = jax.tree.map(lambda x: x[lane], state.core_state)
  # Entry j has seen the last j rows, the last entry all of them.
  carry = jax.tree.map(
    lambda x: jnp.concatenate([jnp.zeros_like(x[:, :1]), x], axis=1), carry
  )
  q, (frames, carry) = jax.vmap(
    networks.step,
    in_axes=(None, None, CoreState(None, 1)),
    out_axes=(0, CoreState(None, 1)),
    axis_size=horizon + 2,
  )(
    params,
    AgentInputs(
      timestep.obs_t,
      state.a_tm1[lane],
      timestep.r_t,
      timestep.is_first_t,
      timestep.action_mask_t,
    ),
    CoreState(frames, carry),
  )
  # Entry k has seen k + 1 rows now: nobody wants it any more.
  core_state = CoreState(
    frames, jax.tree.map(lambda x: jnp.delete(x, horizon, axis=1), carry)
  )
  # The dice and the bookkeeping of the lanes are actor_step's own.
  state, output = actor_step(
    params,
    state,
    timestep,
    epsilon,
    networks=dataclasses.replace(
      networks, step=lambda *_: (q[horizon], core_state)
    ),
  )
  return state, HorizonOutput(output.a_t, output.q_t, q[-1])


def make_horizon_actor(
  *, horizon: int, networks: Networks, donate: bool = True
) -> Callable[..., tuple[ActorState, HorizonOutput]]:
  """`horizon_actor_step`, jit-compiled, its state donated: see `make_actor`."""
  return Donating(
    functools.partial(horizon_actor_step, horizon=horizon, networks=networks),
    argument=1,
    donate=donate,
  )


def compare_q(q_full: Array, q_horizon: Array) -> tuple[Array, Array]:
  """How far the values with a short memory are from those with the whole.

      max_q_gap = |max_a q_full[a] - max_a q_horizon[a]|

  Source: section 5, figure 5, "the difference of max-Q-values and the
  percentage of correct greedy actions (where the unconstrained variant is taken
  as ground truth)". Not relative: values pass through 0. To compare worlds,
  divide the mean gap by the mean of |max_a q_full| over the same rows.

  Args:
    q_full: float32 [..., A], rescaled unit.
    q_horizon: float32 [..., A], of the same rows.

  Returns:
    max_q_gap: float32 [...], rescaled unit, at least 0.
    same_greedy: bool [...], whether argmax_a is the same (the first of equals).
  """
  chex.assert_equal_shape([q_full, q_horizon])
  gap = jnp.abs(q_full.max(axis=-1) - q_horizon.max(axis=-1))
  return gap, jnp.argmax(q_full, axis=-1) == jnp.argmax(q_horizon, axis=-1)
