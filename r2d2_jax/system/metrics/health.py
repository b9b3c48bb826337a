"""When a run goes wrong or stands still: noticing it, and saying why."""

from collections.abc import Callable

import jax
import numpy as np

from r2d2_jax.parts import split_parts
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.types import EnvSpec, LearnerState, ReplaySample, Timestep


class DivergedError(RuntimeError):
  """The training produced NaN, infinity or absurd errors: says which."""


class BadRowsError(RuntimeError):
  """An environment gave rows that cannot be used: says which, and where."""


def check_rows(timestep: Timestep, *, spec: EnvSpec, task: str) -> None:
  """One row that is not finite would spoil all that is learned from it.

  A pass over the rewards, and over the observations where they are floats; and
  over the action masks, where there are any.

  Args:
    timestep: rows as they came from the world.
    spec: of the world.
    task: for the message.

  Raises:
    BadRowsError: NaN or infinity in a reward, discount or observation, or a row
      in which no action may be taken.
  """
  fields = [("r_t", timestep.r_t), ("discount_t", timestep.discount_t)]
  fields += [("obs_t", part) for part in split_parts(timestep.obs_t, spec)]
  for field, values in fields:
    if values.dtype.kind != "f" or np.isfinite(values).all():
      continue
    values = values.reshape(len(values), -1)
    row, place = np.argwhere(~np.isfinite(values))[0]
    raise BadRowsError(
      f"environment {task!r}, lane {timestep.env_id[row]}: expected finite"
      f" numbers in {field}, got {values[row, place]}"
      + (f" at place {place}" if values.shape[1] > 1 else "")
      + "; mend the environment, or replace such numbers where it is wrapped"
    )
  mask_t = timestep.action_mask_t
  if mask_t is not None and not mask_t.any(axis=1).all():
    row = int(np.argmin(mask_t.any(axis=1)))
    raise BadRowsError(
      f"environment {task!r}, lane {timestep.env_id[row]}: expected an action"
      " that may be taken in each row but those in which the game is over, got"
      " an action mask of zeros; mend the environment, or end the game there"
    )


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
