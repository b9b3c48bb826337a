"""The Agent of R2D2: the modules' functions, and parts that can be others."""

import functools

import jax
import numpy as np
import optax

from r2d2_jax.agent.acting import actor_step, init_actor_state
from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.agent.learning import (
  init_learner_state,
  learner_step,
  make_optimizer,
)
from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.config import Config
from r2d2_jax.types import Timestep
from tests.agent.small import (
  AGENT,
  NETWORKS,
  SPEC,
  assert_trees_equal,
  network_config,
  random_batch,
)

CONFIG = Config(network=network_config(frame_stack=2), agent=AGENT)
HUBER = functools.partial(sequence_loss, penalty=optax.losses.huber_loss)


def _updated(agent, batch):
  return jax.jit(agent.learner_step)(agent.init(jax.random.key(0)), batch)


def test_the_agent_is_the_modules_functions():
  agent = make_r2d2_agent(SPEC, CONFIG)
  optimizer = make_optimizer(AGENT)
  state = init_learner_state(
    jax.random.key(0), networks=NETWORKS, optimizer=optimizer
  )
  assert_trees_equal(agent.init(jax.random.key(0)), state)
  batch = random_batch(0)
  step = functools.partial(
    learner_step, networks=NETWORKS, optimizer=optimizer, config=AGENT
  )
  assert_trees_equal(_updated(agent, batch), jax.jit(step)(state, batch))

  timestep = Timestep(
    obs_t=np.ones((2, 3), np.float32),
    r_t=np.zeros(2, np.float32),
    discount_t=np.ones(2, np.float32),
    is_first_t=np.ones(2, bool),
    is_last_t=np.zeros(2, bool),
    env_id=np.array([2, 0], np.int32),
  )
  epsilon = np.full(3, 0.5, np.float32)
  actors = agent.initial_actor_state(jax.random.key(1), 3)
  expected = init_actor_state(jax.random.key(1), 3, networks=NETWORKS)
  as_bits = lambda tree: jax.tree.map(
    lambda x: (
      jax.random.key_data(x)
      if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )
  assert_trees_equal(
    as_bits(agent.actor_step(state.params, actors, timestep, epsilon)),
    as_bits(
      actor_step(state.params, expected, timestep, epsilon, networks=NETWORKS)
    ),
  )


def test_another_loss_is_one_argument():
  """Huber: 1/2 td^2 up to |td| = 1, |td| - 1/2 beyond; priorities stay |td|."""
  batch = random_batch(3)
  batch = batch._replace(
    sequence=batch.sequence._replace(
      inputs=batch.sequence.inputs._replace(r_t=5 * batch.sequence.inputs.r_t)
    )
  )
  squared = make_r2d2_agent(SPEC, CONFIG)
  huber = make_r2d2_agent(SPEC, CONFIG, loss=HUBER)
  _, before = _updated(squared, batch)
  _, after = _updated(huber, batch)

  state = squared.init(jax.random.key(0))
  weights = np.array([1.0, 0.5, 0.25, 1.0], np.float32)
  arguments = (state.params, state.target_params, batch.sequence, weights)
  loss, parts = HUBER(*arguments, networks=NETWORKS, config=AGENT)
  td = np.abs(parts.td_error)
  assert (td > 1).any() and (td < 1).any()
  by_hand = np.where(td <= 1, 0.5 * td**2, td - 0.5).sum(axis=0)
  np.testing.assert_allclose(loss, (weights * by_hand).mean(), rtol=1e-5)

  assert after.metrics["loss"] < before.metrics["loss"]
  np.testing.assert_array_equal(after.priorities, before.priorities)


def test_another_optimiser_is_one_argument():
  agent = make_r2d2_agent(SPEC, CONFIG, optimizer=optax.sgd(0.5))
  state = agent.init(jax.random.key(0))
  new_state, output = _updated(agent, random_batch(0))
  # SGD's step is the gradient's, times its rate: no clip, no moments.
  np.testing.assert_allclose(
    output.metrics["update_norm"], 0.5 * output.metrics["grad_norm"], rtol=1e-5
  )
  assert len(jax.tree.leaves(new_state.opt_state)) == 0
  assert jax.tree.structure(new_state.params) == jax.tree.structure(
    state.params
  )


def test_another_network_is_one_argument():
  agent = make_r2d2_agent(SPEC, CONFIG, networks=NETWORKS)
  assert agent.networks is NETWORKS
