"""Where sampled rows come from, added up."""

import json
import threading

import numpy as np
import pytest

from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.types import Origin


def origin():
  # Two items of three rows, of lanes 0 and 7; the second one is padded.
  return Origin(
    env_id=np.array([0, 7], np.int32),
    num_updates=np.array([[0, 10, 12], [0, 16, 0]], np.int32),
    step=np.array([[0, 100, 110], [0, 150, 0]], np.int64),
    times_sampled=np.array([1, 4], np.int32),
  )


TRAINED = np.array([[False, True, True], [False, True, False]])


def test_columns_and_histograms_of_a_batch():
  stats = SampleStats(num_envs=8)
  stats.add(origin(), TRAINED, num_updates=20, steps=200)
  columns, histograms = stats.pop()
  # Lags 10, 8 and 4; ages 100, 90 and 50 steps.
  assert columns == {
    "lag_p10": 4.0,
    "lag_p50": 8.0,
    "lag_p90": 10.0,
    "age_steps_mean": 80.0,
    "reuse_mean": 2.5,
    "sampled_eps_1": 0.5,
    "sampled_eps_2": 0.0,
    "sampled_eps_3": 0.0,
    "sampled_eps_4": 0.5,
  }
  assert histograms["lag_updates"].tolist() == [4, 8, 10]
  assert histograms["samples_by_lane"].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_a_pop_forgets_and_an_empty_one_is_nan():
  stats = SampleStats(num_envs=8)
  stats.add(origin(), TRAINED, num_updates=20, steps=200)
  stats.pop()
  columns, histograms = stats.pop()
  assert all(np.isnan(x) for x in columns.values()) and not histograms


def test_what_was_counted_survives_a_checkpoint():
  straight, saved, restored = (SampleStats(num_envs=8) for _ in range(3))
  for stats in (straight, saved):
    stats.add(origin(), TRAINED, num_updates=20, steps=200)
  restored.load_state_dict(saved.state_dict())
  for stats in (straight, restored):
    stats.add(origin(), TRAINED, num_updates=21, steps=210)
  a, b = straight.pop(), restored.pop()
  assert json.dumps(a[0]) == json.dumps(b[0])
  for name, x in a[1].items():
    np.testing.assert_array_equal(x, b[1][name])


@pytest.mark.parametrize("other", [2, 7, 2**31 - 1, -1, -(2**31)])
def test_items_of_lanes_that_are_gone_count_for_all_but_the_lanes(other):
  stats = SampleStats(num_envs=2)
  batch = origin()._replace(env_id=np.array([0, other], np.int32))
  stats.add(batch, TRAINED, num_updates=20, steps=200)
  restored = SampleStats(num_envs=2)
  restored.load_state_dict(stats.state_dict())
  for each in (stats, restored):
    columns, histograms = each.pop()
    assert columns["age_steps_mean"] == 80.0 and columns["reuse_mean"] == 2.5
    assert columns["lag_p90"] == 10.0
    shares = [columns[f"sampled_eps_{i}"] for i in (1, 2, 3, 4)]
    assert shares == [1.0, 0.0, 0.0, 0.0]
    assert histograms["samples_by_lane"].tolist() == [1, 0]
    assert histograms["lag_updates"].tolist() == [4, 8, 10]


def test_a_batch_without_any_item_of_the_lanes_has_no_shares():
  stats = SampleStats(num_envs=2)
  batch = origin()._replace(env_id=np.array([5, 7], np.int32))
  stats.add(batch, TRAINED, num_updates=20, steps=200)
  columns, histograms = stats.pop()
  assert columns["reuse_mean"] == 2.5
  assert np.isnan([columns[f"sampled_eps_{i}"] for i in (1, 2, 3, 4)]).all()
  assert histograms["samples_by_lane"].tolist() == [0, 0]


def test_counts_of_other_lanes_are_refused():
  with pytest.raises(ValueError, match="expected counts of 8 lanes.*(2,)"):
    SampleStats(num_envs=8).load_state_dict(SampleStats(2).state_dict())


@pytest.mark.parametrize("num_envs", [1, 2, 3, 5])
def test_shares_of_few_lanes_add_up_to_1(num_envs):
  stats = SampleStats(num_envs)
  batch = origin()._replace(env_id=np.array([0, num_envs - 1], np.int32))
  stats.add(batch, TRAINED, num_updates=20, steps=200)
  columns, _ = stats.pop()
  assert sum(columns[f"sampled_eps_{i}"] for i in (1, 2, 3, 4)) == 1.0
  assert columns["sampled_eps_1"] > 0


def test_no_batch_is_lost_or_counted_twice_between_two_threads():
  stats, num_batches, popped = SampleStats(num_envs=8), 500, []

  def add():
    for _ in range(num_batches):
      stats.add(origin(), TRAINED, num_updates=20, steps=200)

  thread = threading.Thread(target=add)
  thread.start()
  while thread.is_alive():
    popped.append(stats.pop()[1])
  thread.join()
  popped.append(stats.pop()[1])
  items = sum(h["samples_by_lane"].sum() for h in popped if h)
  lags = sum(len(h["lag_updates"]) for h in popped if h)
  assert (items, lags) == (2 * num_batches, 3 * num_batches)
