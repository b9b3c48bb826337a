"""R2D2 in one thread, from the pure pieces: a loop to be read in a minute.

Learns the built-in memory task 'recall', in which a policy without memory gets
0.25. The run of `r2d2_jax.train` does the same with threads, logs, checkpoints
and Reverb.

  python -m examples.minimal --steps 60000
"""

import argparse

import jax
import numpy as np

import r2d2_jax as r2

CONFIG = r2.presets.smoke()


def main(num_steps: int) -> float:
  """Trains for so many environment steps; returns the last games' mean."""
  config, agent_config = CONFIG, CONFIG.agent
  world = r2.make_world(config.env, seed=0)
  agent = r2.make_r2d2_agent(world.spec, config)
  core_state = jax.device_get(agent.initial_core_state(1))
  builder = r2.SequenceBuilder(
    world.num_envs,
    spec=world.spec,
    core_state=core_state,
    burn_in=agent_config.burn_in,
    trace_length=agent_config.trace_length,
    overlap=agent_config.overlap,
  )
  replay = r2.LocalReplay(config, world.spec, core_state, seed=0)

  act = r2.compile_actor(agent.actor_step)
  learn = r2.compile_learner(
    agent.learner_step, batch_size=agent_config.batch_size
  )
  first_priorities = jax.jit(agent.initial_priorities)
  epsilon = r2.epsilon_ladder(
    world.num_envs,
    base=agent_config.epsilon_base,
    alpha=agent_config.epsilon_alpha,
  )
  params_key, actor_key = jax.random.split(jax.random.key(0))
  state = agent.init(params_key)
  actors = agent.initial_actor_state(actor_key, world.num_envs)

  returns, pending, trained_rows, start = [], [], 0, None
  world.reset()
  for step in range(0, num_steps, world.num_envs):
    # Act: one row of every lane, then the action that it asks for.
    timestep = world.recv()
    actors, output = act(state.params, actors, timestep, epsilon)
    world.send(np.asarray(output.a_t), timestep.env_id)
    returns += [episode.episode_return for episode in world.pop_episodes()]

    # Store: rows become items, and the actor's own errors their priorities.
    pending += builder.add(timestep, jax.device_get(output))
    if len(pending) >= world.num_envs:
      items, pending = pending[: world.num_envs], pending[world.num_envs :]
      rows = r2.stack_items(items)
      priorities = first_priorities(
        rows.q_t, rows.a_t, rows.r_t, rows.discount_t, rows.valid_t
      )
      replay.insert(items, np.asarray(priorities))

    # Learn: as many rows for each step as the replay ratio asks for.
    if replay.size() < config.replay.min_sequences:
      continue
    start = step if start is None else start
    while trained_rows <= config.replay.replay_ratio * (step - start):
      sample = replay.sample(agent_config.batch_size, timeout_seconds=1.0)
      batch = sample._replace(keys=None, origin=None)
      state, update = learn(state, batch)
      replay.update_priorities(sample.keys, np.asarray(update.priorities))
      valid = sample.sequence.valid_t[:, agent_config.burn_in :]
      trained_rows += int((valid[:, 1:] & valid[:, :-1]).sum())
    if step % (100 * world.num_envs) == 0:
      loss, mean = float(update.metrics["loss"]), np.mean(returns[-200:])
      print(f"step {step}: loss {loss:.4f}, mean return {mean:.2f}", flush=True)
  world.close()
  return float(np.mean(returns[-200:]))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=60_000)
  print(f"mean return of the last games: {main(parser.parse_args().steps):.2f}")
