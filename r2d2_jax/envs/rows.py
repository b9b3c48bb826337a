"""Rows that cannot be used: noticed before anything is learned from them."""

import numpy as np

from r2d2_jax.config import UserError
from r2d2_jax.parts import split_parts
from r2d2_jax.types import EnvSpec, Timestep


class BadRowsError(UserError, RuntimeError):
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
