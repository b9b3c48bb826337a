"""A batch as the learner gets it, without a run: for notebooks and tests."""

from typing import NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.acting import compile_actor, epsilon_ladder
from r2d2_jax.agent.agent import Agent, make_agent
from r2d2_jax.config import Config, validate
from r2d2_jax.envs.make import make_world
from r2d2_jax.replay.items import stack_items
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.types import EnvSpec, LearnerState, Params, ReplaySample

# So many batches' worth of items are played, for priorities to choose among.
_BATCHES = 4


class Example(NamedTuple):
  """All that one update takes: `agent.learner_step(state, batch)`."""

  batch: ReplaySample  # items [B, L, ...] on the host; without keys and origin
  agent: Agent
  state: LearnerState  # fresh, or around the parameters that were given
  spec: EnvSpec


def example_batch(config: Config, *, params: Params | None = None) -> Example:
  """Plays the settings' task for a moment and samples a batch from a replay.

      example = example_batch(presets.smoke())
      learn = jax.jit(example.agent.learner_step)
      state, output = learn(example.state, example.batch)

  The lanes explore as in training. The same settings give the same batch. Needs
  neither Reverb nor, where the task is built in, EnvPool.

  Args:
    config: settings; `env.task` names the task, `run.seed` the seed of
      everything, `agent.batch_size` is B, and with `replay.row_states` the
      batch has the actor's state before each row too.
    params: who plays; None for fresh parameters.

  Returns:
    The batch, and agent and state to train with it.

  Raises:
    ConfigError: the settings cannot work; there is no such task.
    MissingPackageError: the task's library is not installed.
  """
  validate(config)
  num_items = _BATCHES * config.agent.batch_size
  config = config.updated(
    {"replay.backend": "local", "replay.capacity_sequences": num_items}
  )
  world = make_world(config.env, seed=config.run.seed)
  try:
    agent = make_agent(world.spec, config)
    params_key, actor_key = jax.random.split(jax.random.key(config.run.seed))
    state = jax.jit(agent.init)(params_key)
    if params is not None:
      state = state._replace(params=params)
      if state.target_params:
        state = state._replace(target_params=params)
    core_state = jax.device_get(agent.initial_core_state(1))
    builder = SequenceBuilder(
      world.num_envs,
      spec=world.spec,
      core_state=core_state,
      burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length,
      overlap=config.agent.overlap,
      lookahead_rows=config.agent.lookahead_rows,
      row_states=config.replay.row_states,
      log_prob=config.agent.has_policy,
    )
    replay = LocalReplay(config, world.spec, core_state, seed=config.run.seed)
    act = compile_actor(agent.actor_step)
    lanes = agent.initial_actor_state(actor_key, world.num_envs)
    epsilon = epsilon_ladder(
      world.num_envs,
      base=config.agent.epsilon_base,
      alpha=config.agent.epsilon_alpha,
    )
    items = []
    world.reset()
    while len(items) < num_items:
      timestep = world.recv()
      lanes, output = act(state.params, lanes, timestep, epsilon)
      world.send(np.asarray(output.a_t), timestep.env_id)
      items += builder.add(timestep, jax.device_get(output))
    items = items[:num_items]
    rows = stack_items(items)
    priorities = np.ones(len(items), np.float32)
    if agent.initial_priorities is not None:
      priorities = jax.jit(agent.initial_priorities)(
        rows.q_t, rows.a_t, rows.r_t, rows.discount_t, rows.valid_t
      )
    replay.insert(items, np.asarray(priorities))
    batch = replay.sample(config.agent.batch_size, timeout_seconds=1.0)
  finally:
    world.close()
  return Example(
    batch._replace(keys=None, origin=None), agent, state, world.spec
  )
