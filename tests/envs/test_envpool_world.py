"""The adapter against real EnvPool: every fact that it leans on, pinned."""

import dataclasses

import numpy as np
import pytest

from r2d2_jax.config import ConfigError, EnvConfig, MissingPackageError
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.tasks import atari57_games
from r2d2_jax.types import EnvSpec, Timestep

envpool = pytest.importorskip("envpool")
envpool_seed = pytest.importorskip("r2d2_jax.envs.envpool_world").envpool_seed

pytestmark = pytest.mark.envpool

BREAKOUT = EnvConfig(task="Breakout", num_envs=2, full_action_space=False)


def _actions(num_envs, num_rows, num_actions, seed=0):
  """int32 [num_rows, num_envs]: what lane i does in row t, in every pool."""
  return np.stack(
    [
      np.random.default_rng((seed, i)).integers(num_actions, size=num_rows)
      for i in range(num_envs)
    ],
    axis=1,
  ).astype(np.int32)


def _play(config, num_rows, *, seed=0, actions=None):
  """Every lane's first `num_rows` rows, Timestep of [num_rows, N]; reports."""
  world = make_world(config, seed=seed)
  n = world.num_envs
  if actions is None:
    actions = _actions(n, num_rows + 1000, world.spec.num_actions)
  rows = [[] for _ in range(n)]
  reports = []
  world.reset()
  while min(map(len, rows)) < num_rows:
    t = world.recv()
    ids = t.env_id
    world.send(np.array([actions[len(rows[i]), i] for i in ids], np.int32), ids)
    for row, lane in enumerate(ids):
      rows[lane].append([field[row] for field in t[:6]])
    reports += world.pop_episodes()
  world.close()
  fields = [
    np.stack([[rows[i][k][f] for i in range(n)] for k in range(num_rows)])
    for f in range(6)
  ]
  return Timestep(*fields), reports


def _raw(task, num_envs, num_rows, actions, *, seed=0, **options):
  """From EnvPool itself: obs, r, terminated, truncated, info, [T, N]."""
  options = (
    dict(stack_num=1, use_fire_reset=False, max_episode_steps=27000) | options
  )
  pool = envpool.make(
    task,
    env_type="gymnasium",
    num_envs=num_envs,
    seed=envpool_seed(seed),
    **options,
  )
  pool.async_reset()
  rows = []
  for k in range(num_rows):
    obs, r, terminated, truncated, info = pool.recv()
    np.testing.assert_array_equal(info["env_id"], np.arange(num_envs))
    names = ("elapsed_step", "lives", "terminated", "reward")
    rows.append(
      (obs, r, terminated, truncated, *(info[name] for name in names))
    )
    pool.send(actions[k], info["env_id"])
  pool.recv()
  pool.close()
  obs, r, terminated, truncated, *info = (
    np.stack(x) for x in zip(*rows, strict=True)
  )
  return obs, r, terminated, truncated, dict(zip(names, info, strict=True))


@pytest.fixture(scope="module", name="breakout")
def _breakout():
  """Actions, rows and reports of a run that several tests compare with."""
  actions = _actions(2, 1400, 4)
  return actions, *_play(BREAKOUT, 400, actions=actions)


def _equal(a: Timestep, b: Timestep):
  for name, x, y in zip(a._fields, a, b, strict=True):
    np.testing.assert_array_equal(x, y, err_msg=name)


# --- Streams ---------------------------------------------------------------


@pytest.mark.parametrize("game, num_rows", [("Breakout", 400), ("Pong", 1000)])
def test_rows_are_those_of_bare_envpool(game, num_rows):
  config = dataclasses.replace(BREAKOUT, task=game)
  num_actions = make_world(config, seed=0).spec.num_actions
  actions = _actions(2, num_rows + 1000, num_actions)
  t, reports = _play(config, num_rows, actions=actions)
  obs, r, terminated, truncated, info = _raw(f"{game}-v5", 2, num_rows, actions)

  assert t.obs_t.shape == (num_rows, 2, 84, 84) and t.obs_t.dtype == np.uint8
  assert t.r_t.dtype == t.discount_t.dtype == np.float32
  assert t.is_first_t.dtype == t.is_last_t.dtype == bool
  assert t.env_id.dtype == np.int32
  np.testing.assert_array_equal(t.obs_t, obs[:, :, 0])
  np.testing.assert_array_equal(t.r_t, r)
  np.testing.assert_array_equal(t.discount_t, 1.0 - terminated)
  np.testing.assert_array_equal(t.is_last_t, terminated | truncated)
  np.testing.assert_array_equal(t.is_first_t, info["elapsed_step"] == 0)
  assert terminated.sum() >= 2 and np.abs(r).sum() > 0
  assert t.is_first_t[0].all()
  # after a last row comes a first one, and only there
  np.testing.assert_array_equal(t.is_first_t[1:], t.is_last_t[:-1])
  assert (t.r_t[t.is_first_t] == 0).all()

  lane_games = [x for x in reports if x.env_id == 0]
  end = int(np.flatnonzero(t.is_last_t[:, 0])[0])
  assert lane_games[0] == (0, r[: end + 1, 0].sum(), 4 * end, end, False)


def test_the_action_of_a_last_row_is_ignored(breakout):
  actions, t, _ = breakout
  changed = actions.copy()
  changed[:400][t.is_last_t] = (changed[:400][t.is_last_t] + 1) % 4
  assert (changed != actions).any()
  _equal(t, _play(BREAKOUT, 400, actions=changed)[0])
  lane, row = 0, int(np.flatnonzero(t.is_last_t[:, 0])[0])
  changed[row - 3, lane] = (changed[row - 3, lane] + 1) % 4
  assert not np.array_equal(
    t.obs_t, _play(BREAKOUT, 400, actions=changed)[0].obs_t
  )


def test_the_stack_rebuilt_from_single_frames_is_envpools(breakout):
  actions, t, _ = breakout
  stacked, *_ = _raw("Breakout-v5", 2, 400, actions, stack_num=4)
  assert t.is_first_t[1:].any()
  for lane in range(2):
    stack = None
    for row in range(400):
      frame = t.obs_t[row, lane]
      if t.is_first_t[row, lane]:
        stack = [frame] * 4  # the first frame repeated
      else:
        stack = stack[1:] + [frame]  # the newest last
      np.testing.assert_array_equal(np.stack(stack), stacked[row, lane])


def test_lanes_do_not_depend_on_pool_order_or_threads():
  four = dataclasses.replace(BREAKOUT, num_envs=4)
  t, reports = _play(four, 250)
  _equal(t, _play(dataclasses.replace(four, num_threads=1), 250)[0])
  _equal(t, _play(dataclasses.replace(four, num_threads=3), 250)[0])
  in_turns, reports_too = _play(
    dataclasses.replace(four, batch_size=2, num_threads=2), 250
  )
  _equal(t, in_turns)
  assert reports and set(reports) <= set(reports_too)  # some lanes went further
  two, _ = _play(BREAKOUT, 250)
  np.testing.assert_array_equal(two.obs_t, t.obs_t[:, :2])


def test_seeds():
  config = dataclasses.replace(BREAKOUT, task="Seaquest", num_envs=3)
  actions = np.zeros((1100, 3), np.int32)
  runs = [
    _play(config, 100, seed=seed, actions=actions)[0].obs_t
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(runs[0], runs[1])
  lanes = [run[:, i].tobytes() for run in (runs[0], runs[2]) for i in range(3)]
  # EnvPool seeds lane i with seed + i: without the hash, lane 1 of seed 0 would
  # be lane 0 of seed 1
  assert len(set(lanes)) == 6


# --- Ends ------------------------------------------------------------------


def test_frame_cap_truncates():
  t, reports = _play(dataclasses.replace(BREAKOUT, max_episode_frames=43), 24)
  expected = [k % 11 == 10 for k in range(24)]  # 43 frames are 10 whole steps
  np.testing.assert_array_equal(t.is_last_t[:, 0], expected)
  np.testing.assert_array_equal(
    t.is_first_t[:, 0], [k % 11 == 0 for k in range(24)]
  )
  assert (t.discount_t == 1).all()
  assert [r[2:] for r in reports] == [(40, 10, True)] * 4


def test_game_over_at_the_cap_is_game_over(breakout):
  actions, _, reports = breakout
  steps, lane = reports[0].episode_steps, reports[0].env_id
  t, reports = _play(
    dataclasses.replace(BREAKOUT, max_episode_frames=4 * steps),
    steps + 1,
    actions=actions,
  )
  assert t.is_last_t[steps, lane] and t.discount_t[steps, lane] == 0
  report = next(r for r in reports if r.env_id == lane)
  assert report.episode_steps == steps and not report.truncated
  # one step less, and it is a truncation
  t, reports = _play(
    dataclasses.replace(BREAKOUT, max_episode_frames=4 * steps - 1),
    steps + 1,
    actions=actions,
  )
  assert t.is_last_t[steps - 1, lane] and t.discount_t[steps - 1, lane] == 1
  assert next(r for r in reports if r.env_id == lane).truncated


def test_life_loss_modes(breakout):
  actions, plain, reports = breakout
  _, _, terminated, _, info = _raw("Breakout-v5", 2, 400, actions)
  lost = np.zeros((400, 2), bool)
  lost[1:] = (np.diff(info["lives"], axis=0) < 0) & ~terminated[1:]
  assert lost.sum() >= 8 and terminated.sum() >= 2
  np.testing.assert_array_equal(plain.discount_t, 1 - terminated)

  t, reports_roll = _play(
    dataclasses.replace(BREAKOUT, life_loss="roll"), 400, actions=actions
  )
  _equal(t, plain._replace(discount_t=np.where(lost, 0, plain.discount_t)))

  t, reports_reset = _play(
    dataclasses.replace(BREAKOUT, life_loss="reset"), 400, actions=actions
  )
  _equal(
    t,
    plain._replace(
      discount_t=np.where(lost, 0, plain.discount_t),
      is_first_t=plain.is_first_t | lost,
      is_last_t=plain.is_last_t | lost,
    ),
  )
  assert reports == reports_roll == reports_reset


def test_a_life_lost_at_the_cap_ends_once():
  actions = _actions(2, 1400, 4)
  t, _ = _play(
    dataclasses.replace(BREAKOUT, life_loss="reset"), 100, actions=actions
  )
  step, lane = (int(x[0]) for x in np.nonzero(t.is_first_t & t.is_last_t))
  t, reports = _play(
    dataclasses.replace(
      BREAKOUT, life_loss="reset", max_episode_frames=4 * step
    ),
    100,
    actions=actions,
  )
  row = [x[step, lane] for x in t[2:5]]
  assert row == [0.0, False, True]  # discount, is_first, is_last
  assert t.is_first_t[step + 1, lane]
  assert next(r for r in reports if r.env_id == lane).truncated


def test_reports_are_of_the_raw_game(breakout):
  actions, t, plain = breakout
  _, altered = _play(
    dataclasses.replace(BREAKOUT, life_loss="reset", flicker_probability=0.5),
    400,
    actions=actions,
  )
  assert plain == altered and len(plain) >= 2
  _, _, _, _, info = _raw("Breakout-v5", 2, 400, actions, reward_clip=True)
  end = int(np.flatnonzero(t.is_last_t[:, 0])[0])
  report = next(r for r in plain if r.env_id == 0)
  assert report.episode_return == info["reward"][: end + 1, 0].sum()


def test_rewards_are_not_clipped():
  actions = _actions(1, 1100, 9)
  config = dataclasses.replace(BREAKOUT, task="ms_pacman", num_envs=1)
  t, _ = _play(config, 100, actions=actions)
  _, r, *_ = _raw("MsPacman-v5", 1, 100, actions)
  np.testing.assert_array_equal(t.r_t, r)
  assert t.r_t.max() >= 10


def test_a_new_game_with_fewer_lives_has_lost_none():
  world = make_world(dataclasses.replace(BREAKOUT, life_loss="reset"), seed=0)
  world._lives[:] = 6  # as after a game that was cut off with a bonus life
  world.reset()
  t = world.recv()
  assert (t.discount_t == 1).all() and not t.is_last_t.any()
  world.close()


# --- Atari's options -------------------------------------------------------


def test_no_ops_are_raw_frames_and_not_counted():
  """A first frame is among those of the first 30 raw frames, one by one."""
  pool = envpool.make(
    "Seaquest-v5",
    env_type="gymnasium",
    num_envs=1,
    seed=5,
    stack_num=1,
    frame_skip=1,
    noop_max=1,
    use_fire_reset=False,
  )
  frames = [pool.reset()[0][0, 0].tobytes()]
  for _ in range(30):
    frames.append(pool.step(np.zeros(1, np.int32))[0][0, 0].tobytes())
  config = EnvConfig(task="Seaquest", num_envs=8, max_episode_frames=40)
  t, reports = _play(config, 11)
  begins = [frames.index(t.obs_t[0, lane].tobytes()) for lane in range(8)]
  assert len(set(begins)) > 3
  # however many no-ops, the cap counts the agent's steps alone
  assert [r.episode_steps for r in reports] == [10] * 8
  begins = [
    frames.index(x.tobytes())
    for x in _play(dataclasses.replace(config, noop_max=1), 1)[0].obs_t[0]
  ]
  assert begins == [0] * 8


def test_fire_is_the_agents_own():
  nothing = np.zeros((1400, 2), np.int32)
  t, _ = _play(
    dataclasses.replace(BREAKOUT, life_loss="roll"), 200, actions=nothing
  )
  assert (t.discount_t == 1).all()  # nobody served, no ball, no life lost
  t, _ = _play(
    dataclasses.replace(BREAKOUT, life_loss="roll", fire_on_reset=True),
    200,
    actions=nothing,
  )
  assert (t.discount_t == 0).any()


def test_sticky_actions():
  actions = _actions(2, 1100, 4)
  off, _ = _play(BREAKOUT, 100, actions=actions)
  sticky = dataclasses.replace(BREAKOUT, sticky_action_probability=0.25)
  on, _ = _play(sticky, 100, actions=actions)
  assert not np.array_equal(off.obs_t, on.obs_t)
  raw, *_ = _raw("Breakout-v5", 2, 100, actions, repeat_action_probability=0.25)
  np.testing.assert_array_equal(on.obs_t, raw[:, :, 0])


def test_frame_skip_and_action_sets():
  full = make_world(EnvConfig(task="Breakout", num_envs=1), seed=0)
  assert full.spec == EnvSpec((84, 84), np.uint8, 18, 4)
  few = make_world(
    dataclasses.replace(BREAKOUT, num_envs=1, frame_skip=2), seed=0
  )
  assert few.spec == EnvSpec((84, 84), np.uint8, 4, 2)
  actions = _actions(2, 1100, 4)
  t, reports = _play(
    dataclasses.replace(BREAKOUT, frame_skip=2, max_episode_frames=40),
    21,
    actions=actions,
  )
  raw, *_ = _raw("Breakout-v5", 2, 21, actions, frame_skip=2)
  np.testing.assert_array_equal(t.obs_t, raw[:, :, 0])
  assert reports[0][2:] == (40, 20, True)


def test_misuse():
  world = make_world(BREAKOUT, seed=0)
  with pytest.raises(RuntimeError, match=r"call reset\(\) or send\(\) first"):
    world.recv()
  world.reset()
  with pytest.raises(RuntimeError, match="2 rows on their way"):
    world.reset()
  ids = world.recv().env_id
  with pytest.raises(ValueError, match=r"actions in \[0, 4\), got 0 to 4"):
    world.send(np.array([0, 4], np.int32), ids)
  with pytest.raises(ValueError, match=r"actions in \[0, 4\), got -1 to 0"):
    world.send(np.array([0, -1], np.int32), ids)
  with pytest.raises(ValueError, match="integer actions"):
    world.send(np.array([0.0, 1.0]), ids)
  world.reset()  # a fresh start is fine here
  assert world.recv().is_first_t.all()
  world.close()
  world.close()


def test_every_game_of_the_benchmark_is_known():
  known = set(envpool.list_all_envs())
  from r2d2_jax.envs.tasks import resolve_task

  tasks = {resolve_task(game, known) for game in atari57_games()}
  assert len(tasks) == 57 and tasks <= known
  assert "MsPacman-v5" in tasks and "UpNDown-v5" in tasks


@pytest.mark.slow
@pytest.mark.parametrize("game", atari57_games())
def test_every_game_of_the_benchmark_plays(game):
  t, _ = _play(EnvConfig(task=game, num_envs=1), 5)
  assert t.obs_t.shape == (5, 1, 84, 84) and t.obs_t.any()


# --- Other families --------------------------------------------------------


def test_minigrid_memory():
  config = EnvConfig(task="MiniGrid-MemoryS7-v0", num_envs=2)
  t, reports = _play(config, 600)
  assert t.obs_t.shape == (600, 2, 7, 7, 3) and t.obs_t.dtype == np.uint8
  world = make_world(config, seed=0)
  assert world.spec == EnvSpec((7, 7, 3), np.uint8, 3, 1)
  assert reports and all(r.episode_frames == r.episode_steps for r in reports)
  assert {r.episode_return > 0 for r in reports} == {True, False}
  world.reset()
  with pytest.raises(ValueError, match=r"\[0, 3\)"):
    world.send(np.array([3, 0], np.int32), world.recv().env_id)


def test_minigrid_time_limit_is_its_own_or_the_cap():
  config = EnvConfig(task="MiniGrid-Empty-8x8-v0", num_envs=1)
  world = make_world(config, seed=0)
  assert world.spec.num_actions == 7
  still = np.full((1500, 1), 5, np.int32)  # toggle: nothing happens
  t, reports = _play(config, 300, actions=still)
  assert reports == [(0, 0.0, 256, 256, True)] and (t.discount_t == 1).all()
  _, reports = _play(
    dataclasses.replace(config, max_episode_frames=20), 30, actions=still
  )
  assert reports[0] == (0, 0.0, 20, 20, True)


def test_catch():
  t, reports = _play(EnvConfig(task="Catch-v0", num_envs=2), 100)
  assert t.obs_t.shape == (100, 2, 10, 5) and t.obs_t.dtype == np.float32
  assert {(r.episode_steps, r.truncated) for r in reports} == {(9, False)}
  assert {r.episode_return for r in reports} == {-1.0, 1.0}
  assert (t.discount_t == np.where(t.is_last_t, 0, 1)).all()


def test_state_numbers_come_as_one_hot():
  t, _ = _play(EnvConfig(task="FrozenLake-v1", num_envs=2), 50)
  assert t.obs_t.shape == (50, 2, 16) and t.obs_t.dtype == np.float32
  assert (t.obs_t.sum(-1) == 1).all()
  assert (t.obs_t[t.is_first_t][:, 0] == 1).all()


@pytest.mark.parametrize(
  "task, options, message",
  [
    ("Pnog", {}, "unknown task 'Pnog': did you mean Pong-v5"),
    (
      "Pendulum-v1",
      {},
      "actions float32 .1.: R2D2 chooses one of a discrete set",
    ),
    (
      "Minesweeper-v0",
      {},
      "actions int32 .2.: R2D2 chooses one of a discrete set",
    ),
    (
      "FingerSpin-v1",
      {},
      "actions float64 .2.: R2D2 chooses one of a discrete set",
    ),
    ("Backgammon-v1", {}, "Backgammon-v1 has 2 players"),
    ("IntersectionMultiAgent-v0", {}, "has 2 players"),
    (
      "Game2048-v1",
      {},
      "several parts .board int32 .4, 4., action_mask bool .4..: the network",
    ),
    (
      "VizdoomCustom-v1",
      {},
      "VizdoomCustom-v1 cannot start here.*cfg.*not exist",
    ),
    ("Catch-v0", dict(life_loss="roll"), "Catch-v0 has no lives"),
  ],
)
def test_refuses(task, options, message):
  with pytest.raises(ConfigError, match=message):
    make_world(EnvConfig(task=task, num_envs=1, **options), seed=0)


def test_procgen_runs_or_says_what_to_install():
  config = EnvConfig(task="CoinrunEasy-v0", num_envs=1)
  try:
    world = make_world(config, seed=0)
  except MissingPackageError as error:
    assert "CoinrunEasy-v0 cannot start here" in str(error)
    assert "Qt 5" in str(error) and "qtbase5-dev" in str(error)
    return
  assert world.spec == EnvSpec((64, 64, 3), np.uint8, 15, 1)
