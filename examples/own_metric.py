"""A metric of one's own: how far the parameters are from the target network's.

A learner's step may return any scalars beside those of `learner_step`. Each is
a column of the log, and of what reads the log: its mean over the updates since
the row before. Once registered it has words for plots, and a healthy range.
Random numbers stand for a replay here.

  python -m examples.own_metric
"""

import functools

import jax
import jax.numpy as jnp
import optax

from r2d2_jax.agent.learning import (
  compile_learner,
  init_learner_state,
  learner_step,
  make_optimizer,
)
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import AgentConfig, NetworkConfig
from r2d2_jax.system.metrics.columns import Column, label, register
from r2d2_jax.system.metrics.learner_stats import LearnerStats
from r2d2_jax.types import AgentInputs, EnvSpec, ReplaySample, Sequence

SPEC = EnvSpec((5,), jnp.dtype("float32"), num_actions=3, frame_skip=1)
NETWORK = NetworkConfig(
  torso="mlp", torso_channels=(8,), core_units=8, head_units=8, frame_stack=1
)
AGENT = AgentConfig(
  burn_in=2, trace_length=8, overlap=4, batch_size=4, target_period_updates=10
)


def own_step(state, batch, **settings):
  """`learner_step`, and the distance that its update began with."""
  difference = jax.tree.map(jnp.subtract, state.params, state.target_params)
  new_state, output = learner_step(state, batch, **settings)
  metrics = output.metrics | {"target_distance": optax.tree.norm(difference)}
  return new_state, output._replace(metrics=metrics)


def is_unhealthy(row, config):
  del config  # the run's settings
  return "far from its target" if row["target_distance"] > 1.0 else None


register(
  Column(
    "target_distance",
    "learner",
    "distance from the target network",
    is_unhealthy=is_unhealthy,
  )
)


def random_batch(key, networks):
  """Items [B, L] of one endless episode each."""
  shape = (AGENT.batch_size, AGENT.burn_in + AGENT.trace_length)
  obs, actions, rewards = jax.random.split(key, 3)
  a_t = jax.random.randint(actions, shape, 0, SPEC.num_actions)
  inputs = AgentInputs(
    obs_t=jax.random.normal(obs, (*shape, *SPEC.obs_shape)),
    a_tm1=jnp.roll(a_t, 1, axis=1),
    r_t=jax.random.normal(rewards, shape),
    is_first_t=jnp.zeros(shape, bool),
  )
  state = networks.initial_core_state(AGENT.batch_size)
  everywhere = jnp.ones(shape)
  sequence = Sequence(inputs, a_t, everywhere, everywhere.astype(bool), state)
  return ReplaySample(sequence, jnp.ones(AGENT.batch_size), keys=None)


def main():
  networks = make_networks(SPEC, config=NETWORK)
  parts = dict(networks=networks, optimizer=make_optimizer(AGENT))
  step = functools.partial(own_step, **parts, config=AGENT)
  learner = compile_learner(step, batch_size=AGENT.batch_size)
  state = init_learner_state(jax.random.key(0), **parts)
  stats = LearnerStats()
  for update in range(1, 21):
    batch = random_batch(jax.random.key(update), networks)
    state, output = learner(state, batch)
    stats.add(jax.device_get(output.metrics), output.td_abs_by_row)
    if update % 5 == 0:  # a row of the log
      columns, _ = stats.pop()
      for name in ("loss", "td_abs_mean", "target_distance"):
        print(f"update {update}, {label(name)}: {columns[name]:.4g}")


if __name__ == "__main__":
  main()
