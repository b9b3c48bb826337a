"""Value rescaling and n-step double-Q errors: where gamma, n and endings meet.

The rules of termination, truncation and padding are all in `n_step_td_error`.
"""

import chex
import jax
import jax.numpy as jnp

from r2d2_jax.agent._rlax import n_step_bootstrapped_returns, signed_hyperbolic
from r2d2_jax.agent.arguments import check_config, check_time_first
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import Array


def rescale(x: Array, *, epsilon: float) -> Array:
  """The paper's h: h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x.

  Source: section 2.3 (Pohlen et al., 2018).

  Args:
    x: float32, any shape, a return in the environment's own unit.
    epsilon: keeps h invertible; 1e-3 in the paper.

  Returns:
    float32, shape of x.
  """
  return signed_hyperbolic(x, epsilon)


def rescale_inverse(y: Array, *, epsilon: float) -> Array:
  """The inverse of `rescale`, accurate in float32 for every y, also near 0.

  With s = sqrt(|x| + 1) the equation |y| = s - 1 + epsilon (s^2 - 1) is, for
  u = s - 1,  epsilon u^2 + (1 + 2 epsilon) u - |y| = 0,  whose positive root in
  its cancellation-free form is

      u = 2 |y| / (1 + 2 epsilon + sqrt((1 + 2 epsilon)^2 + 4 epsilon |y|)),

  and |x| = s^2 - 1 = u (u + 2). The textbook form (rlax's included) subtracts
  numbers near 1 and divides by 2 epsilon: off by 1e-4 near 0, and it can return
  the wrong sign.

  Args:
    y: float32, any shape, a rescaled value.
    epsilon: as in `rescale`, at least 0 (0 gives sign(y) |y| (|y| + 2)).

  Returns:
    float32, shape of y.
  """
  b = 1.0 + 2.0 * epsilon
  magnitude = jnp.abs(y)
  u = 2.0 * magnitude / (b + jnp.sqrt(b * b + 4.0 * epsilon * magnitude))
  return jnp.sign(y) * u * (u + 2.0)


def unrescaled(q: Array, *, config: AgentConfig) -> Array:
  """Learned values in the unit of the rewards: h^-1(q) where h is in use.

  Args:
    q: float32, any shape.
    config: value_rescaling and its epsilon.

  Returns:
    float32, shape of q.
  """
  if not config.value_rescaling:
    return q
  return rescale_inverse(q, epsilon=config.value_rescaling_epsilon)


def n_step_td_error(
  q: Array,
  target_q: Array,
  a_t: Array,
  r_t: Array,
  discount_t: Array,
  valid_t: Array,
  *,
  config: AgentConfig,
) -> tuple[Array, Array]:
  """n-step Q errors of the transitions between T rows, double-Q by default.

  For the transition that starts in row t (the paper's equation 2):

      y_t  = h( sum_{k=1..n} gamma^{k-1} r_{t+k}
                + gamma^n h^-1( target_q_{t+n}[argmax_a q_{t+n}[a]] ) )
      td_t = y_t - q_t[a_t]

  Edges, all of them here:
    termination (discount 0) cuts the rewards and the bootstrap after it;
    the end of the valid rows, be it truncation, padding or the item's last row,
    cuts the rewards and bootstraps from the last valid row, for every n, so
    that the return is shorter, never wrong;
    a transition counts (mask True) only if both of its rows are valid.

  Without `double_q` the maximum over the target network's own values is the
  bootstrap. The last `lookahead_rows` rows are there for the returns of those
  before them: they start no transition.

  Source: section 2.3. The shortened return at an item's end is not in the paper
  (docs/deviations.md, 2).

  Args:
    q: float32 [T, B, A], online values in the rescaled unit, rows 0..T-1;
      those of actions that a row does not allow are below all others
      (`networks.MASKED_Q`), so that no argmax is theirs.
    target_q: float32 [T, B, A], target network's values of the same rows.
    a_t: int32 [T, B], action taken in each row.
    r_t: float32 [T, B], reward that arrived with each row (after a_tm1).
    discount_t: float32 [T, B], the environment's 0 or 1 that arrived with it.
    valid_t: bool [T, B], False in padding; True rows are contiguous.
    config: n_step, discount, value_rescaling, reward_clip, double_q,
      lookahead_rows.

  Returns:
    td_error: float32 [T-1-lookahead_rows, B], exactly 0 where the mask is
      False; the gradient flows through q_t[a_t] alone.
    mask: bool, of the same shape.

  Raises:
    ValueError: the axes are in the order [B, T].
    AssertionError: the shapes don't fit together.
  """
  check_config(config, AgentConfig)
  chex.assert_rank([q, target_q], 3)
  chex.assert_equal_shape([q, target_q])
  chex.assert_equal_shape([a_t, r_t, discount_t, valid_t, q[..., 0]])
  check_time_first(q, config=config)
  if config.value_rescaling:
    eps = config.value_rescaling_epsilon
    apply, apply_inverse = (
      lambda x: rescale(x, epsilon=eps),
      lambda y: rescale_inverse(y, epsilon=eps),
    )
  else:
    apply = apply_inverse = lambda x: x

  q_tm1, a_tm1, r_t = q[:-1], a_t[:-1], r_t[1:]
  if config.reward_clip:
    r_t = jnp.clip(r_t, -config.reward_clip, config.reward_clip)
  mask = valid_t[:-1] & valid_t[1:]
  best_a_t = jnp.argmax((q if config.double_q else target_q)[1:], axis=-1)
  v_t = apply_inverse(_select(target_q[1:], best_a_t))

  # rlax's recursion G = r + d ((1 - lambda) v + lambda G') with lambda = 0
  # where no valid transition follows is a return that stops there and
  # bootstraps.
  goes_on = jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])
  returns = jax.vmap(
    lambda r, d, v, x: n_step_bootstrapped_returns(r, d, v, config.n_step, x),
    in_axes=1,
    out_axes=1,
  )(
    jnp.where(mask, r_t, 0.0),
    jnp.where(mask, config.discount * discount_t[1:], 0.0),
    jnp.where(mask, v_t, 0.0),
    goes_on.astype(jnp.float32),
  )
  # rlax pads with float64 in JAX's 64-bit mode.
  target_tm1 = jax.lax.stop_gradient(apply(returns.astype(v_t.dtype)))
  td_error: Array = jnp.where(mask, target_tm1 - _select(q_tm1, a_tm1), 0.0)
  trained = td_error.shape[0] - config.lookahead_rows
  return td_error[:trained], mask[:trained]


def _select(q: Array, a: Array) -> Array:
  return jnp.take_along_axis(q, a[..., None], axis=-1)[..., 0]
