"""One update of the learner, as a pure function of arrays."""

import functools
from typing import Callable

import jax
import jax.numpy as jnp
import optax

from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.agent.networks import Networks
from r2d2_jax.agent.priorities import importance_weights, sequence_priorities
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Array, LearnerOutput, LearnerState, ReplaySample


def make_optimizer(config: AgentConfig) -> optax.GradientTransformation:
  """Adam behind a clip of the global gradient norm (table 2)."""
  return optax.chain(
      optax.clip_by_global_norm(config.max_grad_norm),
      optax.adam(config.learning_rate, eps=config.adam_epsilon),
  )


def init_learner_state(
    key: Array,
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
) -> LearnerState:
  """Fresh parameters; the target network starts as a copy of the online one."""
  params = networks.init(key)
  return LearnerState(
      params=params,
      # A copy, not an alias: a donated state may not name a buffer twice.
      target_params=jax.tree.map(lambda x: jnp.array(x, copy=True), params),
      opt_state=optimizer.init(params),
      num_updates=jnp.zeros((), jnp.int32),
  )


def learner_step(
    state: LearnerState,
    batch: ReplaySample,
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    config: AgentConfig,
) -> tuple[LearnerState, LearnerOutput]:
  """One R2D2 update: loss, clipped Adam step, new priorities, target copy.

  The target network becomes the new online one after every
  `target_period_updates`-th update. Source: section 2.3, table 2.

  Args:
    state: before the update (`make_learner` donates it).
    batch: items [B, L, ...] and their probabilities; keys are not read.
    networks: from `make_networks`.
    optimizer: from `make_optimizer`, or any other.
    config: the agent's settings.

  Returns:
    The state after the update, and priorities [B] (computed with the parameters
    before it, before the exponent) with metrics: loss; grad_norm before the
    clip; mean and max |td| (rescaled unit); mean over rows of max_a q (rescaled
    unit); the mean importance weight; trained_rows, the transitions that
    counted.
  """
  weights = importance_weights(
      batch.probability, exponent=config.importance_exponent
  )
  (loss, parts), grads = jax.value_and_grad(sequence_loss, has_aux=True)(
      state.params,
      state.target_params,
      batch.sequence,
      weights,
      networks=networks,
      config=config,
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  num_updates = state.num_updates + 1
  target_params = optax.periodic_update(
      params, state.target_params, num_updates, config.target_period_updates
  )
  trained_rows = parts.mask.sum()
  absolute = jnp.abs(parts.td_error)
  valid = batch.sequence.valid_t[:, config.burn_in :].T
  metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(grads),
      "td_abs_mean": absolute.sum() / jnp.maximum(trained_rows, 1),
      "td_abs_max": absolute.max(),
      "q_max_mean": jnp.where(valid, parts.q.max(axis=-1), 0.0).sum()
      / jnp.maximum(valid.sum(), 1),
      "importance_weight_mean": weights.mean(),
      "trained_rows": trained_rows.astype(jnp.float32),
  }
  return (
      LearnerState(params, target_params, opt_state, num_updates),
      LearnerOutput(
          sequence_priorities(
              parts.td_error, parts.mask, eta=config.priority_eta
          ),
          metrics,
      ),
  )


def make_learner(
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    config: AgentConfig,
) -> Callable[[LearnerState, ReplaySample], tuple[LearnerState, LearnerOutput]]:
  """`learner_step`, jit-compiled, its state donated (use the returned one).

  Call it with `keys=None` in the batch: keys stay on the host.
  """
  return jax.jit(
      functools.partial(
          learner_step, networks=networks, optimizer=optimizer, config=config
      ),
      donate_argnums=0,
  )
