"""When a run goes wrong or stands still: noticing it, and saying why."""

from collections.abc import Callable

import jax
import numpy as np

from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.types import LearnerState, ReplaySample


class DivergedError(RuntimeError):
  """The training produced NaN, infinity or absurd errors: says which."""


class Heartbeat:
  """Asks for a sign of life: one that is missing is a slow machine, three in a
  row are a death."""

  def __init__(self, check_alive: Callable[[], None], *, max_missing: int = 3):
    """See the class.

    Args:
      check_alive: raises ReplayError where there was no answer in time.
      max_missing: how many in a row are believed.
    """
    self._check_alive = check_alive
    self._max_missing = max_missing
    self._num_missing = 0

  def ask(self) -> None:
    """Asks once.

    Raises:
      ReplayError: of the last of `max_missing` calls in a row that failed.
    """
    try:
      self._check_alive()
      self._num_missing = 0
    except ReplayError:
      self._num_missing += 1
      if self._num_missing >= self._max_missing:
        raise


def check_priorities_are_sane(
  priorities: np.ndarray, *, max_td_error: float
) -> None:
  """Priorities are |td errors|: the first place where a bad update shows.

  Args:
    priorities: float32 [B], of one update.
    max_td_error: the largest mean that is believed.

  Raises:
    DivergedError: NaN, infinity or a larger mean.
  """
  mean = float(np.mean(priorities))
  if not mean <= max_td_error:
    raise DivergedError(
      f"the mean |td error| of a batch is {mean:g}, limits.max_td_error is"
      f" {max_td_error:g}"
    )


def diagnosis(
  state: LearnerState, batch: ReplaySample, metrics: dict[str, float]
) -> str:
  """What can be told about a bad update, in a few lines, the likely cause last.

  Args:
    state: after the update, or a later one.
    batch: the items of the update.
    metrics: of the update.
  """
  rewards = np.asarray(batch.sequence.inputs.r_t)
  bad = {
    "rewards": not np.isfinite(rewards).all(),
    "observations": not _is_finite(batch.sequence.inputs.obs_t),
    "stored states": not _is_finite(batch.sequence.core_state),
    "parameters": not _is_finite(state.params),
    "target network": not _is_finite(state.target_params),
  }
  lines = [
    ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
    f"rewards of the batch: {rewards.min():g} to {rewards.max():g}",
    "not finite: " + (", ".join(k for k, v in bad.items() if v) or "nothing"),
  ]
  if bad["rewards"] or bad["observations"]:
    cause = "the environment gave numbers that are not finite"
  elif bad["target network"]:
    cause = "the target network was copied from a network gone bad"
  elif not np.isfinite(metrics.get("grad_norm", 0.0)) and np.isfinite(
    metrics.get("loss", 0.0)
  ):
    cause = "the gradient overflowed: lower agent.learning_rate"
  else:
    cause = (
      "the values grow without bound: lower agent.learning_rate, raise"
      " agent.target_period_updates, or keep agent.value_rescaling on"
    )
  return "\n".join(f"  {line}" for line in (*lines, f"likely cause: {cause}"))


def _is_finite(tree) -> bool:
  return all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
