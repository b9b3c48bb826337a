"""What both replays refuse, and the error for a memory that is gone."""

from typing import Sequence as Seq

import numpy as np


class ReplayError(RuntimeError):
  """The memory cannot serve: its server died, it was closed, or what was saved of
  it cannot be restored."""


def check_priorities(priorities: Seq[float], expected: int) -> np.ndarray:
  """The priorities as float64 [expected].

  One infinite or NaN priority damages a prioritised table for good (the sum of
  all priorities is then useless), so it is refused before it gets there.

  Args:
    priorities: raw priorities, before the exponent.
    expected: how many there must be.

  Raises:
    ValueError: wrong number, or a priority that is not finite, or negative.
  """
  priorities = np.asarray(priorities, np.float64)
  if priorities.shape != (expected,):
    raise ValueError(
        f"expected {expected} priorities, one per item; got an array of shape "
        f"{priorities.shape}")
  wrong = ~(np.isfinite(priorities) & (priorities >= 0.0))
  if wrong.any():
    raise ValueError(
        "expected finite priorities >= 0; got "
        f"{priorities[wrong][:5].tolist()} at positions "
        f"{np.flatnonzero(wrong)[:5].tolist()}. Look for a loss that diverged "
        "(non-finite td errors) before they reach the replay.")
  return priorities
