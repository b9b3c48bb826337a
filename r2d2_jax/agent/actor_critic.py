"""Actor-critic: a policy that acts by itself, and its loss by V-trace."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from r2d2_jax.agent.acting import explored, lanes_after, lanes_before
from r2d2_jax.agent.arguments import check_config, check_items
from r2d2_jax.agent.networks import Networks, PolicyOutput
from r2d2_jax.agent.vtrace import vtrace
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import (
  ActorOutput,
  ActorState,
  Array,
  LearnerOutput,
  LearnerState,
  Params,
  ReplaySample,
  Sequence,
  Timestep,
)


class ActorCriticOutput(NamedTuple):
  """What the loss is made of, for metrics; rows [T-1, B], float32."""

  td_error: Array  # v_s - V(x_s); 0 where the mask is False
  mask: Array  # bool
  value: Array  # V(x_s)
  entropy: Array  # of the policy, in nats
  rho: Array  # pi / mu of the action taken, before any cut


def init_policy_learner(
  key: Array,
  *,
  networks: Networks,
  optimizer: optax.GradientTransformation,
) -> LearnerState:
  """Fresh parameters; there is no target network."""
  params = networks.init(key)
  return LearnerState(
    params=params,
    target_params=(),
    opt_state=optimizer.init(params),
    num_updates=jnp.zeros((), jnp.int32),
  )


def policy_step(
  params: Params,
  state: ActorState,
  timestep: Timestep,
  epsilon: Array,
  *,
  networks: Networks,
) -> tuple[ActorState, ActorOutput]:
  """Draws actions from the policy in the lanes that `timestep` holds.

  The behaviour is the policy, or with chance epsilon any action,

      mu(a | x) = (1 - epsilon) pi(a | x) + epsilon / A,

  A being the number of actions that the row allows; so what is stored as its
  log-probability holds for any epsilon; A3C and IMPALA have none. All else is
  as in `acting.actor_step`.

  Args:
    params: the actors' parameters.
    state: of all N lanes.
    timestep: rows of B <= N lanes; env_id says which, each at most once.
    epsilon: float32 [N], chance of a uniformly random action, by lane.
    networks: from `make_networks(policy=True)`.

  Returns:
    The state of all N lanes, and the output for the B lanes, in the order of
    `timestep`: q_t are log pi of all actions, log_prob_t is log mu(a_t).
    Nothing carries a gradient.
  """
  before, inputs = lanes_before(state, timestep)
  (logits, _), core_state = networks.step(params, inputs, before.core_state)
  log_pi = jax.nn.log_softmax(logits)
  keys = jax.vmap(lambda k: jax.random.split(k, 4))(before.key)
  chance, num_actions = epsilon[timestep.env_id], logits.shape[-1]
  mask_t = inputs.action_mask_t
  allowed = jnp.float32(num_actions) if mask_t is None else mask_t.sum(axis=-1)
  a_t = explored(
    keys[:, 1],
    keys[:, 2],
    jax.vmap(jax.random.categorical)(keys[:, 3], logits),
    chance,
    num_actions=num_actions,
    action_mask_t=mask_t,
  )
  # In this form log mu is log pi itself where epsilon is 0.
  log_mu = jnp.logaddexp(
    jnp.log1p(-chance) + _select(log_pi, a_t),
    jnp.log(chance) - jnp.log(allowed),
  )
  after = ActorState(core_state, a_t, keys[:, 0])
  return lanes_after(state, timestep, after), ActorOutput(
    a_t, before.a_tm1, log_pi, before.core_state, log_mu
  )


def actor_critic_loss(
  params: Params,
  sequence: Sequence,
  *,
  networks: Networks,
  config: AgentConfig,
) -> tuple[Array, ActorCriticOutput]:
  """Policy, value and entropy, summed over all transitions that count:

      L = sum [ - advantage_s log pi(a_s | x_s) + value_cost td_s^2 / 2
                - entropy_cost H(pi(. | x_s)) ]

  with the advantages and errors of `vtrace`, which are constants but for V(x_s)
  in the error. The network is unrolled over the item from the stored state.
  Source: Espeholt et al. 2018, section 4.2; that items and rows are summed, not
  averaged, and the half in front of the square, are of its program.

  Args:
    params: the gradient's only way in.
    sequence: batch of items, [B, L, ...] with L = trace_length, with
      log_prob_t.
    networks: from `make_networks(policy=True)`.
    config: the agent's settings.

  Returns:
    The loss, float32 [], and its parts.

  Raises:
    ValueError: the axes are not [B, L], or there are no log-probabilities.
  """
  check_config(config, AgentConfig)
  check_items(sequence, config=config)
  if sequence.log_prob_t is None:
    raise ValueError(
      "sequence.log_prob_t: expected the log-probability of each action when"
      " it was chosen, got None; replay keeps it with agent.algorithm 'impala'"
    )
  inputs, a_t, discount_t, valid_t, log_mu = jax.tree.map(
    lambda x: jnp.swapaxes(x, 0, 1),
    (
      sequence.inputs,
      sequence.a_t,
      sequence.discount_t,
      sequence.valid_t,
      sequence.log_prob_t,
    ),
  )
  output, _ = networks.unroll(
    params, inputs, jax.lax.stop_gradient(sequence.core_state)
  )
  logits, value = PolicyOutput(*output)
  log_pi = jax.nn.log_softmax(logits)
  log_pi_a = _select(log_pi, a_t)
  log_rho = jax.lax.stop_gradient(log_pi_a) - log_mu
  td_error, advantage, mask = vtrace(
    value, log_rho, inputs.r_t, discount_t, valid_t, config=config
  )
  entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1)[:-1]
  of_row = (
    -advantage * log_pi_a[:-1]
    + config.value_cost * 0.5 * jnp.square(td_error)
    - config.entropy_cost * entropy
  )
  return jnp.sum(of_row, where=mask), ActorCriticOutput(
    td_error, mask, value[:-1], entropy, jnp.exp(log_rho[:-1])
  )


def actor_critic_gradient(
  params: Params,
  batch: ReplaySample,
  *,
  networks: Networks,
  config: AgentConfig,
  axis_name: str | None = None,
) -> tuple[Params, LearnerOutput]:
  """The gradient of `actor_critic_loss`, and what parameters say of a batch.

  Args:
    params: at which it is taken.
    batch: items [B, L, ...]; probabilities and keys are not read.
    networks: from `make_networks(policy=True)`.
    config: the agent's settings.
    axis_name: mesh axis over which the batch is split; gradient and metrics are
      then over the items of all devices. None for one device.

  Returns:
    The gradient, and priorities [B], the mean |td| of each item, which no queue
    keeps; td_abs_by_row [T-1]; metrics:
      loss, grad_norm, td_abs_mean, td_abs_max: as of `learning.learner_step`,
        td being v_s - V(x_s);
      importance_weight_mean, effective_sample_size: 1, all items weigh the
        same;
      value_mean: mean V(x_s);
      policy_entropy: mean entropy of the policy, nats;
      rho_clipped: share of the transitions whose pi / mu is above rho_bar.

  Raises:
    ValueError: the axes of the batch are not [B, L], or there are no
      log-probabilities.
  """
  check_config(config, AgentConfig)
  total = largest = lambda tree: tree
  if axis_name is not None:
    total = functools.partial(jax.lax.psum, axis_name=axis_name)
    largest = functools.partial(jax.lax.pmax, axis_name=axis_name)
  (loss, parts), grads = jax.value_and_grad(actor_critic_loss, has_aux=True)(
    params, batch.sequence, networks=networks, config=config
  )
  loss, grads = total((loss, grads))
  absolute, mask = jnp.abs(parts.td_error), parts.mask
  over_mask = functools.partial(jnp.sum, where=mask)
  by_row, td_by_row, value, entropy, clipped = total(
    (
      mask.sum(axis=1),
      absolute.sum(axis=1),
      over_mask(parts.value),
      over_mask(parts.entropy),
      over_mask(parts.rho > config.rho_bar),
    )
  )
  count: Any = jnp.maximum(by_row.sum(), 1)
  metrics = {
    "loss": loss,
    "grad_norm": optax.tree.norm(grads),
    "td_abs_mean": td_by_row.sum() / count,
    "td_abs_max": largest(absolute.max()),
    "importance_weight_mean": jnp.ones((), jnp.float32),
    "effective_sample_size": jnp.ones((), jnp.float32),
    "value_mean": value / count,
    "policy_entropy": entropy / count,
    "rho_clipped": clipped / count,
  }
  return grads, LearnerOutput(
    absolute.sum(axis=0) / jnp.maximum(mask.sum(axis=0), 1),
    metrics,
    td_by_row / jnp.maximum(by_row, 1),
  )


def apply_gradient(
  state: LearnerState,
  grads: Params,
  output: LearnerOutput,
  *,
  optimizer: optax.GradientTransformation,
) -> tuple[LearnerState, LearnerOutput]:
  """A step of the optimiser, wherever the gradient was taken.

  Args:
    state: before it; of A3C's workers the one that they share.
    grads: of its parameters, or of older ones (A3C).
    output: of `actor_critic_gradient`.
    optimizer: from `learning.make_optimizer`, or any other.

  Returns:
    The state after it, and the output with two metrics more: update_norm and
    params_norm, as of `learning.learner_step`.
  """
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = output.metrics | {
    "update_norm": optax.tree.norm(updates),
    "params_norm": optax.tree.norm(params),
  }
  return (
    LearnerState(params, state.target_params, opt_state, state.num_updates + 1),
    output._replace(metrics=metrics),
  )


def actor_critic_step(
  state: LearnerState,
  batch: ReplaySample,
  *,
  networks: Networks,
  optimizer: optax.GradientTransformation,
  config: AgentConfig,
  axis_name: str | None = None,
) -> tuple[LearnerState, LearnerOutput]:
  """One update: `actor_critic_gradient` of the state's parameters, applied.

  Args:
    state: before the update (`compile_learner` donates it).
    batch: as for `actor_critic_gradient`, and so are networks, config and
      axis_name.
    networks: see batch.
    optimizer: as for `apply_gradient`.
    config: see batch.
    axis_name: see batch.

  Returns:
    The state after the update, and the output of both.

  Raises:
    ValueError: as of `actor_critic_gradient`.
  """
  grads, output = actor_critic_gradient(
    state.params, batch, networks=networks, config=config, axis_name=axis_name
  )
  return apply_gradient(state, grads, output, optimizer=optimizer)


def _select(x: Array, a: Array) -> Array:
  return jnp.take_along_axis(x, a[..., None], axis=-1)[..., 0]
