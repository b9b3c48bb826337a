"""The frame cap ends every episode of every family, and a new one begins."""

import numpy as np
import pytest

pytest.importorskip("envpool")
from r2d2_jax.config import ConfigError, EnvConfig
from r2d2_jax.envs.envpool_world import EnvPoolWorld
from r2d2_jax.envs.make import make_world
from r2d2_jax.types import Timestep

pytestmark = pytest.mark.envpool


def _lanes(config, num_rows, pick=lambda lane, row, n: 0, *, seed=0):
  """Every lane's first `num_rows` rows, Timestep of [num_rows, N]; reports."""
  world = make_world(config, seed=seed)
  rows = [[] for _ in range(world.num_envs)]
  reports = []
  world.reset()
  while min(map(len, rows)) < num_rows:
    t = world.recv()
    if world.batch_size == world.num_envs:
      assert t.env_id.tolist() == list(range(world.num_envs))
    a_t = [pick(i, len(rows[i]), world.spec.num_actions) for i in t.env_id]
    world.send(np.array(a_t, np.int32), t.env_id)
    for row, lane in enumerate(t.env_id):
      rows[lane].append([field[row] for field in t[:6]])
    reports += world.pop_episodes()
  world.close()
  return Timestep(
    *(
      np.stack([[lane[k][f] for lane in rows] for k in range(num_rows)])
      for f in range(6)
    )
  ), reports


def _random(lane, row, num_actions):
  return np.random.default_rng((lane, row)).integers(num_actions)


@pytest.mark.parametrize(
  "task",
  [
    "CliffWalking-v1",  # EnvPool's own limit does nothing here
    "gfootball/academy_corner-v1",  # one step more than its limit
    "MiniGrid-Empty-8x8-v0",
    "CartPole-v1",
    "Exit-v0",
  ],
)
def test_no_episode_is_longer(task):
  config = EnvConfig(task=task, num_envs=2, max_episode_frames=6)
  t, reports = _lanes(config, 40, _random)
  assert max(r.episode_steps for r in reports) == 6
  for r in reports:
    assert r.truncated == (r.episode_steps == 6), r
  np.testing.assert_array_equal(t.is_first_t[1:], t.is_last_t[:-1])
  assert (t.r_t[t.is_first_t] == 0).all()
  for lane in range(2):
    firsts = np.flatnonzero(t.is_first_t[:, lane])
    lasts = np.flatnonzero(t.is_last_t[:, lane])
    for first, last in zip(firsts, lasts, strict=False):
      assert last - first <= 6
      assert t.discount_t[last, lane] == (last - first == 6)


def test_it_changes_no_reward():
  # MiniGrid's depend on EnvPool's max_episode_steps.
  config = EnvConfig(task="MiniGrid-Empty-5x5-v0", num_envs=4)
  t, _ = _lanes(config, 60, _random)
  capped, _ = _lanes(
    EnvConfig(task=config.task, num_envs=4, max_episode_frames=59), 60, _random
  )
  assert t.r_t.max() > 0
  np.testing.assert_array_equal(t.r_t, capped.r_t)


def test_rows_written_out():
  """CliffWalking: up from the start at 36, right, and on; a cap of 3 steps."""
  up, right = 0, 1
  config = EnvConfig(task="CliffWalking-v1", num_envs=1, max_episode_frames=3)
  t, reports = _lanes(
    config, 9, lambda lane, row, n: [up, right, right, right][row % 4]
  )
  # The last row carries the true last observation; then the start again.
  assert t.obs_t[:, 0].argmax(-1).tolist() == [36, 24, 25, 26] * 2 + [36]
  assert t.r_t[:, 0].tolist() == [0, -1, -1, -1] * 2 + [0]
  assert t.is_first_t[:, 0].tolist() == [True, False, False, False] * 2 + [True]
  assert t.is_last_t[:, 0].tolist() == [False, False, False, True] * 2 + [False]
  assert (t.discount_t == 1).all()
  assert reports == [(0, -3.0, 3, 3, True)] * 2


def test_cut_and_finished_lanes_side_by_side_in_any_order():
  """FrozenLake: some lanes are cut, some fall into a hole, at other times."""
  config = EnvConfig(task="FrozenLake-v1", num_envs=5, max_episode_frames=5)
  t, reports = _lanes(config, 120, _random)
  lengths = {(r.episode_steps, r.truncated) for r in reports}
  assert (5, True) in lengths and len(lengths) > 3
  assert max(r.episode_steps for r in reports) == 5
  assert (t.obs_t[t.is_first_t][:, 0] == 1).all()  # the start, and only there
  np.testing.assert_array_equal(t.is_first_t[1:], t.is_last_t[:-1])
  for other in (
    EnvConfig(task=config.task, num_envs=5, max_episode_frames=5, batch_size=2),
    EnvConfig(
      task=config.task, num_envs=5, max_episode_frames=5, num_threads=1
    ),
  ):
    for name, x, y in zip(
      t._fields, t, _lanes(other, 120, _random)[0], strict=True
    ):
      np.testing.assert_array_equal(x, y, err_msg=name)
  one, _ = _lanes(
    EnvConfig(task=config.task, num_envs=1, max_episode_frames=5), 120, _random
  )
  np.testing.assert_array_equal(one.obs_t, t.obs_t[:, :1])


def test_a_game_over_in_the_step_of_the_cap_is_over():
  # EnvPool, told of the cap, would call this a truncation.
  config = EnvConfig(task="Catch-v0", num_envs=2, max_episode_frames=9)
  t, reports = _lanes(config, 30)
  assert {r[2:] for r in reports} == {(9, 9, False)}
  assert (t.discount_t == np.where(t.is_last_t, 0, 1)).all()
  t, reports = _lanes(
    EnvConfig(task="Catch-v0", num_envs=2, max_episode_frames=8), 30
  )
  assert {r[2:] for r in reports} == {(8, 8, True)} and (
    t.discount_t == 1
  ).all()


def test_a_reset_in_the_middle_counts_anew():
  config = EnvConfig(task="CliffWalking-v1", num_envs=2, max_episode_frames=4)
  world = make_world(config, seed=0)
  world.reset()
  for _ in range(4):
    t = world.recv()
    world.send(np.zeros(2, np.int32), t.env_id)
  assert world.recv().is_last_t.all()
  world.reset()  # the lanes that were to be cut begin once, not twice
  lasts = []
  for _ in range(10):
    t = world.recv()
    lasts.append(t.is_last_t.all())
    world.send(np.zeros(2, np.int32), t.env_id)
  assert lasts == [False] * 4 + [True] + [False] * 4 + [True]
  world.close()


class _ScriptedPool:
  """Hands out what it was given, in place of EnvPool's pool."""

  def __init__(self, rows):
    self._rows = iter(rows)

  def async_reset(self):
    pass

  def send(self, a_t, env_id):
    pass

  def recv(self):
    return next(self._rows)


def _catch(rows):
  world = EnvPoolWorld("Catch-v0", EnvConfig(num_envs=1), seed=0)
  world._pool.close()
  world._pool = _ScriptedPool(rows)
  world.reset()
  return world


def _row(*, r=0.0, done=False, shape=(1, 10, 5), dtype=np.float32, rewards=1):
  return (
    np.zeros(shape, dtype),
    np.full(rewards, r, np.float32),
    np.array([done]),
    np.array([False]),
    {"env_id": np.array([0], np.int32)},
  )


def test_a_game_that_is_over_as_it_begins_leaves_no_transition():
  world = _catch([_row(done=True), _row(), _row(r=1.0, done=True)])
  rows = []
  for _ in range(3):
    rows.append(world.recv())
    world.send(np.zeros(1, np.int32), np.zeros(1, np.int32))
  assert [bool(t.is_first_t[0]) for t in rows] == [True, True, False]
  assert [bool(t.is_last_t[0]) for t in rows] == [False, False, True]
  assert world.pop_episodes() == [(0, 1.0, 1, 1, False)]


@pytest.mark.parametrize(
  "row, got",
  [
    (dict(shape=(2, 10, 5)), r"float32 \(2, 10, 5\) and \(1,\)"),
    (dict(shape=(1, 50)), r"float32 \(1, 50\) and \(1,\)"),
    (dict(rewards=2), r"float32 \(1, 10, 5\) and \(2,\)"),
  ],
)
def test_rows_other_than_the_spec_says_are_refused(row, got):
  with pytest.raises(ConfigError, match=rf"Catch-v0.*\(1, 10, 5\).*got {got}"):
    _catch([_row(**row)]).recv()
