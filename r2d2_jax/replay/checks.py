"""What both replays refuse, and the error for a memory that cannot serve."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# As many weights can still be added up as a table can hold.
MAX_WEIGHT = 1e290
# More lanes than any run has: numbers above it are damage, and tables by lane
# would take gigabytes.
_MAX_LANES = 2**20


class ReplayError(RuntimeError):
  """The memory cannot serve: its server is gone, or what it holds is wrong.

  The server did not start or died, the memory was closed, what was saved of it
  cannot be restored, or it holds what this run did not put there.
  """


def check_priorities(
  priorities: ArrayLike, expected: int, exponent: float
) -> np.ndarray:
  """The priorities as float64 [expected].

  One priority that is infinite or NaN, before or after the exponent, damages a
  prioritised table for good (the sum of all of them is then useless), so it is
  refused before it gets there.

  Args:
    priorities: raw priorities, before the exponent.
    expected: how many there must be.
    exponent: what the table will raise them to.

  Raises:
    ValueError: wrong number, or a priority that is not finite, or negative, or
      too large for the exponent.
  """
  raw = np.asarray(priorities, np.float64)
  if raw.shape != (expected,):
    raise ValueError(
      f"expected {expected} priorities, one per item; got an array of shape "
      f"{raw.shape}"
    )
  with np.errstate(over="ignore", invalid="ignore"):
    too_large = ~(raw**exponent <= MAX_WEIGHT)
  wrong = ~(np.isfinite(raw) & (raw >= 0.0)) | too_large
  if wrong.any():
    raise ValueError(
      "expected finite priorities >= 0 whose power "
      f"replay.priority_exponent = {exponent} is finite too; got "
      f"{raw[wrong][:5].tolist()} at positions "
      f"{np.flatnonzero(wrong)[:5].tolist()}. Look for a loss that diverged "
      "(non-finite td errors) before they reach the replay."
    )
  return raw


def check_sampled(probability: np.ndarray, keys: np.ndarray) -> None:
  """Refuses a batch that no table in order hands out.

  Beside an infinite priority all others have probability 0, and it has NaN.

  Args:
    probability: float64 [B], of being sampled.
    keys: uint64 [B].

  Raises:
    ReplayError: a probability that is not finite or not above 0.
  """
  wrong = np.flatnonzero(~(np.isfinite(probability) & (probability > 0.0)))
  if wrong.size:
    raise ReplayError(
      "the replay is at fault, not the training: expected probabilities above "
      f"0 of all sampled items, got {probability[wrong[0]]} of item "
      f"{keys[wrong[0]]}. A priority in the table is not finite, which this run"
      " never sets; another process can, through Reverb's port (see "
      "docs/security.md). Go on from the last checkpoint, with the port closed "
      "to others or with the replay backend 'local'."
    )


def foreign_item(why: Any) -> ReplayError:
  """The error for what came into the table through the port."""
  return ReplayError(
    "the replay is at fault, not the training: it holds an item that this run "
    f"did not write ({' '.join(str(why).split())}). Another process can write "
    "through Reverb's port (see docs/security.md): go on from the last "
    "checkpoint, with the port closed to others or with the replay backend "
    "'local'."
  )


def wrong_rows(rows: dict[str, np.ndarray], num_actions: int) -> str | None:
  """What no run writes into the small fields of rows; None if there is nothing.

  Args:
    rows: stored fields by name, of any shape.
    num_actions: of the world.
  """
  bounds = {
    "a_tm1": (0, num_actions - 1),
    "a_t": (0, num_actions - 1),
    "env_id": (0, _MAX_LANES),
    "num_updates": (0, np.inf),
    "step": (0, np.inf),
    "discount_t": (0, 1),
  }
  booleans = ("is_first_t", "valid_t", "action_mask_t")
  bounds |= {name: (0, 1) for name in booleans if name in rows}
  for name, (low, high) in bounds.items():
    values = rows[name]
    if values.dtype == np.bool_:  # a byte may hold more than two values
      values = values.view(np.uint8)
    if values.size and not (low <= values.min() and values.max() <= high):
      return (
        f"expected {name} in [{low}, {high}], got values from "
        f"{values.min()} to {values.max()}"
      )
  return None
