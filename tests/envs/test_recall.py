"""The built-in memory task: its rows, its bound, its repeatability."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs import recall
from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.envs.tasks import BUILT_IN

K = recall.NUM_SYMBOLS


class Oracle:
  """Plays with a perfect memory of the cue."""

  def __init__(self, num_envs):
    self.cue = np.zeros(num_envs, np.int32)

  def __call__(self, t, a_tm1):
    del a_tm1
    shown = t.obs_t[:, recall.IS_CUE] > 0
    self.cue[t.env_id[shown]] = np.argmax(t.obs_t[shown, :K], -1)
    query = t.obs_t[:, recall.IS_QUERY] > 0
    return np.where(query, self.cue[t.env_id], 0).astype(np.int32)


def _play(world, policy, num_recv):
  """Timesteps and actions; policy(timestep, a_tm1) -> a_t."""
  world.reset()
  a = np.zeros(world.num_envs, np.int32)
  timesteps, actions = [], []
  for _ in range(num_recv):
    t = world.recv()
    a[t.env_id] = policy(t, np.where(t.is_first_t, 0, a[t.env_id]))
    world.send(a[t.env_id], t.env_id)
    timesteps.append(t)
    actions.append(a[t.env_id].copy())
  return timesteps, actions


def _mean_return(policy, num_envs=512, num_recv=120, seed=0):
  world = RecallWorld(num_envs, seed=seed)
  _play(world, policy, num_recv)
  reports = world.pop_episodes()
  assert len(reports) > 2000
  return np.mean([r.episode_return for r in reports])


def test_the_names_are_known():
  assert set(recall.DELAYS) < set(BUILT_IN)


def test_one_episode_row_by_row():
  world = RecallWorld(1, seed=1)
  ts, _ = _play(world, Oracle(1), 40)
  first = [i for i, t in enumerate(ts) if t.is_first_t[0]]
  last = [i for i, t in enumerate(ts) if t.is_last_t[0]]
  assert first[0] == 0 and first[1] == last[0] + 1
  delay = last[0] - 3
  low, high = recall.DELAYS["recall"]
  assert low <= delay <= high
  flags = np.stack([t.obs_t[0, K:] for t in ts[: last[0] + 1]])
  expected = np.zeros((delay + 4, 3))
  expected[0, 0] = expected[delay + 1, 1] = expected[delay + 2, 2] = 1
  np.testing.assert_array_equal(flags, expected)
  symbols = np.stack([t.obs_t[0, :K].sum() for t in ts[: last[0] + 1]])
  np.testing.assert_array_equal(symbols, [1] * (delay + 1) + [0, 0, 0])
  np.testing.assert_array_equal(
    [t.r_t[0] for t in ts[: last[0] + 2]], [0] * last[0] + [1, 0]
  )
  np.testing.assert_array_equal(
    [t.discount_t[0] for t in ts[: last[0] + 2]], [1] * last[0] + [0, 1]
  )
  report = world.pop_episodes()[0]
  assert report == (0, 1.0, last[0], last[0], False)
  assert ts[0].obs_t.dtype == np.float32 and ts[0].r_t.dtype == np.float32
  assert ts[0].env_id.dtype == np.int32 and ts[0].obs_t.shape == (1, K + 3)


def test_memory_wins_every_episode():
  assert _mean_return(Oracle(512)) == 1.0


def test_what_a_memoryless_policy_sees_when_asked_is_always_the_same():
  """The proof of the bound: its inputs in the query row are constant."""
  chooser = np.random.default_rng(0)
  policies = [
    lambda t, a: np.where(t.is_first_t, np.argmax(t.obs_t[:, :K], -1), a),
    lambda t, a: chooser.integers(K, size=a.shape),
  ]
  for policy in policies:
    seen = set()

    def watch(t, a, policy=policy, seen=seen):
      for i in np.flatnonzero(t.obs_t[:, recall.IS_QUERY]):
        seen.add((t.obs_t[i].tobytes(), int(a[i]), float(t.r_t[i])))
      # the hush row ends all but the episodes that play 0 in it
      hush = t.obs_t[:, recall.IS_HUSH] > 0
      lucky = hush & (chooser.random(hush.shape) < 0.5)
      return np.where(lucky, 0, policy(t, a)).astype(np.int32)

    _play(RecallWorld(64, seed=3), watch, 200)
    assert len(seen) == 1


def test_every_memoryless_policy_stays_below_the_bound():
  """All K x K deterministic ones that matter: by hush and by query action."""
  for hush_action in range(K):
    for query_action in range(K):

      def policy(t, a, h=hush_action, q=query_action):
        del a
        is_hush = t.obs_t[:, recall.IS_HUSH] > 0
        return np.where(is_hush, h, q).astype(np.int32)

      mean = _mean_return(policy)
      if hush_action:
        assert mean == 0
      else:
        assert abs(mean - 1 / K) < 0.04  # 3 sigma of 2000 games: 0.03

  def carries_the_cue_as_its_action(t, a):
    cue = np.argmax(t.obs_t[:, :K], -1)
    a = np.where(t.obs_t[:, recall.IS_CUE] > 0, cue, a)
    hush = t.obs_t[:, recall.IS_HUSH] > 0
    return np.where(hush, 0, a).astype(np.int32)

  assert _mean_return(carries_the_cue_as_its_action) < 1 / K + 0.04


@pytest.mark.parametrize("task", recall.DELAYS)
def test_cues_delays_and_distractors_are_uniform(task):
  low, high = recall.DELAYS[task]
  world = make_world(EnvConfig(task=task, num_envs=512), seed=5)
  ts, _ = _play(world, Oracle(512), 12 * (high + 2))
  obs = np.concatenate([t.obs_t for t in ts])
  cues = obs[obs[:, recall.IS_CUE] > 0, :K]
  blank = obs[(obs[:, K:].sum(-1) == 0) & (obs.sum(-1) > 0), :K]
  for symbols in (cues, blank):
    np.testing.assert_allclose(symbols.mean(0), np.full(K, 1 / K), atol=0.03)
  delays = np.array([r.episode_steps - 3 for r in world.pop_episodes()])
  # the first few episodes only: later ones are the short ones, cut by the
  # budget
  counts = np.bincount(delays, minlength=high + 1)
  assert set(np.flatnonzero(counts)) == set(range(low, high + 1))
  assert counts[low:].min() > 0.6 / (high - low + 1) * len(delays)


def test_lane_is_the_same_in_a_larger_pool_and_in_turns():
  def by_lane(world, num_recv, num_lanes=3):
    chooser = {i: np.random.default_rng(i) for i in range(world.num_envs)}

    def policy(t, a):
      del a
      return np.array([chooser[i].integers(K) for i in t.env_id], np.int32)

    ts, _ = _play(world, policy, num_recv)
    out = [[] for _ in range(num_lanes)]
    for t in ts:
      for i, lane in enumerate(t.env_id):
        if lane < num_lanes:
          out[lane].append(
            (t.obs_t[i].tolist(), *(float(x[i]) for x in t[1:5]))
          )
    return [rows[:60] for rows in out]

  small = by_lane(RecallWorld(3, seed=7), 60)
  assert small == by_lane(RecallWorld(8, seed=7), 60)
  assert small == by_lane(RecallWorld(8, seed=7, batch_size=2), 240)
  assert small != by_lane(RecallWorld(3, seed=8), 60)


def test_all_lanes_together_come_in_order():
  world = RecallWorld(4, seed=0)
  world.reset()
  world.recv()
  world.send(np.zeros(4, np.int32), np.array([2, 0, 3, 1]))
  np.testing.assert_array_equal(world.recv().env_id, [0, 1, 2, 3])


def test_cap_truncates():
  world = RecallWorld(4, seed=0, max_episode_steps=2)
  ts, _ = _play(world, Oracle(4), 6)
  np.testing.assert_array_equal(
    [t.is_last_t[0] for t in ts], [0, 0, 1, 0, 0, 1]
  )
  assert all((t.discount_t == 1).all() for t in ts)
  assert world.pop_episodes()[0] == (0, 0.0, 2, 2, True)


def test_misuse():
  world = RecallWorld(2, seed=0)
  with pytest.raises(RuntimeError, match="reset"):
    world.recv()
  world.reset()
  ids = world.recv().env_id
  with pytest.raises(ValueError, match=r"\[0, 4\), got 0 to 4"):
    world.send(np.array([0, K]), ids)
  with pytest.raises(ValueError, match="integer actions, got float"):
    world.send(np.array([0.0, 1.0]), ids)
  with pytest.raises(ValueError, match="one action per row"):
    world.send(np.array([0]), ids)


def test_lane_uniform_golden_and_independent():
  """splitmix64's own first output for seed 0 is 0xE220A8397B1DCDAF."""
  from r2d2_jax.envs import lane_random

  mixed = lane_random._mix(np.array([lane_random._GOLDEN]))
  assert int(mixed[0]) == 0xE220A8397B1DCDAF
  u = lane_uniform(3, np.arange(100)[:, None], np.arange(200)[None, :])
  assert u.shape == (100, 200) and u.min() >= 0 and u.max() < 1
  assert abs(u.mean() - 0.5) < 0.01 and abs(u.std() - 12**-0.5) < 0.01
  for axis in (0, 1):
    a, b = (
      np.moveaxis(u, axis, 0)[:-1].ravel(),
      np.moveaxis(u, axis, 0)[1:].ravel(),
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
  assert (
    abs(
      np.corrcoef(
        u.ravel(),
        lane_uniform(
          4, np.arange(100)[:, None], np.arange(200)[None, :]
        ).ravel(),
      )[0, 1]
    )
    < 0.03
  )
