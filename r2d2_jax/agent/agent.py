"""What a run needs of an algorithm: a handful of pure functions of arrays."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import optax

from r2d2_jax.agent.acting import (
  actor_step,
  init_actor_state,
  initial_priorities,
)
from r2d2_jax.agent.actor_critic import (
  actor_critic_gradient,
  actor_critic_step,
  apply_gradient,
  init_policy_learner,
  policy_step,
)
from r2d2_jax.agent.diagnostics import q_discrepancy
from r2d2_jax.agent.learning import (
  LearnerStep,
  Loss,
  init_learner_state,
  learner_step,
  make_optimizer,
)
from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.config import Config
from r2d2_jax.factories import load
from r2d2_jax.types import (
  ActorOutput,
  ActorState,
  Array,
  CoreState,
  EnvSpec,
  LearnerOutput,
  LearnerState,
  Params,
  Timestep,
)


class Agent(NamedTuple):
  """An algorithm, as the run's loops, evaluation and recording know it.

  All are pure and can be jit-compiled. N lanes, B items or rows, L rows of an
  item.
  """

  init: Callable[[Array], LearnerState]
  """key -> a fresh learner's state."""
  initial_core_state: Callable[[int], CoreState]
  """B -> the null recurrent state, leading [B]; replay takes its layout from
  it."""
  initial_actor_state: Callable[[Array, int], ActorState]
  """key, N -> the state of N lanes before their first row."""
  actor_step: Callable[
    [Params, ActorState, Timestep, Array], tuple[ActorState, ActorOutput]
  ]
  """params, state [N], rows of B lanes, epsilon [N] -> state [N], output
  [B]."""
  learner_step: LearnerStep
  """state, batch, axis_name=None -> state, output: see
  `learning.learner_step`."""
  initial_priorities: Callable[..., Array] | None
  """q_t, a_t, r_t, discount_t, valid_t, each [B, L, ...] -> the priority of new
  items, float32 [B], before the exponent; None for a queue."""
  q_discrepancy: Callable[..., tuple[Array, Array]] | None
  """params, sequence, row_carry, rows -> dQ and its mask, see `diagnostics`;
  None where an algorithm has no values to compare."""
  networks: Networks
  """The network behind them, for studies of it."""
  gradient: Callable[..., tuple[Params, LearnerOutput]] | None = None
  """params, batch -> gradient, output: the first half of a learner step, taken
  by workers at parameters of their own; None where an algorithm has no such
  halves."""
  apply_gradient: Callable[..., tuple[LearnerState, LearnerOutput]] | None = (
    None
  )
  """state, gradient, output -> state, output: the second half."""


def make_r2d2_agent(
  spec: EnvSpec,
  config: Config,
  *,
  networks: Networks | None = None,
  optimizer: optax.GradientTransformation | None = None,
  loss: Loss = sequence_loss,
) -> Agent:
  """R2D2, as the settings have it; each part can be another.

  Args:
    spec: what the world says of itself.
    config: sections network and agent are read.
    networks: None for those of `make_networks(spec, config=config.network)`.
    optimizer: None for that of `make_optimizer(config.agent)`.
    loss: as `sequence_loss`.

  Raises:
    ValueError: the network cannot read observations of this shape.
  """
  networks = networks or make_networks(spec, config=config.network)
  optimizer = optimizer or make_optimizer(config.agent)
  bind: Any = functools.partial
  return Agent(
    init=bind(init_learner_state, networks=networks, optimizer=optimizer),
    initial_core_state=networks.initial_core_state,
    initial_actor_state=bind(init_actor_state, networks=networks),
    actor_step=bind(actor_step, networks=networks),
    learner_step=bind(
      learner_step,
      networks=networks,
      optimizer=optimizer,
      config=config.agent,
      loss=loss,
    ),
    initial_priorities=bind(initial_priorities, config=config.agent),
    q_discrepancy=bind(q_discrepancy, networks=networks, config=config.agent),
    networks=networks,
  )


def make_impala_agent(
  spec: EnvSpec,
  config: Config,
  *,
  networks: Networks | None = None,
  optimizer: optax.GradientTransformation | None = None,
) -> Agent:
  """IMPALA's actor-critic (Espeholt et al. 2018), as the settings have it.

  A3C's agent is the same: what differs is who computes the gradients.

  Args:
    spec: what the world says of itself.
    config: sections network and agent are read.
    networks: None for those of `make_networks(spec, config=config.network,
      policy=True)`.
    optimizer: None for that of `make_optimizer(config.agent)`.

  Raises:
    ValueError: the network cannot read observations of this shape.
  """
  networks = networks or make_networks(spec, config=config.network, policy=True)
  optimizer = optimizer or make_optimizer(config.agent)
  bind: Any = functools.partial
  return Agent(
    init=bind(init_policy_learner, networks=networks, optimizer=optimizer),
    initial_core_state=networks.initial_core_state,
    initial_actor_state=bind(init_actor_state, networks=networks),
    actor_step=bind(policy_step, networks=networks),
    learner_step=bind(
      actor_critic_step,
      networks=networks,
      optimizer=optimizer,
      config=config.agent,
    ),
    initial_priorities=None,
    q_discrepancy=None,
    networks=networks,
    gradient=bind(
      actor_critic_gradient, networks=networks, config=config.agent
    ),
    apply_gradient=bind(apply_gradient, optimizer=optimizer),
  )


# By `agent.algorithm`.
_ALGORITHMS: dict[str, Callable[[EnvSpec, Config], Agent]] = {
  "r2d2": make_r2d2_agent,
  "impala": make_impala_agent,
  "a3c": make_impala_agent,
}

MakeAgent = Callable[[EnvSpec, Config], Agent]


def own_agent(make: MakeAgent) -> MakeAgent:
  """A function of one's own, given settings that no longer name it.

  So it may call `make_agent` itself, to change what that gives.
  """
  return lambda spec, config: make(
    spec, config.updated({"agent.make_agent": ""})
  )


def make_agent(spec: EnvSpec, config: Config) -> Agent:
  """The agent of `config.agent.make_agent`, or of `agent.algorithm`.

  Raises:
    ConfigError: it names nothing that can be imported.
    ValueError: the network cannot read observations of this shape.
  """
  if path := config.agent.make_agent:
    return own_agent(load("agent.make_agent", path))(spec, config)
  return _ALGORITHMS[config.agent.algorithm](spec, config)
