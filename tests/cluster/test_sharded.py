"""Several shards as one replay: shares, probabilities, weights, priorities."""

import time

import numpy as np
import pytest

from r2d2_jax.agent.priorities import importance_weights
from r2d2_jax.cluster.sharded import ShardedReplay
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.types import AgentInputs, ReplaySample, Sequence

# Of two shards; the second one's sum is three times the first one's.
PRIORITIES = [np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 12.0])]


class Table:
  """A shard with known priorities; item k of it is the number k."""

  def __init__(self, priorities, seed=0):
    self.probability = priorities / priorities.sum()
    self.random = np.random.default_rng(seed)
    self.written = []
    self.fails = False
    self.is_closed = False

  def sample(self, batch_size, timeout_seconds, *, min_size=1):
    if self.fails:
      raise ReplayError("dead")
    if min_size > len(self.probability):
      raise TimeoutError
    k = self.random.choice(
      len(self.probability), batch_size, p=self.probability
    )
    rows = np.zeros((batch_size, 1))
    return ReplaySample(
      Sequence(AgentInputs(rows, rows, rows, rows), rows, rows, rows, k),
      self.probability[k],
      k.astype(np.uint64),
    )

  def update_priorities(self, keys, priorities):
    if self.fails:
      raise ReplayError("dead")
    self.written.append((keys.tolist(), priorities.tolist()))

  def close(self):
    self.is_closed = True


def tables():
  return [Table(p, seed) for seed, p in enumerate(PRIORITIES)]


def test_every_shard_gives_as_many_items_and_keeps_its_keys():
  shards = tables()
  replay = ShardedReplay(shards, num_shards=2)
  sample = replay.sample(8, 1.0)
  first, second = np.split(sample.keys.astype(int), 2)
  np.testing.assert_allclose(
    sample.probability,
    np.concatenate(
      [
        shards[0].probability[first] / 2,
        shards[1].probability[second] / 2,
      ]
    ),
  )
  replay.close()
  assert all(shard.is_closed for shard in shards)


def test_probabilities_are_those_of_the_draws():
  """Over many batches each item comes as often as its probability says."""
  replay = ShardedReplay(tables(), num_shards=2)
  counts, said = np.zeros(6), np.zeros(6)
  for _ in range(200):
    sample = replay.sample(100, 1.0)
    item = sample.keys.astype(int) + np.repeat([0, 3], 50)
    np.add.at(counts, item, 1)
    said[item] = sample.probability
  replay.close()
  assert said.sum() == pytest.approx(1.0)
  # Standard deviation of a share of 20 000 draws: at most 0.0035.
  np.testing.assert_allclose(counts / counts.sum(), said, atol=0.015)


def test_weights_make_every_shape_of_shards_an_estimate_of_the_same_mean():
  """With exponent 1 the weighted mean is that over all items."""
  values = np.arange(1.0, 7.0)
  all_priorities = np.concatenate(PRIORITIES)
  one_table = all_priorities / all_priorities.sum()
  two_shards = np.concatenate([p / p.sum() / 2 for p in PRIORITIES])
  for probability in (one_table, two_shards):
    weights = np.asarray(importance_weights(probability, exponent=1.0))
    # Exact: the expectation over the draws, items weighted by probability.
    expectation = (probability * weights * values).sum()
    scale = (probability * weights).sum()
    assert expectation / scale == pytest.approx(values.mean(), rel=1e-5)
  # A local maximum, as each shard alone would take, is another estimate.
  local = np.concatenate(
    [
      np.asarray(importance_weights(p / p.sum(), exponent=1.0))
      for p in PRIORITIES
    ]
  )
  biased = (two_shards * local * values).sum() / (two_shards * local).sum()
  assert abs(biased - values.mean()) > 0.1


def test_equal_sums_make_shards_exactly_one_table():
  halves = [np.array([1.0, 5.0]), np.array([2.0, 4.0])]
  one_table = np.concatenate(halves) / 12
  two_shards = np.concatenate([p / p.sum() / 2 for p in halves])
  np.testing.assert_allclose(two_shards, one_table)
  np.testing.assert_array_equal(
    importance_weights(two_shards, exponent=0.6),
    importance_weights(one_table, exponent=0.6),
  )


def _until(question):
  deadline = time.monotonic() + 10.0
  while not question():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_priorities_go_back_to_their_own_shard():
  shards = tables()
  replay = ShardedReplay(shards, num_shards=2)
  replay.update_priorities(
    np.array([1, 1, 2, 1], np.uint64), np.array([0.1, 0.2, 0.3, 0.4])
  )
  _until(lambda: all(shard.written for shard in shards))
  replay.close()
  assert shards[0].written == [([1, 1], [0.1, 0.2])]
  assert shards[1].written == [([2, 1], [0.3, 0.4])]


def test_a_dead_shard_costs_its_priorities_alone_and_is_replaced():
  shards = tables()
  shards[1].fails = True
  replay = ShardedReplay(shards, num_shards=2)
  keys, priorities = np.array([1, 2], np.uint64), np.array([0.1, 0.2])
  replay.update_priorities(keys, priorities)
  _until(lambda: shards[0].written and replay.num_dropped == 1)
  with pytest.raises(ReplayError):
    replay.sample(4, 1.0)
  again = Table(PRIORITIES[1])
  replay.replace(1, again)
  assert shards[1].is_closed
  assert len(replay.sample(4, 1.0).keys) == 4
  replay.update_priorities(keys, priorities)
  _until(lambda: again.written)
  replay.close()


def test_min_size_holds_for_every_shard():
  replay = ShardedReplay(tables(), num_shards=2)
  with pytest.raises(TimeoutError):
    replay.sample(4, 0.0, min_size=4)
  replay.close()
