"""Flicker blanks observations and touches nothing else."""

import numpy as np

from r2d2_jax.envs.flicker import FlickerWorld
from tests.stamped import StampedWorld


def _script(num_lanes, **kwargs):
  return StampedWorld([[7], [9], [11], [8]][:num_lanes], obs="image", **kwargs)


def _play(world, num_recv):
  world.reset()
  timesteps = []
  for _ in range(num_recv):
    timesteps.append(world.recv())
    ids = timesteps[-1].env_id
    world.send(ids % 4, ids)
  return timesteps, world.pop_episodes()


def _blanks(timesteps, lane):
  """Stamped images of lane > 0 are never blank by themselves."""
  return [
    bool((t.obs_t[i] == 0).all())
    for t in timesteps
    for i in np.flatnonzero(t.env_id == lane)
  ]


def test_only_the_observation_changes():
  plain, reports = _play(_script(4), 200)
  flickering, reports_too = _play(FlickerWorld(_script(4), 0.5, seed=1), 200)
  for a, b in zip(plain, flickering, strict=True):
    for x, y in zip(a[1:], b[1:], strict=True):
      np.testing.assert_array_equal(x, y)
    kept = b.obs_t.any(axis=(1, 2))
    np.testing.assert_array_equal(a.obs_t[kept], b.obs_t[kept])
  assert reports == reports_too
  share = np.mean([_blanks(flickering, lane) for lane in (1, 2, 3)])
  assert abs(share - 0.5) < 0.06  # 3 sigma of 600 rows


def test_first_and_last_rows_go_blank_too():
  timesteps, _ = _play(FlickerWorld(_script(4), 0.5, seed=1), 200)
  for flag in ("is_first_t", "is_last_t"):
    seen = {
      bool(t.obs_t[i].any())
      for t in timesteps
      for i in np.flatnonzero(getattr(t, flag))
      if t.env_id[i]
    }
    assert seen == {True, False}


def test_a_lane_blinks_alike_in_every_pool_and_order():
  four, _ = _play(FlickerWorld(_script(4), 0.3, seed=2), 60)
  two, _ = _play(FlickerWorld(_script(2), 0.3, seed=2), 60)
  turns, _ = _play(FlickerWorld(_script(4, batch_size=2), 0.3, seed=2), 160)
  other, _ = _play(FlickerWorld(_script(4), 0.3, seed=3), 60)
  assert _blanks(four, 1) == _blanks(two, 1) == _blanks(turns, 1)[:60]
  assert _blanks(four, 1) != _blanks(other, 1)
  assert _blanks(four, 1) != _blanks(four, 2)


def test_does_not_write_into_the_world_inside():
  class Keeps:
    """Hands out one array again and again."""

    spec, num_envs, batch_size = None, 4, 4
    timestep = _play(_script(4), 1)[0][0]

    def recv(self):
      return self.timestep

  world = Keeps()
  before = world.timestep.obs_t.copy()
  FlickerWorld(world, 1.0, seed=0).recv()
  np.testing.assert_array_equal(world.timestep.obs_t, before)
