"""V-trace: values of one policy from the rows that another one played.

The rules of termination, truncation and padding are those of `targets.py`.
"""

from typing import NamedTuple, cast

import chex
import jax
import jax.numpy as jnp

from r2d2_jax.agent import _rlax
from r2d2_jax.agent.arguments import check_config
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Array

# Ratios below it are flushed to 0 in a division.
_TINY = 1e-30


class VTrace(NamedTuple):
  """What is learned from each transition, rows [T-1, B]."""

  td_error: Array  # float32, v_s - V(x_s); the gradient flows through V(x_s)
  advantage: Array  # float32, weighs grad log pi(a_s); carries no gradient
  mask: Array  # bool, whether the transition counts


def vtrace(
  value: Array,
  log_rho: Array,
  r_t: Array,
  discount_t: Array,
  valid_t: Array,
  *,
  config: AgentConfig,
) -> VTrace:
  """V-trace targets, and the advantages that they make (equation 1).

  With rho_s = min(rho_bar, pi / mu) and c_s = min(c_bar, pi / mu) of the action
  taken in row s, up to the last row n:

      delta_s = rho_s (r_{s+1} + gamma V(x_{s+1}) - V(x_s))
      v_s     = V(x_s) + sum_{t=s}^{n-1} gamma^{t-s} (prod_{i=s}^{t-1} c_i)
                delta_t
      td_s        = v_s - V(x_s)
      advantage_s = rho_s (r_{s+1} + gamma v_{s+1} - V(x_s))

  Edges:
    termination (discount 0) cuts everything after it;
    the end of the valid rows, be it truncation, padding or the item's last row,
    bootstraps from the last valid row, where v is V;
    a transition counts (mask True) only if both of its rows are valid.

  On-policy with both cuts at 1 or above v_s is the n-step return up to the last
  row; with c_bar 0 it is the return of one step. Source: Espeholt et al. 2018,
  section 4.1; the advantage: section 4.2.

  Args:
    value: float32 [T, B], V of rows 0..T-1, in the unit of the rewards.
    log_rho: float32 [T, B], log pi(a_t) - log mu(a_t); the last row is not
      read.
    r_t: float32 [T, B], reward that arrived with each row.
    discount_t: float32 [T, B], the environment's 0 or 1 that arrived with it.
    valid_t: bool [T, B], False in padding; True rows are contiguous.
    config: discount, reward_clip, rho_bar, c_bar.

  Returns:
    Of each transition, exactly 0 where the mask is False.

  Raises:
    AssertionError: the shapes don't fit together.
  """
  check_config(config, AgentConfig)
  chex.assert_rank(value, 2)
  chex.assert_equal_shape([value, log_rho, r_t, discount_t, valid_t])
  mask = valid_t[:-1] & valid_t[1:]
  r_t = r_t[1:]
  if config.reward_clip:
    r_t = jnp.clip(r_t, -config.reward_clip, config.reward_clip)

  def known(x: Array) -> Array:
    return cast(Array, jnp.where(mask, x, 0.0)).astype(value.dtype)

  v_tm1, v_t = known(value[:-1]), known(value[1:])
  r_t, discount_t = known(r_t), known(config.discount * discount_t[1:])
  rho = known(jnp.exp(jax.lax.stop_gradient(log_rho[:-1])))
  # rlax has c = lambda min(1, rho).
  lambda_ = jnp.minimum(config.c_bar, rho) / jnp.maximum(
    jnp.minimum(1.0, rho), _TINY
  )
  td_error = jax.vmap(
    lambda *rows: _rlax.vtrace(*rows, clip_rho_threshold=config.rho_bar),
    in_axes=1,
    out_axes=1,
  )(v_tm1, v_t, r_t, discount_t, rho, lambda_)
  # v_{s+1}, which in the last row is V: no error follows.
  next_error = jnp.concatenate([td_error[1:], jnp.zeros_like(td_error[:1])])
  advantage = jnp.minimum(config.rho_bar, rho) * (
    r_t + discount_t * (v_t + next_error) - v_tm1
  )
  return VTrace(td_error, jax.lax.stop_gradient(advantage), mask)
