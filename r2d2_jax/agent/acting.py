"""Acting: epsilon-greedy steps of many lanes, and an item's first priority."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.arguments import check_config, check_item_rows
from r2d2_jax.agent.donation import Donating
from r2d2_jax.agent.networks import Networks
from r2d2_jax.agent.priorities import sequence_priorities
from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import AgentConfig
from r2d2_jax.types import (
  ActorOutput,
  ActorState,
  AgentInputs,
  Array,
  Params,
  Timestep,
)


def epsilon_ladder(num_envs: int, *, base: float, alpha: float) -> np.ndarray:
  """epsilon_i = base^(1 + alpha i / (N - 1)), fixed for the run.

  Source: Ape-X, used by R2D2 with base 0.4 and alpha 7: from 0.4 down to
  0.4^8 = 0.00066. A single lane gets epsilon_0 = base.

  Args:
    num_envs: N lanes.
    base: exploration of lane 0, in [0, 1].
    alpha: how far the ladder goes down.

  Returns:
    float32 [N].
  """
  i = np.arange(num_envs)
  return (base ** (1 + alpha * i / max(num_envs - 1, 1))).astype(np.float32)


def linear_epsilon(
  num_steps: int, *, start: float, end: float, decay_steps: int
) -> float:
  """DQN's exploration: from `start` to `end` in a straight line, then constant.

  Source: Mnih et al. 2015, extended data table 1: from 1 to 0.1 within 1e6.

  Args:
    num_steps: agent steps so far, all lanes together.
    start: at step 0.
    end: from step `decay_steps` on.
    decay_steps: above 0.
  """
  return start + (end - start) * min(num_steps / decay_steps, 1.0)


def exploration(
  num_envs: int, *, config: AgentConfig, lanes: np.ndarray | None = None
) -> Callable[[int], Array]:
  """Agent steps so far -> epsilon of each lane, float32 [N].

  As `config.exploration` says: the ladder, whatever the step, or the line.
  With `lanes`, int [M], of these alone, [M]: a process that has some of a
  run's N lanes.
  """
  check_config(config, AgentConfig)
  if config.exploration == "ladder":
    ladder = epsilon_ladder(
      num_envs, base=config.epsilon_base, alpha=config.epsilon_alpha
    )
    epsilon = jax.device_put(ladder if lanes is None else ladder[lanes])
    return lambda num_steps: epsilon
  return lambda num_steps: np.full(
    num_envs if lanes is None else len(lanes),
    linear_epsilon(
      num_steps,
      start=config.epsilon_start,
      end=config.epsilon_end,
      decay_steps=config.epsilon_decay_steps,
    ),
    np.float32,
  )


def init_actor_state(
  key: Array, num_envs: int, *, networks: Networks
) -> ActorState:
  """State of N lanes before their first row: zeros, and a key for each."""
  return ActorState(
    core_state=networks.initial_core_state(num_envs),
    a_tm1=jnp.zeros(num_envs, jnp.int32),
    key=jax.random.split(key, num_envs),
  )


def actor_step(
  params: Params,
  state: ActorState,
  timestep: Timestep,
  epsilon: Array,
  *,
  networks: Networks,
) -> tuple[ActorState, ActorOutput]:
  """Acts epsilon-greedily in the lanes that `timestep` holds.

  Lanes that are not in it keep their state; each lane draws from a key of its
  own, so that its actions don't depend on the order in which lanes arrive.
  Where `is_first_t`, the networks ignore the state, the action and the reward
  before the row (see `networks.unroll`). Where rows have an action mask, the
  greedy action and the random one, uniform, are among those that it allows.

  Args:
    params: the actors' parameters.
    state: of all N lanes.
    timestep: rows of B <= N lanes; env_id says which, each at most once.
    epsilon: float32 [N], chance of a uniformly random action, by lane.
    networks: from `make_networks`.

  Returns:
    The state of all N lanes, and the output for the B lanes, in the order of
    `timestep`. Nothing carries a gradient.
  """
  before, inputs = lanes_before(state, timestep)
  q_t, core_state = networks.step(params, inputs, before.core_state)
  keys = jax.vmap(lambda k: jax.random.split(k, 3))(before.key)
  a_t = explored(
    keys[:, 1],
    keys[:, 2],
    jnp.argmax(q_t, axis=-1),
    epsilon[timestep.env_id],
    num_actions=q_t.shape[-1],
    action_mask_t=timestep.action_mask_t,
  )
  after = ActorState(core_state, a_t, keys[:, 0])
  return lanes_after(state, timestep, after), ActorOutput(
    a_t, before.a_tm1, q_t, before.core_state
  )


def lanes_before(
  state: ActorState, timestep: Timestep
) -> tuple[ActorState, AgentInputs]:
  """State of the lanes that `timestep` holds, and what the networks read."""
  before = jax.tree.map(lambda x: x[timestep.env_id], state)
  return before, AgentInputs(
    timestep.obs_t,
    before.a_tm1,
    timestep.r_t,
    timestep.is_first_t,
    timestep.action_mask_t,
  )


def lanes_after(
  state: ActorState, timestep: Timestep, after: ActorState
) -> ActorState:
  """State of all lanes, once those of `timestep` have their new one."""
  return jax.tree.map(lambda x, y: x.at[timestep.env_id].set(y), state, after)


def explored(
  action_key: Array,
  chance_key: Array,
  a_t: Array,
  epsilon: Array,
  *,
  num_actions: int,
  action_mask_t: Array = None,
) -> Array:
  """The actions, or with chance epsilon uniformly random ones.

  Args:
    action_key: a key of each lane [B], for the random action.
    chance_key: another one, for whether it is taken.
    a_t: int [B], what would be done without exploration.
    epsilon: float32 [B].
    num_actions: of the world.
    action_mask_t: bool [B, A], of which the random ones are; None allows all.

  Returns:
    int32 [B].
  """
  # With their dtypes: in JAX's 64-bit mode the default ones draw other numbers.
  if action_mask_t is None:
    random_a = jax.vmap(
      lambda k: jax.random.randint(k, (), 0, num_actions, jnp.int32)
    )(action_key)
  else:
    random_a = _random_allowed(action_key, action_mask_t)
  chance = jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32))(
    chance_key
  )
  chosen: Array = jnp.where(chance < epsilon, random_a, a_t)
  return chosen.astype(jnp.int32)


def _random_allowed(keys: Array, mask_t: Array) -> Array:
  """The n-th of the actions that a row allows, n uniform; int32 [B].

  Where all are allowed it is the one that is drawn without a mask.
  """
  n = jax.vmap(lambda k, count: jax.random.randint(k, (), 0, count, jnp.int32))(
    keys, mask_t.sum(axis=-1, dtype=jnp.int32)
  )
  return jnp.argmax(jnp.cumsum(mask_t, axis=-1) > n[:, None], axis=-1)


def make_actor(
  *, networks: Networks, donate: bool = True
) -> Callable[..., tuple[ActorState, ActorOutput]]:
  """`actor_step` of R2D2, jit-compiled: see `compile_actor`."""
  return compile_actor(
    functools.partial(actor_step, networks=networks), donate=donate
  )


def compile_actor(
  step: Callable[..., tuple[ActorState, ActorOutput]], *, donate: bool = True
) -> Callable[..., tuple[ActorState, ActorOutput]]:
  """An actor step, jit-compiled, its state donated: use the returned one.

  Args:
    step: (params, state, timestep, epsilon) -> (state, output), as
      `actor_step`.
    donate: False copies the state instead, so that the caller keeps its own.
  """
  return Donating(step, argument=1, donate=donate)


def initial_priorities(
  q_t: Array,
  a_t: Array,
  r_t: Array,
  discount_t: Array,
  valid_t: Array,
  *,
  config: AgentConfig,
) -> Array:
  """Priority of new items from the values that the actors saw while acting.

  The same errors as the learner's, with the actor's own q in both roles: the
  bootstrap takes the greedy action, never the behaviour's. Source: Ape-X,
  section 3.

  Args:
    q_t: float32 [B, L, A], recorded by the actor, L = burn_in + trace_length
      + lookahead_rows. Those of masked actions are the least there are, so
      that the bootstrap is of an allowed one.
    a_t: int32 [B, L].
    r_t: float32 [B, L].
    discount_t: float32 [B, L].
    valid_t: bool [B, L].
    config: the agent's settings; burn-in rows are left out.

  Returns:
    float32 [B], before the exponent.

  Raises:
    ValueError: the axes are not [B, L].
  """
  check_config(config, AgentConfig)
  check_item_rows(
    {
      "q_t": q_t,
      "a_t": a_t,
      "r_t": r_t,
      "discount_t": discount_t,
      "valid_t": valid_t,
    },
    config=config,
  )
  q_t, a_t, r_t, discount_t, valid_t = (
    jnp.swapaxes(x, 0, 1)[config.burn_in :]
    for x in (q_t, a_t, r_t, discount_t, valid_t)
  )
  td_error, mask = n_step_td_error(
    q_t, q_t, a_t, r_t, discount_t, valid_t, config=config
  )
  return sequence_priorities(td_error, mask, eta=config.priority_eta)
