"""Observations of several arrays: their bytes, and back."""

import numpy as np

from r2d2_jax.parts import join_parts, num_bytes, obs_in_words, split_parts
from r2d2_jax.types import EnvSpec, ObsPart

IMAGE = ObsPart((2, 3), np.dtype(np.uint8))
NUMBERS = ObsPart((2,), np.dtype(np.float32))
SPEC = EnvSpec((14,), np.dtype(np.uint8), 4, 1, obs_parts=(IMAGE, NUMBERS))


def test_golden_bytes():
  """1.0 is 0x3F800000 and -2.0 is 0xC0000000, the least byte first."""
  assert (num_bytes(IMAGE), num_bytes(NUMBERS)) == (6, 8)
  image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
  obs = join_parts([image, np.array([[1.0, -2.0]], np.float32)])
  expected = [0, 1, 2, 3, 4, 5, 0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0]
  np.testing.assert_array_equal(obs, [expected])
  assert obs.dtype == np.uint8 and obs.flags.owndata


def test_parts_come_back():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (5, 2, 3), np.uint8)
  numbers = rng.normal(size=(5, 2)).astype(np.float32)
  obs = join_parts([image, numbers])
  for lead in ((5,), (1, 5)):  # of a batch, of rows and lanes
    found = split_parts(obs.reshape(*lead, 14), SPEC)
    np.testing.assert_array_equal(found[0], image.reshape(*lead, 2, 3))
    np.testing.assert_array_equal(found[1], numbers.reshape(*lead, 2))
    assert found[1].dtype == np.float32
  # blanked bytes are blanked parts
  assert all((x == 0).all() for x in split_parts(0 * obs, SPEC))


def test_one_array_is_its_own_part():
  spec = EnvSpec((3,), np.dtype(np.float32), 4, 1)
  obs = np.ones((2, 3), np.float32)
  (found,) = split_parts(obs, spec)
  assert found is obs
  assert obs_in_words(spec) == "3 float32"
  assert obs_in_words(SPEC) == "2x3 uint8 and 2 float32"
