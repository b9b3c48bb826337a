"""memory-chain: bsuite's rows, and that only the context tells the answer."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.make import make_world


def _play(task, num_rows, policy, num_envs=1, seed=0):
  world = make_world(EnvConfig(task=task, num_envs=num_envs), seed=seed)
  world.reset()
  rows = []
  for _ in range(num_rows):
    rows.append(world.recv())
    world.send(policy(rows[-1]).astype(np.int32), rows[-1].env_id)
  return rows, world.pop_episodes()


# Written down from bsuite 0.3.6's MemoryChain(length), action 1 all the time:
# time and query of the rows, and the reward of the last one for context +1.
BSUITE = {
  1: [(1.0, 0), (1.0, 0), (0.0, 0)],
  3: [(1.0, 0), (1.0, 0), (2 / 3, 0), (1 / 3, 0), (0.0, 0)],
}


@pytest.mark.parametrize("length", BSUITE)
def test_rows_are_bsuites(length):
  rows, reports = _play(
    f"memory-chain-{length}",
    length + 3,
    lambda t: np.ones(8),
    num_envs=8,
  )
  obs = np.stack([t.obs_t for t in rows])
  assert obs.shape == (length + 3, 8, 3) and obs.dtype == np.float32
  context = obs[0, :, 2]
  assert set(context.tolist()) == {-1.0, 1.0}
  for lane in range(8):
    np.testing.assert_allclose(
      obs[:-1, lane, :2], BSUITE[length], rtol=1e-6, atol=1e-7
    )
    expected = np.zeros(length + 2)
    expected[:2] = context[lane]
    np.testing.assert_array_equal(obs[:-1, lane, 2], expected)
  r = np.stack([t.r_t for t in rows])
  assert (r[:-2] == 0).all()
  np.testing.assert_array_equal(r[-2], context)  # action 1 names context +1
  last = np.stack([t.is_last_t for t in rows])
  assert last[-2].all() and not last[:-2].any() and rows[-1].is_first_t.all()
  assert (rows[-2].discount_t == 0).all()
  assert {r.episode_steps for r in reports} == {length + 1}


def test_with_memory_all_is_won_and_without_none():
  seen = np.zeros(64)

  def remembers(t):
    seen[t.is_first_t] = t.obs_t[t.is_first_t, 2]
    return seen > 0

  _, reports = _play("memory-chain-4", 60, remembers, 64)
  assert {r.episode_return for r in reports} == {1.0} and len(reports) > 500
  _, reports = _play("memory-chain-4", 240, lambda t: np.ones(64), 64)
  assert abs(np.mean([r.episode_return for r in reports])) < 0.07


def test_a_length_that_is_none():
  with pytest.raises(ImportError if _no_envpool() else ValueError):
    make_world(EnvConfig(task="memory-chain-0", num_envs=1), seed=0)


def _no_envpool():
  try:
    import envpool  # noqa: F401
  except ImportError:
    return True
  return False
