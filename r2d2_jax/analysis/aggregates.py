"""Aggregates over games, with bootstrap intervals (Agarwal et al., 2021).

Everywhere `scores` holds an array for each game: the human-normalised score of
each run (seed), as a fraction: 0 random play, 1 the human. The formulas are
rliable's.
"""

from collections.abc import Callable, Sequence
import math

import numpy as np

METRICS = ("median", "mean", "IQM", "optimality gap")


def aggregate(scores: Sequence[np.ndarray]) -> np.ndarray:
  """Median, mean, interquartile mean and optimality gap over games and runs.

  Median and mean are those of the games' means over runs; the interquartile
  mean is that of the middle half of all runs of all games; the optimality gap
  is the mean of max(0, 1 - score), the smaller the better.

  Args:
    scores: one array of runs for each game. Each game counts as much as
      another, whatever its number of runs.

  Returns:
    float64 [4], in the order of `METRICS`; fractions.
  """
  from rliable import metrics

  # rliable wants as many runs of every game: all are repeated alike.
  runs = math.lcm(*map(len, scores))
  matrix = np.stack([np.repeat(s, runs // len(s)) for s in scores], axis=1)
  return np.array(
    [
      metrics.aggregate_median(matrix),
      metrics.aggregate_mean(matrix),
      metrics.aggregate_iqm(matrix),
      metrics.aggregate_optimality_gap(matrix),
    ]
  )


def performance_profile(
  scores: Sequence[np.ndarray], taus: np.ndarray
) -> np.ndarray:
  """Fraction of runs whose score is above tau, each game counting the same.

  Args:
    scores: one array of runs for each game.
    taus: float [K], fractions.

  Returns:
    float64 [K].
  """
  return np.mean(
    [(s[:, np.newaxis] > taus).mean(axis=0) for s in scores], axis=0
  )


def bootstrap_interval(
  scores: Sequence[np.ndarray],
  statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
  *,
  repetitions: int = 2000,
  seed: int = 0,
) -> np.ndarray:
  """95 % percentile interval of a statistic, by rliable's stratified bootstrap.

  The runs of each game are drawn anew with replacement, the games are kept: it
  is the spread that other seeds would give, on these games. A game with one run
  contributes no spread.

  Args:
    scores: one array of runs for each game.
    statistic: of such scores, float [K].
    repetitions: how often runs are drawn.
    seed: of the drawing.

  Returns:
    float64 [2, K]: lower and upper ends.

  Raises:
    ImportError: rliable, or what it needs, is not installed.
  """
  from rliable import library

  before = np.random.get_state()
  np.random.seed(seed)  # rliable draws from numpy's global generator
  try:
    # A list of arrays, not a matrix: games may differ in their number of runs.
    _, intervals = library.get_interval_estimates(
      {"": list(scores)}, lambda *s: statistic(s), reps=repetitions
    )
  finally:
    np.random.set_state(before)
  return intervals[""]


def why_not(error: ImportError) -> str:
  """What keeps rliable from being imported, in one line."""
  # What it needs, or what that needs, may be at fault: the first cause says it.
  cause: BaseException = error
  while cause.__cause__ is not None:
    cause = cause.__cause__
  return f"rliable cannot be imported: {str(cause).splitlines()[0]}"
