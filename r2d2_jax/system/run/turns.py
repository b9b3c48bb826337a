"""One step of each side, in threads and in lock-step, and whose turn it is.

With a replay that is drawn from, the replay ratio decides. With a queue its
content does: the learner trains on what is there, and the actors step while
there is room for what a step may bring, so that no item is older than a queue
is long.
"""

import time

from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.learner import Batch, LearnerLoop
from r2d2_jax.system.loops.workers import Worker, Workers
from r2d2_jax.system.run.build import Parts

# How often a full queue is looked at: a fraction of an update.
_POLL_SECONDS = 0.002


def act(parts: Parts) -> None:
  """One step of the actors, counted."""
  assert isinstance(parts.actors, ActorLoop)
  steps, episodes = parts.actors.step()
  parts.ratio.add_steps(steps)
  for episode in episodes:
    parts.report.count_episode(episode)


def work(parts: Parts, worker: Worker) -> None:
  """One step of a worker, counted, and the update that it may complete."""
  assert isinstance(parts.actors, Workers)
  steps, episodes = worker.act()
  parts.ratio.add_steps(steps)
  with parts.actors.lock:
    for episode in episodes:
      parts.report.count_episode(episode)
  worker.learn()


def learn(parts: Parts, batch: Batch) -> None:
  """One update on a batch, counted."""
  assert batch.origin is not None  # both memories give it
  assert isinstance(parts.learner, LearnerLoop)
  parts.ratio.start()
  parts.ratio.add_trained_rows(batch.trained_rows)
  parts.samples.add(
    batch.origin,
    batch.is_trained,
    num_updates=parts.learner.num_updates,
    steps=parts.ratio.env_steps,
  )
  parts.learner.step(batch)


def learner_may_train(parts: Parts) -> bool:
  """Whether the learner may train on a batch that it has or can have."""
  return _has_queue(parts) or parts.ratio.learner_may_train()


def wait_for_learners_turn(parts: Parts, timeout_seconds: float) -> bool:
  """Blocks until the learner may train, at most so long; whether it may."""
  if _has_queue(parts):
    return True
  return parts.ratio.wait_for_learner_turn(timeout_seconds)


def actors_may_step(parts: Parts) -> bool:
  """Whether the actors may step, and store what that brings."""
  if not _has_queue(parts):
    return parts.ratio.actors_may_step()
  config = parts.config
  room = config.replay.capacity_sequences - parts.replay.size()
  return room >= config.most_new_items


def wait_for_actors_turn(parts: Parts, timeout_seconds: float) -> bool:
  """Blocks until the actors may step, at most so long; whether they may."""
  if not _has_queue(parts):
    return parts.ratio.wait_for_actors_turn(timeout_seconds)
  end = time.monotonic() + timeout_seconds
  while not actors_may_step(parts):
    if time.monotonic() > end:
      return False
    time.sleep(_POLL_SECONDS)
  return True


def _has_queue(parts: Parts) -> bool:
  return parts.config.replay.order == "fifo"


def replay_is_filled(parts: Parts) -> bool:
  """Whether the replay has as many items as an update needs at least."""
  return parts.replay.size() >= parts.config.replay.min_sequences


def is_over(parts: Parts) -> bool:
  """Whether the run has had its steps, or its minutes."""
  run = parts.config.run
  return parts.ratio.env_steps >= run.total_steps or (
    run.max_minutes > 0 and parts.report.minutes() >= run.max_minutes
  )
