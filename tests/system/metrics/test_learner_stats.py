"""What updates said, reduced over an interval."""

import numpy as np
import pytest

from r2d2_jax.system.metrics.learner_stats import LearnerStats


def add(stats, by_row=(0.5, 0.25), **metrics):
  stats.add(
    {k: np.float32(v) for k, v in metrics.items()},
    np.array(by_row, np.float32),
  )


def test_a_column_is_the_mean_and_td_abs_max_the_largest():
  stats = LearnerStats()
  add(stats, loss=1.0, td_abs_max=3.0, my_own=2.0)
  add(stats, loss=4.0, td_abs_max=2.0, my_own=-1.0)
  columns, histograms = stats.pop()
  assert columns == {
    "loss": 2.5,
    "td_abs_max": 3.0,
    "my_own": 0.5,
    "td_first": 0.5,
    "td_last": 0.25,
  }
  assert histograms["td_abs_by_row"].tolist() == [0.5, 0.25]


def test_positions_that_no_item_reached_do_not_count():
  stats = LearnerStats()
  for by_row in ((1.0, 0.5, 0.0), (2.0, 0.0, 0.0), (6.0, 0.25, 0.0)):
    add(stats, by_row)
  columns, histograms = stats.pop()
  assert histograms["td_abs_by_row"].tolist() == [3.0, 0.375, 0.0]
  assert columns == {"td_first": 3.0, "td_last": 0.0}


@pytest.mark.parametrize("metric", ["loss", "td_abs_max"])
@pytest.mark.parametrize("values", [(np.nan, 1.0), (1.0, np.nan)])
def test_one_nan_is_the_intervals(metric, values):
  stats = LearnerStats()
  for value in values:
    add(stats, by_row=(value, value), **{metric: value})
  columns, _ = stats.pop()
  assert np.isnan([columns[metric], columns["td_first"]]).all()


def test_a_pop_forgets():
  stats = LearnerStats()
  add(stats, loss=8.0)
  stats.pop()
  assert stats.pop() == ({}, {}) and not stats.state_dict()
  add(stats, loss=1.0)
  assert stats.pop()[0]["loss"] == 1.0


def test_what_was_counted_survives_a_checkpoint_bit_for_bit():
  straight, saved, restored = (LearnerStats() for _ in range(3))
  for stats in (straight, saved):
    add(stats, (0.1, 0.0), loss=0.1, td_abs_max=3.0)
    add(stats, (0.2, 0.3), loss=0.7, td_abs_max=1.0)
  restored.load_state_dict(saved.state_dict())
  for stats in (straight, restored):
    add(stats, (0.3, 0.0), loss=0.3, td_abs_max=2.0)
  a, b = straight.pop(), restored.pop()
  assert a[0] == b[0] and a[0]["td_abs_max"] == 3.0
  np.testing.assert_array_equal(a[1]["td_abs_by_row"], b[1]["td_abs_by_row"])
  # A checkpoint from before there was anything to save.
  restored.load_state_dict({})
  assert restored.pop() == ({}, {})


@pytest.mark.parametrize("name", ["metrics/loss", "td_abs_by_row"])
def test_arrays_of_another_shape_are_refused(name):
  with pytest.raises(ValueError, match=rf"in {name}, got \(3,\)"):
    LearnerStats().load_state_dict({name: np.zeros(3)})


def test_a_metric_that_is_no_scalar_is_named():
  stats = LearnerStats()
  add(stats, loss=1.0)
  with pytest.raises(
    ValueError, match=r"'q' of the .*: expected a scalar.*\(2,\)"
  ):
    stats.add({"q": np.zeros(2)}, np.zeros(2))
