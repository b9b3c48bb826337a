"""Lock-step: everything in the calling thread, repeatable bit for bit."""

from r2d2_jax.system.loops.learner import Batch
from r2d2_jax.system.loops.workers import Workers
from r2d2_jax.system.run.build import Parts
from r2d2_jax.system.run.monitor import Monitor
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.turns import (
  act,
  is_over,
  learn,
  learner_may_train,
  replay_is_filled,
  work,
)


def run_lockstep(parts: Parts, monitor: Monitor, stop: Stop) -> None:
  """Alternates strictly between steps and updates, until the end or a stop.

  Workers have a step each, one after the other.
  """
  agent = parts.config.agent
  chores = monitor.chores()
  while not (is_over(parts) or stop.asked):
    if isinstance(parts.actors, Workers):
      work(parts, parts.actors.next())
    elif replay_is_filled(parts) and learner_may_train(parts):
      sample = parts.replay.sample(agent.batch_size, timeout_seconds=10.0)
      batch = Batch(
        sample,
        agent.burn_in,
        parts.mesh,
        lookahead_rows=agent.lookahead_rows,
      )
      learn(parts, batch)
      # Written back before anything else is sampled: a fixed order.
      parts.learner.flush()
    else:
      act(parts)
    chores.do()
