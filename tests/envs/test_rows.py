"""Rows that cannot be used are named: lane, field, environment."""

import numpy as np
import pytest

from r2d2_jax.config import UserError
from r2d2_jax.envs.rows import BadRowsError, check_rows
from r2d2_jax.parts import join_parts
from r2d2_jax.types import EnvSpec, ObsPart, Timestep

SPEC = EnvSpec((2, 2), np.dtype(np.float32), 4, 1)


def rows(obs_dtype=np.float32) -> Timestep:
  """Of lanes 7, 4 and 9."""
  return Timestep(
    obs_t=np.zeros((3, 2, 2), obs_dtype),
    r_t=np.zeros(3, np.float32),
    discount_t=np.ones(3, np.float32),
    is_first_t=np.zeros(3, bool),
    is_last_t=np.zeros(3, bool),
    env_id=np.array([7, 4, 9], np.int32),
  )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "field, place, words",
  [
    ("r_t", 1, "lane 4: expected finite numbers in r_t, got "),
    ("discount_t", 2, "lane 9: expected finite numbers in discount_t, got "),
    ("obs_t", (0, 1, 1), "lane 7: expected finite numbers in obs_t, got "),
  ],
)
def test_a_row_that_is_not_finite_is_named(field, place, words, bad):
  timestep = rows()
  check_rows(timestep, spec=SPEC, task="Odd-v0")
  getattr(timestep, field)[place] = bad
  with pytest.raises(BadRowsError) as caught:
    check_rows(timestep, spec=SPEC, task="Odd-v0")
  assert f"environment 'Odd-v0', {words}{bad}" in str(caught.value)
  assert (" at place 3;" in str(caught.value)) == (field == "obs_t")


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_whole_numbers_are_always_finite(dtype):
  check_rows(rows(dtype), spec=SPEC, task="Odd-v0")


def test_numbers_beside_an_image_are_looked_at_too():
  parts = ObsPart((2, 2), np.dtype(np.uint8)), ObsPart((3,), np.dtype("f4"))
  spec = EnvSpec((16,), np.dtype(np.uint8), 4, 1, obs_parts=parts)
  numbers = np.zeros((3, 3), np.float32)
  image = np.full((3, 2, 2), 255, np.uint8)
  timestep = rows()._replace(obs_t=join_parts([image, numbers]))
  check_rows(timestep, spec=spec, task="Odd-v0")
  numbers[2, 1] = np.inf
  timestep = timestep._replace(obs_t=join_parts([image, numbers]))
  with pytest.raises(BadRowsError, match="lane 9.*obs_t, got inf at place 1"):
    check_rows(timestep, spec=spec, task="Odd-v0")


def test_a_row_needs_an_action_that_may_be_taken():
  mask_t = np.array([[True, False], [False, True], [True, True]])
  timestep = rows()._replace(action_mask_t=mask_t)
  check_rows(timestep, spec=SPEC, task="Odd-v0")
  mask_t[1] = False
  with pytest.raises(UserError, match="'Odd-v0', lane 4: expected an action"):
    check_rows(timestep, spec=SPEC, task="Odd-v0")
