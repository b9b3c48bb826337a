"""Metrics of the learner's updates, reduced over a row's interval."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from r2d2_jax.system.metrics.columns import column_of

_BY_ROW = "td_abs_by_row"
_METRICS = "metrics/"


def check_are_scalars(metrics: Mapping[str, Any]) -> None:
  """ValueError: one of the metrics has axes; says which."""
  for name, value in metrics.items():
    if np.ndim(value):
      raise ValueError(
        f"metric {name!r} of the learner's step: expected a scalar, got an"
        f" array of shape {np.shape(value)}; reduce it in the step"
      )


class LearnerStats:
  """Adds up the metrics of updates, between two rows of the log.

  One thread may add while another one pops: whoever has taken the totals out of
  the deque is the only one to touch them.
  """

  def __init__(self):
    self._totals: collections.deque[_Totals] = collections.deque()

  def add(
    self, metrics: Mapping[str, np.ndarray], td_abs_by_row: np.ndarray
  ) -> None:
    """Counts an update.

    Args:
      metrics: its scalars by name.
      td_abs_by_row: float [T-1], mean |td| by position; 0 where no item has
        one.

    Raises:
      ValueError: a metric is no scalar.
    """
    check_are_scalars(metrics)
    totals = self._take()
    totals.add(metrics, np.asarray(td_abs_by_row, np.float64))
    self._totals.append(totals)

  def pop(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Columns and histograms since the last call; none without an update.

    Returns:
      Each metric as its column's `reduce` says, the mean where it has none;
      td_first, td_last: the first and the last of td_abs_by_row. Histogram:
      td_abs_by_row, float64 [T-1], the mean over those updates in which some
      item has a transition there, 0 where none does.
    """
    totals = self._take()
    if totals.by_row is None:
      return {}, {}
    columns = {
      name: value / count if column_of(name).reduce == "mean" else value
      for name, (value, count) in totals.metrics.items()
    }
    by_row = totals.by_row[0] / np.maximum(totals.by_row[1], 1)
    columns |= {"td_first": float(by_row[0]), "td_last": float(by_row[-1])}
    return columns, {_BY_ROW: by_row}

  def state_dict(self) -> dict[str, np.ndarray]:
    """What was counted since the last `pop`; not while another thread adds."""
    totals = self._take()
    self._totals.append(totals)
    if totals.by_row is None:
      return {}
    return {
      **{f"{_METRICS}{k}": np.array(v) for k, v in totals.metrics.items()},
      _BY_ROW: totals.by_row,
    }

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`.

    Raises:
      ValueError: an array has not the shape that it was saved with.
    """
    totals = _Totals()
    for name, array in state.items():
      array = np.array(array, np.float64)
      if name == _BY_ROW:
        if array.ndim != 2 or len(array) != 2:
          raise ValueError(
            f"expected an array [2, T-1] in {name}, got {array.shape}"
          )
        totals.by_row = array
      else:
        if array.shape != (2,):
          raise ValueError(
            f"expected an array [2] in {name}, got {array.shape}"
          )
        totals.metrics[name.removeprefix(_METRICS)] = tuple(array.tolist())
    self._totals.clear()
    self._totals.append(totals)

  def _take(self) -> "_Totals":
    try:
      return self._totals.popleft()
    except IndexError:
      return _Totals()


class _Totals:
  """Sums of some updates."""

  def __init__(self):
    # Sum, maximum or last value, and the number of updates.
    self.metrics: dict[str, tuple[float, float]] = {}
    # float64 [2, T-1]: sum and number of those that are not 0.
    self.by_row: np.ndarray | None = None

  def add(
    self, metrics: Mapping[str, np.ndarray], td_abs_by_row: np.ndarray
  ) -> None:
    for name, value in metrics.items():
      value = float(value)
      reduce = column_of(name).reduce
      before, count = self.metrics.get(name, (value, 0))
      if reduce == "mean":
        value = before + value if count else value
      elif reduce == "max":
        value = float(np.maximum(before, value))  # NaN stays
      self.metrics[name] = (value, count + 1)
    row = np.stack([td_abs_by_row, td_abs_by_row != 0])
    self.by_row = row if self.by_row is None else self.by_row + row
