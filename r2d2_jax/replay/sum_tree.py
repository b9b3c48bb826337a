"""Drawing by weight in logarithmic time."""

import numpy as np


class SumTree:
  """Weights in the leaves of a binary tree, partial sums above them.

  Sums are recomputed from the children, never adjusted by differences: they
  don't drift.

  Args:
    size: leaves asked for; all weights start at 0.
  """

  def __init__(self, size: int):
    self._depth = max(size - 1, 1).bit_length()
    self._first_leaf = 1 << self._depth
    # nodes[1] is the root, the children of i are 2 i and 2 i + 1.
    self._nodes = np.zeros(2 * self._first_leaf, np.float64)

  @property
  def total(self) -> float:
    """The sum of all weights."""
    return float(self._nodes[1])

  def get(self, index: np.ndarray) -> np.ndarray:
    """Weights of the leaves `index`."""
    return self._nodes[self._first_leaf + index]

  def set(self, index: np.ndarray, weights: np.ndarray) -> None:
    """Sets the leaves `index` (int [B]); of equal indices the last counts."""
    node = self._first_leaf + index
    self._nodes[node] = weights
    for _ in range(self._depth):
      node = np.unique(node >> 1)
      self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

  def find(self, uniform: np.ndarray) -> np.ndarray:
    """Leaves drawn with probability weight / total, by `uniform` [B] < 1."""
    target = uniform * self._nodes[1]
    node = np.ones(target.shape, np.int64)
    for _ in range(self._depth):
      left = self._nodes[2 * node]
      # Rounding can carry a target past the last weight: never into an empty
      # side.
      right = (target >= left) & (self._nodes[2 * node + 1] > 0.0)
      target = np.where(right, target - left, target)
      node = 2 * node + right
    return node - self._first_leaf
