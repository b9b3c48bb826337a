"""One update of the learner, a pure function of arrays, on any devices."""

from collections.abc import Callable
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from r2d2_jax.agent.arguments import check_config, check_one_per_item
from r2d2_jax.agent.donation import Donating
from r2d2_jax.agent.loss import LossOutput, sequence_loss
from r2d2_jax.agent.networks import Networks
from r2d2_jax.agent.priorities import (
  annealed_exponent,
  importance_weights,
  sequence_priorities,
)
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Array, LearnerOutput, LearnerState, ReplaySample

# The mesh axis over which several devices split a batch.
BATCH_AXIS = "batch"

LearnerStep = Callable[..., tuple[LearnerState, LearnerOutput]]
Loss = Callable[..., tuple[Array, LossOutput]]


def make_optimizer(config: AgentConfig) -> optax.GradientTransformation:
  """The optimiser behind a clip of the global gradient norm (table 2: Adam).

  RMSProp divides by the root of the gradients' centred variance,

      g / sqrt(mean(g^2) - mean(g)^2 + epsilon),

  as DQN's own program and Ape-X (appendix C); not centred, as A3C and IMPALA,
  it leaves mean(g)^2 out. The learning rate falls linearly to 0 within
  `learning_rate_decay_updates`, if that is not 0.
  """
  check_config(config, AgentConfig)
  rate = config.learning_rate
  if config.learning_rate_decay_updates:
    rate = optax.linear_schedule(rate, 0.0, config.learning_rate_decay_updates)
  if config.optimizer == "rmsprop":
    step = optax.rmsprop(
      rate,
      decay=config.rmsprop_decay,
      eps=config.rmsprop_epsilon,
      centered=config.rmsprop_centered,
    )
  else:
    step = optax.adam(rate, eps=config.adam_epsilon)
  return optax.chain(
    optax.clip_by_global_norm(config.max_grad_norm)
    if config.max_grad_norm
    else optax.identity(),
    step,
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
  loss: Loss = sequence_loss,
  axis_name: str | None = None,
) -> tuple[LearnerState, LearnerOutput]:
  """One R2D2 update: loss, clipped step, new priorities, target copy.

  The target network becomes the new online one after every
  `target_period_updates`-th update. Source: section 2.3, table 2.

  Under a mesh axis (`axis_name`) each of D devices holds the whole state and
  B / D items. The means, sums and extremes below are then over the items of all
  devices, the gradient included, so that every device takes the same step as
  one device with the whole batch.

  Args:
    state: before the update (`make_learner` donates it).
    batch: items [B, L, ...] and their probabilities; keys are not read. Under
      a mesh axis those of this device, as many as on the others.
    networks: from `make_networks`.
    optimizer: from `make_optimizer`, or any other.
    config: the agent's settings.
    loss: as `sequence_loss`, which is R2D2's.
    axis_name: mesh axis over which the batch is split; None for one device.

  Returns:
    The state after the update, and what the parameters before it say of the
    batch: priorities [B], before the exponent; td_abs_by_row [T-1], mean |td|
    over the items whose transition there counts, 0 where none does; metrics:
      loss;
      grad_norm: before the clip;
      update_norm: of the step that the optimiser makes of it;
      params_norm: after that step;
      td_abs_mean, td_abs_max: over the transitions that count (rescaled unit);
      q_max_mean: mean of max_a q over valid rows (rescaled unit);
      importance_weight_mean;
      effective_sample_size: (sum w)^2 / (B sum w^2) of the importance weights,
        in (0, 1]: the share of the batch that counts, 1 where all weigh the
        same.

  Raises:
    ValueError: the axes of the batch are not [B, L], or probabilities not [B].
  """
  check_config(config, AgentConfig)
  check_one_per_item("probability", batch.probability, batch.sequence)
  if axis_name is None:
    mean = total = largest = lambda tree: tree
  else:
    mean, total, largest = (
      functools.partial(reduce, axis_name=axis_name)
      for reduce in (jax.lax.pmean, jax.lax.psum, jax.lax.pmax)
    )
  weights = importance_weights(
    batch.probability,
    exponent=annealed_exponent(
      config.importance_exponent,
      state.num_updates,
      period_updates=config.importance_anneal_updates,
    ),
    axis_name=axis_name,
  )
  (loss_value, parts), grads = jax.value_and_grad(loss, has_aux=True)(
    state.params,
    state.target_params,
    batch.sequence,
    weights,
    networks=networks,
    config=config,
  )
  # Before the clip, which is of the whole batch's gradient.
  loss_value, grads, weight_mean, weight_square_mean = mean(
    (loss_value, grads, weights.mean(), jnp.square(weights).mean())
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  num_updates = state.num_updates + 1
  target_params = optax.periodic_update(
    params, state.target_params, num_updates, config.target_period_updates
  )
  absolute = jnp.abs(parts.td_error)
  valid = batch.sequence.valid_t[:, config.burn_in :][
    :, : config.trace_length
  ].T
  q_max: jax.Array = parts.q.max(axis=-1)
  # Sums and counts, not ratios: devices differ in how many rows are valid.
  transitions, td_abs_sum, valid_rows, q_max_sum = total(
    (
      parts.mask.sum(axis=1),
      absolute.sum(axis=1),
      valid.sum(),
      jnp.where(valid, q_max, 0.0).sum(),
    )
  )
  metrics = {
    "loss": loss_value,
    "grad_norm": optax.tree.norm(grads),
    "update_norm": optax.tree.norm(updates),
    "params_norm": optax.tree.norm(params),
    "td_abs_mean": td_abs_sum.sum() / jnp.maximum(transitions.sum(), 1),
    "td_abs_max": largest(absolute.max()),
    "q_max_mean": q_max_sum / jnp.maximum(valid_rows, 1),
    "importance_weight_mean": weight_mean,
    "effective_sample_size": jnp.square(weight_mean) / weight_square_mean,
  }
  return (
    LearnerState(params, target_params, opt_state, num_updates),
    LearnerOutput(
      sequence_priorities(parts.td_error, parts.mask, eta=config.priority_eta),
      metrics,
      td_abs_sum / jnp.maximum(transitions, 1),
    ),
  )


def make_learner(
  *,
  networks: Networks,
  optimizer: optax.GradientTransformation,
  config: AgentConfig,
  loss: Loss = sequence_loss,
  mesh: Mesh | None = None,
  donate: bool = True,
) -> LearnerStep:
  """`learner_step` of R2D2, jit-compiled: see `compile_learner`.

  Args:
    networks: from `make_networks`.
    optimizer: from `make_optimizer`, or any other.
    config: the agent's settings.
    loss: as `sequence_loss`.
    mesh: see `compile_learner`.
    donate: see `compile_learner`.

  Raises:
    ValueError: the mesh has another axis, or does not divide the batch.
    TypeError: config is not an AgentConfig.
  """
  check_config(config, AgentConfig)
  step = functools.partial(
    learner_step,
    networks=networks,
    optimizer=optimizer,
    config=config,
    loss=loss,
  )
  return compile_learner(
    step, batch_size=config.batch_size, mesh=mesh, donate=donate
  )


def compile_learner(
  step: LearnerStep,
  *,
  batch_size: int,
  mesh: Mesh | None = None,
  donate: bool = True,
) -> LearnerStep:
  """A learner step, jit-compiled, its state donated: use the returned one.

  Call it with `keys=None` in the batch: keys stay on the host.

  Args:
    step: (state, batch, axis_name=None) -> (state, output), as `learner_step`.
    batch_size: B.
    mesh: the devices that split each batch between them, along its one axis
      `BATCH_AXIS`; each keeps a copy of the state. None for one device, the one
      that holds the arguments.
    donate: False copies the state instead, so that the caller keeps its own;
      for notebooks, where a cell runs twice. Memory then holds both.

  Returns:
    step(state, batch). Under a mesh it wants the shardings of
    `learner_shardings`, places what is not bound to a device yet accordingly,
    and returns the new state, td_abs_by_row and the metrics replicated, the
    priorities split as the batch is, in its order.

  Raises:
    ValueError: the mesh has another axis, or does not divide the batch.
  """
  if mesh is None:
    return Donating(step, argument=0, donate=donate)
  if mesh.axis_names != (BATCH_AXIS,):
    raise ValueError(
      f"expected a mesh with the one axis {BATCH_AXIS!r}, got {mesh.axis_names}"
    )
  if batch_size % mesh.size:
    raise ValueError(
      f"expected a batch that {mesh.size} devices can split evenly, got"
      f" agent.batch_size {batch_size}; change either"
    )
  whole, split = PartitionSpec(), PartitionSpec(BATCH_AXIS)
  return Donating(
    # Explicit: each device sees its own items alone, and what crosses between
    # devices is what learner_step says. Under check_vma the gradient of the
    # replicated parameters would arrive summed over the devices (learner_step
    # averages the local ones), and each scan would have to say which of its
    # carries differ between them.
    jax.shard_map(
      functools.partial(step, axis_name=BATCH_AXIS),
      mesh=mesh,
      in_specs=(whole, split),
      out_specs=(
        whole,
        # Of the whole dict: a spec stands for what is below it.
        LearnerOutput(split, metrics=cast(Any, whole), td_abs_by_row=whole),
      ),
      check_vma=False,
    ),
    argument=0,
    donate=donate,
    in_shardings=learner_shardings(mesh),
  )


def learner_shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
  """Where the learner's arguments live: state on each device, batches split."""
  return (
    NamedSharding(mesh, PartitionSpec()),
    NamedSharding(mesh, PartitionSpec(BATCH_AXIS)),
  )
