"""A row's numbers and histograms as TensorBoard and W&B take them."""

import math

import numpy as np

from r2d2_jax.system.metrics.columns import Row, tag

Histograms = dict[str, np.ndarray]

# Bars of a histogram that is counted here, and the most that W&B takes.
_BARS = 50
_MAX_BARS = 512


def scalars(row: Row) -> dict[str, float]:
  """The numbers of a row, by tag."""
  return {
    tag(column): float(value)
    for column, value in row.items()
    if not isinstance(value, str) and not math.isnan(value)
  }


def bars(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Heights [n] and edges [n + 1] of a histogram."""
  if name == "lag_updates":
    return np.histogram(
      values, bins=_BARS, range=(0, values.max(initial=0) + 1)
    )
  # Heights already, by position or lane; too many are added up in groups.
  places = np.arange(len(values))
  width = max(1, math.ceil(len(values) / _MAX_BARS))
  heights = np.add.reduceat(values, places[::width]) if values.size else values
  return heights, np.append(places[::width], len(values))
