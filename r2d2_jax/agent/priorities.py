"""Priorities of sequences and the weights that correct for sampling by them.

The priority's exponent is the replay table's alone (`ReplayConfig.
priority_exponent`): what is computed here goes to it unraised, for new and for
updated items alike.
"""

import jax
import jax.numpy as jnp

from r2d2_jax.types import Array


def sequence_priorities(td_error: Array, mask: Array, *, eta: float) -> Array:
  """p = eta max_t |td_t| + (1 - eta) mean_t |td_t|, over the trained steps.

  Masked steps enter neither the maximum nor the mean's denominator; an item
  without any gets 0. Source: section 2.3.

  Args:
    td_error: float32 [T, B].
    mask: bool [T, B].
    eta: weight of the maximum, 0.9 in the paper.

  Returns:
    float32 [B], at least 0, before the exponent.
  """
  absolute = jnp.where(mask, jnp.abs(td_error), 0.0)
  mean = absolute.sum(axis=0) / jnp.maximum(mask.sum(axis=0), 1)
  return eta * absolute.max(axis=0) + (1.0 - eta) * mean


def annealed_exponent(
  exponent: float, num_updates: Array, *, period_updates: int
) -> Array | float:
  """The importance exponent after some updates: linear from `exponent` to 1.

  Source: PER, section 3.4.

  Args:
    exponent: at update 0.
    num_updates: int32 [], updates so far.
    period_updates: after so many it is 1, and stays so; 0 for a constant one.

  Returns:
    float32 []; with period 0 `exponent` itself.
  """
  if not period_updates:
    return exponent
  progress = jnp.minimum(num_updates / period_updates, 1.0)
  return (exponent + (1.0 - exponent) * progress).astype(jnp.float32)


def importance_weights(
  probability: Array, *, exponent: Array | float, axis_name: str | None = None
) -> Array:
  """w_i = (1 / (N P(i)))^exponent / max_j w_j, normalised over the whole batch.

  N cancels in the normalisation. Where the batch is split over devices, the
  maximum is over all of them. Source: table 2 (0.6); the submission has none
  (exponent 0: exactly 1). A probability, or a weight, below the smallest number
  that float32 holds in full (1.2e-38) counts as that number.

  Args:
    probability: float [B], chance of each item at the time it was sampled, in
      [0, 1].
    exponent: at least 0.
    axis_name: mesh axis over which the batch is split, B being the items of
      this device; None where the array is the whole batch.

  Returns:
    float32 [B], finite and in (0, 1].
  """
  # Smaller ones are flushed to zero: 0 / 0, or a weight of 0.
  tiny = jnp.finfo(jnp.float32).tiny
  probability = jnp.maximum(jnp.asarray(probability, jnp.float32), tiny)
  smallest = probability.min()
  if axis_name is not None:
    smallest = jax.lax.pmin(smallest, axis_name)
  # The ratio first: p^-exponent alone can leave float32's range.
  return jnp.maximum((smallest / probability) ** exponent, tiny)
