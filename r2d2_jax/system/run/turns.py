"""One step of each side, the same in threads and in lock-step."""

from r2d2_jax.system.loops.learner import Batch
from r2d2_jax.system.run.build import Parts


def act(parts: Parts) -> None:
  """One step of the actors, counted."""
  steps, episodes = parts.actors.step()
  parts.ratio.add_steps(steps)
  for episode in episodes:
    parts.report.count_episode(episode)


def learn(parts: Parts, batch: Batch) -> None:
  """One update on a batch, counted."""
  assert batch.origin is not None  # both memories give it
  parts.ratio.start()
  parts.ratio.add_trained_rows(batch.trained_rows)
  parts.samples.add(
    batch.origin,
    batch.is_trained,
    num_updates=parts.learner.num_updates,
    steps=parts.ratio.env_steps,
  )
  parts.learner.step(batch)


def replay_is_filled(parts: Parts) -> bool:
  """Whether the replay has as many items as an update needs at least."""
  return parts.replay.size() >= parts.config.replay.min_sequences


def is_over(parts: Parts) -> bool:
  """Whether the run has had its steps, or its minutes."""
  run = parts.config.run
  return parts.ratio.env_steps >= run.total_steps or (
    run.max_minutes > 0 and parts.report.minutes() >= run.max_minutes
  )
