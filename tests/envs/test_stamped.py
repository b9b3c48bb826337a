"""The stamped world obeys the row convention that other tests lean on."""

import numpy as np
import pytest

from r2d2_jax.envs.world import EpisodeReport
from tests.stamped import StampedWorld, stamped_image, stamped_reward


def _play(world, num_recv, action=1):
  world.reset()
  timesteps = []
  for _ in range(num_recv):
    timesteps.append(world.recv())
    ids = timesteps[-1].env_id
    world.send(np.full(ids.shape, action, np.int32), ids)
  return timesteps


def test_rows_written_out():
  world = StampedWorld([[2], [3]], truncated=[(1, 0)])
  ts = _play(world, 5)
  obs = np.stack([t.obs_t for t in ts])
  np.testing.assert_array_equal(
    obs[:, 0], [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
  )
  np.testing.assert_array_equal(
    obs[:, 1], [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
  )
  np.testing.assert_array_equal(
    [t.r_t for t in ts],
    [[0, 0], [1.0625, 1.0625], [2.0625, 2.0625], [0, 3.0625], [1.0625, 0]],
  )
  np.testing.assert_array_equal(
    [t.discount_t for t in ts], [[1, 1], [1, 1], [0, 1], [1, 1], [1, 1]]
  )
  np.testing.assert_array_equal(
    [t.is_first_t for t in ts], [[1, 1], [0, 0], [0, 0], [1, 0], [0, 1]]
  )
  np.testing.assert_array_equal(
    [t.is_last_t for t in ts], [[0, 0], [0, 0], [1, 0], [0, 1], [0, 0]]
  )
  assert world.pop_episodes() == [
    EpisodeReport(0, 1.0625 + 2.0625, 2, 2, False),
    EpisodeReport(1, 1.0625 + 2.0625 + 3.0625, 3, 3, True),
  ]


def test_life_loss_boundary_row_is_last_and_first():
  kwargs = dict(life_losses=[(0, 0, 2)])
  rows = {}
  for mode in ("ignore", "roll", "reset"):
    world = StampedWorld([[4]], life_loss=mode, **kwargs)
    rows[mode] = [
      (float(t.discount_t[0]), bool(t.is_first_t[0]), bool(t.is_last_t[0]))
      for t in _play(world, 6)
    ]
  plain = [
    (1, True, False),
    (1, False, False),
    (1, False, False),
    (1, False, False),
    (0, False, True),
    (1, True, False),
  ]
  assert rows["ignore"] == plain
  assert rows["roll"] == plain[:2] + [(0, False, False)] + plain[3:]
  assert rows["reset"] == plain[:2] + [(0, True, True)] + plain[3:]


def test_async_lanes_each_see_the_same_rows():
  sync = StampedWorld([[3], [5], [2], [4]])
  unordered = StampedWorld([[3], [5], [2], [4]], batch_size=2, order_seed=3)
  _play(sync, 12)
  ts = _play(unordered, 40)
  assert len({tuple(t.env_id) for t in ts}) > 2
  for a, b in zip(sync.rows, unordered.rows, strict=True):
    n = min(len(a), len(b)) - 1  # the newest row has no action yet
    assert n > 8
    assert a[:n] == b[:n]


def test_image_and_misuse():
  world = StampedWorld([[300]], obs="image")
  t = _play(world, 260)[-1]
  assert t.obs_t.dtype == np.uint8 and t.obs_t.shape == (1, 84, 84)
  np.testing.assert_array_equal(t.obs_t[0], stamped_image(0, 0, 259))
  assert list(t.obs_t[0, 0, :4]) == [0, 0, 3, 1]
  assert float(t.r_t[0]) == stamped_reward(259, 1)
  with pytest.raises(ValueError, match=r"actions in \[0, 4\), got 4"):
    world.recv()
    world.send(np.array([4]), np.array([0]))
  with pytest.raises(RuntimeError, match="send actions first"):
    world.recv()
