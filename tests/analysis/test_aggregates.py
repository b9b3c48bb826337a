"""Aggregates over games: written-out sums, and the bootstrap."""

import numpy as np
import pytest

from r2d2_jax.analysis.aggregates import (
  aggregate,
  bootstrap_interval,
  performance_profile,
  why_not,
)

pytest.importorskip("rliable")

# Runs of four games; their means: 0.1, 0.5, 1.0, 6.0.
SCORES = [
  np.array([0.0, 0.2]),
  np.array([0.4, 0.6]),
  np.array([0.5, 1.5]),
  np.array([2.0, 10.0]),
]


def test_aggregates_of_hand_made_scores():
  median, mean, iqm, gap = aggregate(SCORES)
  assert median == pytest.approx((0.5 + 1.0) / 2)
  assert mean == pytest.approx((0.1 + 0.5 + 1.0 + 6.0) / 4)
  # Of 0, 0.2, 0.4, 0.5, 0.6, 1.5, 2, 10 the middle half is 0.4 to 1.5.
  assert iqm == pytest.approx((0.4 + 0.5 + 0.6 + 1.5) / 4)
  # What is missing to 1: 1, 0.8, 0.6, 0.5, 0.4, 0, 0, 0.
  assert gap == pytest.approx(3.3 / 8)


def test_a_game_counts_the_same_whatever_its_number_of_runs():
  uneven = [np.array([0.3]), np.array([0.2, 0.4, 0.6])]
  # The games' means are 0.3 and 0.4. With the first game's run three times, the
  # middle of 0.2, 0.3, 0.3, 0.3, 0.4, 0.6 is 0.3, 0.3, 0.3, 0.4.
  np.testing.assert_allclose(aggregate(uneven), [0.35, 0.35, 0.325, 0.65])
  np.testing.assert_allclose(
    performance_profile(uneven, np.array([0.25, 0.5])),
    # (1 + 2/3) / 2 and (0 + 1/3) / 2
    [5 / 6, 1 / 6],
  )


def test_profile_falls_from_one_to_zero():
  taus = np.array([-1.0, 0.0, 0.5, 1.0, 9.9, 10.0])
  np.testing.assert_allclose(
    performance_profile(SCORES, taus), [1, 7 / 8, 4 / 8, 3 / 8, 1 / 8, 0]
  )


def test_a_missing_module_is_told_by_its_first_cause():
  try:
    try:
      raise ImportError("numpy 2 is needed\nnumpy 1 is there")
    except ImportError as error:
      raise ImportError("not built") from error
  except ImportError as error:
    assert why_not(error) == "rliable cannot be imported: numpy 2 is needed"


def _library():
  pytest.importorskip("rliable.library", exc_type=ImportError)


def test_intervals_hold_the_point_and_are_repeatable():
  _library()
  np.random.seed(3)
  expected_draw = np.random.get_state()[1].copy()
  low, high = bootstrap_interval(SCORES, aggregate, repetitions=200)
  point = aggregate(SCORES)
  assert (low <= point).all() and (point <= high).all() and (low < high).all()
  again = bootstrap_interval(SCORES, aggregate, repetitions=200)
  np.testing.assert_array_equal(again, [low, high])
  other = bootstrap_interval(SCORES, aggregate, repetitions=200, seed=1)
  assert (other != again).any()
  # The program's own global generator goes on as if nothing had been drawn.
  np.testing.assert_array_equal(np.random.get_state()[1], expected_draw)


def test_only_runs_are_drawn_anew_and_never_across_games():
  _library()
  scores = [np.array([0.0, 1.0]), np.array([10.0]), np.array([20.0, 20.0])]
  low, high = bootstrap_interval(
    scores, lambda s: np.array([x.mean() for x in s]), repetitions=200
  )
  np.testing.assert_array_equal(low, [0.0, 10.0, 20.0])
  np.testing.assert_array_equal(high, [1.0, 10.0, 20.0])


def test_one_run_of_each_game_works():
  _library()
  scores = [np.array([0.5]), np.array([2.0])]
  interval = bootstrap_interval(scores, aggregate, repetitions=50)
  np.testing.assert_array_equal(interval, [aggregate(scores)] * 2)
