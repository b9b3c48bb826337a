"""New items with the largest priority so far, as in prioritised experience
replay.

What Ape-X's actors made unnecessary: a priority for an item that nobody has
computed an error of yet.
"""

import json
import math
import pathlib

import numpy as np

from r2d2_jax.replay.interface import Replay
from r2d2_jax.replay.items import Item
from r2d2_jax.replay.meta import unreadable
from r2d2_jax.types import ReplaySample

_NAME = "largest_priority.json"


class LargestFirst:
  """A `Replay` that gives every new item the largest priority of any so far.

  So each is drawn soon, and then has its own. The first ones, before any
  update, have 1. Source: Schaul et al. 2016 (PER), algorithm 1, lines 3 and 6.
  """

  def __init__(self, replay: Replay, *, restore_from: pathlib.Path | None):
    """See the class.

    Args:
      replay: holds the items; nobody else inserts or updates.
      restore_from: directory of a `save`, or of a save of the inner replay
        alone, after which the largest is 1 again; None for a new one.

    Raises:
      ReplayError: what is in `restore_from` cannot be read.
    """
    self._replay = replay
    self._largest = 1.0
    if restore_from is not None and (restore_from / _NAME).exists():
      self._largest = _read(restore_from / _NAME)

  def insert(self, items: list[Item], priorities: np.ndarray) -> None:
    """See `Replay`; what the priorities are does not matter."""
    self._replay.insert(items, np.full(len(priorities), self._largest))

  def update_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
    """See `Replay`."""
    self._replay.update_priorities(keys, priorities)
    self._largest = max(self._largest, float(np.max(priorities, initial=0.0)))

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> ReplaySample:
    """See `Replay`."""
    return self._replay.sample(batch_size, timeout_seconds, min_size=min_size)

  def size(self) -> int:
    """See `Replay`."""
    return self._replay.size()

  def num_inserted(self) -> int:
    """See `Replay`."""
    return self._replay.num_inserted()

  def check_alive(self, timeout_seconds: float) -> None:
    """See `Replay`."""
    self._replay.check_alive(timeout_seconds)

  def save(self, directory: pathlib.Path) -> None:
    """See `Replay`."""
    self._replay.save(directory)
    (directory / _NAME).write_text(json.dumps(self._largest) + "\n")

  def close(self) -> None:
    """See `Replay`."""
    self._replay.close()


def _read(path: pathlib.Path) -> float:
  try:
    if not path.is_file():  # opening a pipe would wait for its writer
      raise FileNotFoundError("expected a file")
    largest = json.loads(path.read_text())
    if not (isinstance(largest, float) and 1.0 <= largest < math.inf):
      raise ValueError(f"expected a number from 1 on, got {largest!r:.40}")
  except (OSError, ValueError, RecursionError) as error:
    raise unreadable(path, error) from error
  return largest
