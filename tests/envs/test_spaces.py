"""Gymnasium's spaces: what the agent sees of each, and what its actions are."""

import re

from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
import numpy as np
import pytest

from r2d2_jax.config import ConfigError
from r2d2_jax.envs.action_spaces import actions_of
from r2d2_jax.envs.spaces import fault, observations_of
from r2d2_jax.parts import split_parts
from r2d2_jax.types import EnvSpec


def _seen(space, *samples):
  """Shape, dtype and values that the agent sees of some observations."""
  obs = observations_of("task", space)
  batch = concatenate(space, samples, create_empty_array(space, len(samples)))
  out = obs.convert(batch)
  assert out.dtype == obs.dtype and out.shape == (len(samples), *obs.shape)
  assert out.flags["C_CONTIGUOUS"]
  return obs.shape, obs.dtype, out


@pytest.mark.parametrize(
  "shape, seen",
  [
    ((5, 6), (5, 6)),
    ((5, 6, 1), (5, 6)),
    ((1, 5, 6), (5, 6)),
    ((5, 6, 3), (5, 6, 3)),
    ((3, 5, 6), (5, 6, 3)),
    ((4, 84, 84), (84, 84, 4)),
    ((7, 7, 20), (7, 7, 20)),
    ((20, 7, 7), (7, 7, 20)),
    ((36, 48, 3), (36, 48, 3)),
    ((3, 3, 3), (3, 3, 3)),
    ((128,), (128,)),
  ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
def test_boxes(shape, seen, dtype):
  space = spaces.Box(0, 200, shape, dtype)
  x = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8).astype(dtype)
  shown, seen_dtype, out = _seen(space, x, x // 2)
  assert shown == seen
  assert seen_dtype == (np.uint8 if dtype == np.uint8 else np.float32)
  moved = len(shape) == 3 and seen != shape and shape[-1] != 1
  expected = np.moveaxis(x, 0, -1) if moved else x
  np.testing.assert_array_equal(out[0], expected.reshape(seen))


def test_a_scalar_box_is_a_vector_of_one():
  assert _seen(spaces.Box(0, 1, ()), np.float32(0.5))[0] == (1,)


def test_numbers_of_states():
  shape, _, out = _seen(spaces.Discrete(3, start=-1), -1, 1)
  assert shape == (3,)
  np.testing.assert_array_equal(out, [[1, 0, 0], [0, 0, 1]])
  space = spaces.MultiDiscrete([2, 3], start=[5, 0])
  _, _, out = _seen(space, np.array([6, 2]), np.array([5, 0]))
  np.testing.assert_array_equal(out, [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]])
  _, _, out = _seen(
    spaces.MultiBinary((2, 2)), np.array([[1, 0], [1, 1]], np.int8)
  )
  np.testing.assert_array_equal(out, [[1, 0, 1, 1]])


def test_parts_side_by_side():
  space = spaces.Dict(
    place=spaces.Discrete(2),
    speed=spaces.Box(-1, 1, (2,)),
    grid=spaces.Box(0, 255, (1, 2), np.uint8),
    inner=spaces.Tuple([spaces.MultiBinary(1), spaces.Box(0, 9, (1,), int)]),
  )
  one = {
    "place": 1,
    "speed": np.array([0.5, -1], np.float32),
    "grid": np.array([[255, 51]], np.uint8),
    "inner": (np.array([1], np.int8), np.array([7])),
  }
  shape, _, out = _seen(space, one, space.sample())
  assert shape == (8,)
  # in the order of the space's own keys
  expected = {"place": [0, 1], "speed": [0.5, -1], "grid": [1, 0.2]}
  row = [x for key in space.spaces for x in expected.get(key, [1, 7])]
  np.testing.assert_allclose(out[0], row, rtol=1e-6)


def test_a_single_part_is_seen_as_it_is():
  space = spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8))
  x = space.sample()
  shape, dtype, out = _seen(space, x)
  assert (shape, dtype) == ((64, 64, 3), np.uint8)
  np.testing.assert_array_equal(out[0], np.moveaxis(x["image"], 0, -1))
  assert _seen(spaces.Tuple([spaces.Discrete(4)]), (2,))[0] == (4,)


def test_images_among_other_parts_stay_images():
  """Images first, then all else in one vector."""
  space = spaces.Dict(
    a=spaces.Discrete(2),
    eye=spaces.Box(0, 255, (3, 64, 48), np.uint8),
    inside=spaces.Tuple(
      [spaces.Box(-1, 1, (40, 40), np.float64), spaces.Box(0, 9, (2,))]
    ),
  )
  x = space.sample()
  x["a"], x["inside"] = 1, (x["inside"][0], np.array([3, 4], np.float32))
  found = observations_of("task", space)
  batch = concatenate(space, [x, x], create_empty_array(space, 2))
  obs = found.convert(batch)
  assert found.parts == (
    ((64, 48, 3), np.uint8),
    ((40, 40), np.float32),
    ((4,), np.float32),
  )
  assert found.shape == (64 * 48 * 3 + 4 * 1600 + 16,) == obs.shape[1:]
  spec = EnvSpec(found.shape, found.dtype, 2, 1, obs_parts=found.parts)
  eye, map_, numbers = split_parts(obs, spec)
  np.testing.assert_array_equal(eye[1], np.moveaxis(x["eye"], 0, -1))
  np.testing.assert_array_equal(map_[1], x["inside"][0].astype(np.float32))
  np.testing.assert_array_equal(numbers[1], [0, 1, 3, 4])


def test_arrays_are_copies():
  space = spaces.Box(0, 255, (40, 40), np.uint8)
  batch = np.zeros((1, 40, 40), np.uint8)
  out = observations_of("task", space).convert(batch)
  batch[:] = 1
  assert out.max() == 0


@pytest.mark.parametrize(
  "space, message",
  [
    (spaces.Text(5), "space Text have no fixed size"),
    (spaces.Sequence(spaces.Discrete(2)), "Sequence have no fixed size"),
    (
      spaces.Dict(a=spaces.Discrete(2), mission=spaces.Text(5)),
      "Text at .'mission'. have no fixed size",
    ),
    (spaces.Discrete(10**6), "number 1000000 states, more than the 65536"),
  ],
)
def test_observations_that_are_refused(space, message):
  with pytest.raises(ConfigError, match=f"task: observations.*{message}"):
    observations_of("task", space)


def test_actions():
  actions = actions_of("task", spaces.Discrete(3, start=5))
  assert actions.num_actions == 3
  np.testing.assert_array_equal(actions.convert(np.array([0, 2])), [5, 7])

  space = spaces.MultiDiscrete([2, 3], start=[0, 10])
  actions = actions_of("task", space)
  assert actions.num_actions == 6
  found = actions.convert(np.arange(6))
  np.testing.assert_array_equal(
    found, [[0, 10], [0, 11], [0, 12], [1, 10], [1, 11], [1, 12]]
  )
  assert all(space.contains(a) for a in found)

  space = spaces.MultiBinary(3)
  actions = actions_of("task", space)
  assert actions.num_actions == 8
  found = actions.convert(np.arange(8))
  assert len({tuple(a) for a in found}) == 8
  assert all(space.contains(a) for a in found)


@pytest.mark.parametrize(
  "space, message",
  [
    (spaces.Box(-1, 1, (2,)), "actions of the space Box float32 .2."),
    (spaces.Tuple([spaces.Discrete(2)]), "actions of the space Tuple"),
    (spaces.MultiDiscrete([9, 9, 9, 9]), "6561 combinations.*at most 1024"),
    (spaces.MultiBinary(11), "2048 combinations"),
  ],
)
def test_actions_that_are_refused(space, message):
  with pytest.raises(ConfigError, match=f"task has .*{message}"):
    actions_of("task", space)


@pytest.mark.parametrize(
  "space, x, message",
  [
    (spaces.Box(0, 1, (2,)), np.zeros(3), r"shape \(2,\), got \(3,\)"),
    (spaces.Box(0, 1, (2,)), 0.5, r"shape \(2,\), got \(\)"),
    (spaces.Discrete(2, start=1), 0, "a state number in Discrete.*got 0"),
    (spaces.Discrete(2), np.zeros(1, int), "a state number"),
    (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "state numbers in Multi"),
    (spaces.Dict(a=spaces.Discrete(2)), {}, r"a dict of \['a'\], got \[\]"),
    (spaces.Dict(a=spaces.Discrete(2)), {"a": 5}, "at 'a' expected a state"),
    (spaces.Tuple([spaces.Discrete(2)]), (0, 1), "a tuple of 1 parts"),
  ],
)
def test_what_is_not_in_a_space(space, x, message):
  assert re.search(message, fault(space, x))
  assert fault(space, space.sample()) == ""


def test_bounds_of_a_box_are_left_alone():
  assert fault(spaces.Box(0, 1, (1,)), np.array([7.0])) == ""
