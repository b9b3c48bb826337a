"""A3C's workers: own parameters, shared updates, and how old a gradient is."""

import functools

import jax
import numpy as np
import pytest

from r2d2_jax.agent.actor_critic import (
  actor_critic_gradient,
  actor_critic_step,
  apply_gradient,
)
from r2d2_jax.agent.agent import make_agent
from r2d2_jax.agent.learning import make_optimizer
from r2d2_jax.config import ConfigError, validate
from r2d2_jax.envs.journal import JournalWorld
from r2d2_jax.envs.make import make_world
from r2d2_jax.family import FAMILY
from r2d2_jax.system.example import example_batch
from r2d2_jax.system.loops.learner import Batch
from r2d2_jax.system.loops.parameters import Published
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.system.loops.shared import SharedLearner
from r2d2_jax.system.loops.workers import Worker, Workers, worker_config
from r2d2_jax.system.metrics.health import DivergedError
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.types import Origin
from tests.agent.small import assert_trees_close

CONFIG = FAMILY["a3c-small"]().updated({
  "env.task": "recall", "env.num_envs": 3, "network.torso_channels": (4,),
  "network.core_units": 4, "agent.trace_length": 6,
  "agent.learning_rate": 0.1,
})  # fmt: skip
# Two unrolls, and the agent that made them.
EXAMPLE = example_batch(
  CONFIG.updated({
    "agent.algorithm": "impala", "agent.batch_size": 2,
    "replay.min_sequences": 2, "replay.capacity_sequences": 8,
  })
)  # fmt: skip


class Shared:
  """A learner, and what it counts into."""

  def __init__(self, state=EXAMPLE.state):
    self.ratio = ReplayRatio(1.0, slack_rows=100)
    self.samples = SampleStats(3)
    self.learner = SharedLearner(
      CONFIG,
      agent=EXAMPLE.agent,
      state=state,
      ratio=self.ratio,
      samples=self.samples,
    )


def _unroll(i: int, num_updates: int = 0) -> Batch:
  """The example's unroll i alone, as if that many updates had acted in it."""
  rows = EXAMPLE.batch.sequence.valid_t[i : i + 1]
  batch = jax.tree.map(lambda x: x[i : i + 1], EXAMPLE.batch)
  origin = Origin(
    np.zeros(1, np.int32),
    np.where(rows, num_updates, 0).astype(np.int32),
    np.zeros(rows.shape, np.int64),
    np.ones(1, np.int32),
  )
  return Batch(batch._replace(origin=origin), 0)


def _parts():
  kwargs = {"networks": EXAMPLE.agent.networks, "config": CONFIG.agent}
  optimizer = make_optimizer(CONFIG.agent)
  gradient = functools.partial(actor_critic_gradient, **kwargs)
  apply = functools.partial(apply_gradient, optimizer=optimizer)
  step = functools.partial(actor_critic_step, optimizer=optimizer, **kwargs)
  return jax.jit(gradient), jax.jit(apply), jax.jit(step)


def test_a_gradient_of_the_newest_parameters_is_a_learner_step():
  _, _, step = _parts()
  shared = Shared()
  state, local = EXAMPLE.state, shared.learner.latest()
  for i in 0, 1:
    local = shared.learner.learn(_unroll(i), local)
    state, output = step(state, _unroll(i).on_device)
    assert_trees_close(shared.learner.state(), state, atol=1e-6)
    assert_trees_close(local.params, state.params, atol=1e-6)
  assert local.num_updates == shared.learner.num_updates == 2
  metrics, _ = shared.learner.metrics()
  assert set(metrics) >= set(output.metrics) | {"td_first", "td_last"}


def test_an_old_gradient_moves_the_shared_parameters_and_is_counted():
  """Worker B took its parameters before A's update: the gradient is of the old
  ones, the step is of the new state, its mean of squares included."""
  gradient, apply, step = _parts()
  shared = Shared()
  old = shared.learner.latest()
  shared.learner.learn(_unroll(0, 0), old)
  assert shared.samples.pop()[0]["lag_p90"] == 0
  after = shared.learner.learn(_unroll(1, 0), old)
  assert shared.samples.pop()[0]["lag_p10"] == 1

  state, _ = step(EXAMPLE.state, _unroll(0).on_device)
  grads, output = gradient(EXAMPLE.state.params, _unroll(1).on_device)
  expected, _ = apply(state, grads, output)
  assert_trees_close(shared.learner.state(), expected, atol=1e-6)
  assert_trees_close(after.params, expected.params, atol=1e-6)
  # It is another step than that of the newest parameters.
  other, _ = step(state, _unroll(1).on_device)
  assert any(
    np.abs(x - y).max() > 1e-5
    for x, y in zip(
      jax.tree.leaves(other.params),
      jax.tree.leaves(expected.params),
      strict=True,
    )
  )


def _worker(number, shared, *, key=0):
  world = JournalWorld(make_world(worker_config(CONFIG).env, seed=number))
  return Worker(
    CONFIG,
    number,
    world=world,
    agent=EXAMPLE.agent,
    learner=shared.learner,
    key=jax.random.key(key),
    count_steps=lambda: 0,
  )


def test_a_worker_learns_when_its_unroll_is_whole_and_acts_with_its_own():
  """Episodes of recall have 7 to 12 rows: unrolls of 5 steps, then the rest.
  Between two of its updates a worker does not see the others'."""
  shared = Shared()
  worker, other = _worker(0, shared), shared.learner.latest()
  steps, since, unrolls = 0, 0, []
  for call in range(60):
    before = worker.latest()
    stepped, episodes = worker.act()
    steps, since = steps + stepped, since + stepped
    assert worker.latest() is before
    if call % 7 == 0:
      shared.learner.learn(_unroll(0), other)  # of another worker
    updates = shared.learner.num_updates
    worker.learn()
    learned = shared.learner.num_updates - updates
    assert learned == (since == 5 or (bool(episodes) and since > 0))
    assert (worker.latest() is before) == (not learned)
    if learned:
      assert worker.latest().num_updates == shared.learner.num_updates
      unrolls.append(since)
      since = 0
  assert max(unrolls) == 5 and min(unrolls) < 5
  # Every step is trained on once, 9 updates of 5 or fewer steps were others'.
  others = 9 * _unroll(0).trained_rows
  assert shared.ratio.state_dict()["trained_rows"] == steps - since + others


def test_workers_differ_in_lanes_dice_and_turns():
  shared = Shared()
  workers = Workers([_worker(i, shared, key=i) for i in range(3)], False)
  assert [workers.next() for _ in range(4)] == [
    *workers.workers,
    workers.workers[0],
  ]
  np.testing.assert_array_equal(workers.epsilon, np.zeros(3, np.float32))
  episodes = []
  for _ in range(40):
    episodes += workers.workers[2].act()[1]
    workers.workers[2].learn()
  assert {e.env_id for e in episodes} == {2}
  state = workers.state_dict() | {"x": np.zeros(1)}
  with pytest.raises(ValueError, match="invalid literal|3 workers"):
    workers.load_state_dict(state)
  with pytest.raises(ValueError, match="state of 2 workers, got that of 3"):
    Workers(workers.workers[:2], False).load_lane_state_dict(
      workers.lane_state_dict()
    )


def test_an_update_gone_wrong_ends_the_run_with_a_diagnosis():
  shared = Shared()
  bad = jax.tree.map(lambda x: x * np.nan, EXAMPLE.state.params)
  with pytest.raises(DivergedError, match="likely cause"):
    shared.learner.learn(_unroll(0), Published(bad, 0))


def test_settings_of_workers():
  validate(CONFIG)
  for changes, words in (
    (
      {"agent.batch_size": 2, "replay.min_sequences": 2},
      "agent.batch_size: ex",
    ),
    ({"env.batch_size": 2}, "env.batch_size: expected 0 with agent.algorithm"),
    (
      {"replay.backend": "reverb", "run.lockstep": False},
      "replay.backend: expected 'local' with agent.algorithm 'a3c'",
    ),
  ):
    with pytest.raises(ConfigError, match=words):
      validate(CONFIG.updated(changes))


def test_the_setting_makes_an_agent_with_halves():
  agent = make_agent(EXAMPLE.spec, CONFIG)
  assert agent.gradient is not None and agent.apply_gradient is not None
  with pytest.raises(ConfigError, match="with gradient and apply_gradient"):
    SharedLearner(
      CONFIG,
      agent=agent._replace(gradient=None),
      state=EXAMPLE.state,
      ratio=ReplayRatio(1.0, slack_rows=1),
      samples=SampleStats(3),
    )
