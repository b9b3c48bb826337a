"""Gymnasium's lanes keep the row convention, in every autoreset mode."""

import functools

import gymnasium
from gymnasium import vector
from gymnasium.vector import AutoresetMode
import jax
import numpy as np
import pytest

from r2d2_jax.config import ConfigError, EnvConfig, MissingPackageError
from r2d2_jax.envs.gymnasium_lanes import LaneError, make_lane
from r2d2_jax.envs.gymnasium_make import vector_world
from r2d2_jax.envs.gymnasium_world import GymnasiumWorld
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.envs.screen import screen
from r2d2_jax.envs.vector_calls import ProcessCalls, Processes, ThreadCalls
from r2d2_jax.types import EnvSpec, Timestep
from tests.envs import stamped_gymnasium as stamped
from tests.stamped import StampedWorld

HERE = "tests.envs.stamped_gymnasium"


def _play(world, num_rows, *, seed=0):
  """Timesteps, actions, reports; the actions are those of a seed."""
  chooser = np.random.default_rng(seed)
  world.reset()
  rows = []
  for _ in range(num_rows):
    rows.append(world.recv())
    a_t = chooser.integers(world.spec.num_actions, size=world.num_envs)
    world.send(a_t.astype(np.int32), rows[-1].env_id)
  return _stacked(rows)


def _stacked(rows):
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def _assert_same(a, b):
  for name, x, y in zip(Timestep._fields, a, b, strict=True):
    if x is None and y is None:  # no action mask
      continue
    np.testing.assert_array_equal(x, y, err_msg=name)
    assert x.dtype == y.dtype, name


def _stamped_world(mode, *, processes=False, cap=1000):
  lanes = [
    functools.partial(_as_lane, make, i)
    for i, make in enumerate(stamped.stamped_lanes())
  ]
  options = dict(task="stamped", timeout_seconds=60.0)
  if processes:
    calls = ProcessCalls(
      lambda context: Processes(
        lanes, context=context, copy=False, autoreset_mode=mode
      ),
      **options,
    )
  else:
    calls = ThreadCalls(
      lambda: vector.SyncVectorEnv(lanes, copy=False, autoreset_mode=mode),
      **options,
    )
  return GymnasiumWorld(calls, task="stamped", seed=0, max_episode_steps=cap)


def _as_lane(make, index):
  return make_lane(make, index)


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rows_are_the_stamped_worlds(mode, processes):
  world = _stamped_world(mode, processes=processes)
  found = _play(world, 24)
  reports = world.pop_episodes()
  world.close()
  if mode == AutoresetMode.NEXT_STEP:
    other = StampedWorld(stamped.LENGTHS, truncated=stamped.TRUNCATED)
    _assert_same(found, _play(other, 24))
    assert reports == other.pop_episodes() and len(reports) > 10
    return
  # The unseen steps use up episodes of the script. What is shown is whole.
  episode, step = found.obs_t[..., 0], found.obs_t[..., 1]
  np.testing.assert_array_equal(found.is_first_t, step == 0)
  np.testing.assert_array_equal(found.is_first_t[1:], found.is_last_t[:-1])
  np.testing.assert_array_equal(np.diff(step, axis=0)[~found.is_first_t[1:]], 1)
  assert (np.diff(episode, axis=0)[~found.is_first_t[1:]] == 0).all()
  for lane, lengths in enumerate(stamped.LENGTHS):
    for row in np.flatnonzero(found.is_last_t[:, lane]):
      number = int(episode[row, lane])
      # the true last observation, and why it is the last one
      assert step[row, lane] == lengths[number % len(lengths)]
      cut = (lane, number) in stamped.TRUNCATED
      assert found.discount_t[row, lane] == cut
  assert (found.discount_t[~found.is_last_t] == 1).all()
  assert (found.r_t[found.is_first_t] == 0).all()
  whole = found.r_t[~found.is_first_t] - step[~found.is_first_t]
  assert ((0 <= whole) & (whole < 0.25)).all()
  assert found.is_last_t.sum() == len(reports) > 8
  assert {r.truncated for r in reports} == {True, False}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_cap_cuts_in_every_mode(mode):
  found = _play(_stamped_world(mode, cap=2), 30)
  step = found.obs_t[..., 1]
  assert step.max() == 2
  np.testing.assert_array_equal(found.is_first_t[1:], found.is_last_t[:-1])
  np.testing.assert_array_equal(found.is_first_t, step == 0)
  np.testing.assert_array_equal(found.is_last_t[step == 2], True)
  # lane 1: three steps each, of which two are played
  assert (found.discount_t[:, 1] == 1).all()
  assert found.is_last_t[:, 1].sum() == 10
  # lane 0: its first episode ends by its own time limit in the step of the cap
  assert found.discount_t[2, 0] == 1 and found.is_last_t[2, 0]


def test_a_game_over_in_the_step_of_a_limit_is_over():
  class Both(stamped.Walk):
    def step(self, action):
      obs, r, *_ = super().step(action)
      return obs, r, self._steps == 3, self._steps == 3, {}

  found = _play(vector_world(lambda: vector.SyncVectorEnv([Both]), seed=0), 8)
  np.testing.assert_array_equal(np.flatnonzero(found.is_last_t), [3, 7])
  np.testing.assert_array_equal(found.discount_t[found.is_last_t], 0)


def _world(make="make_walk", num_envs=3, *, seed=5, **options):
  config = EnvConfig(task=f"{HERE}:{make}", num_envs=num_envs, **options)
  return make_world(config, seed=seed)


def test_a_lane_is_the_same_in_every_pool():
  def lanes(**options):
    with_actions = _world(**options)
    found = _play_zeros(with_actions, 14)
    with_actions.close()
    return found

  three = lanes()
  assert np.abs(three.obs_t[0, 0] - three.obs_t[0, 1]).max() > 1e-3
  assert np.abs(three.obs_t[0] - three.obs_t[6]).max() > 1e-3  # the next game
  _assert_same(three, lanes())
  _assert_same(three, jax.tree.map(lambda x: x[:, :3], lanes(num_envs=5)))
  _assert_same(three, lanes(vectorization="async"))
  assert np.abs(three.obs_t - lanes(seed=6).obs_t).max() > 1e-3


def _play_zeros(world, num_rows):
  world.reset()
  rows = []
  for _ in range(num_rows):
    rows.append(world.recv())
    world.send(np.zeros(world.num_envs, np.int32), rows[-1].env_id)
  return _stacked(rows)


def test_rows_are_arrays_of_their_own():
  world = _world()
  world.reset()
  first = world.recv()
  kept = jax.tree.map(np.copy, first)
  for _ in range(7):
    world.send(np.zeros(3, np.int32), first.env_id)
    world.recv()
  _assert_same(first, kept)


def test_a_registered_task_follows_the_settings():
  config = EnvConfig(
    task="gymnasium:CartPole-v1", num_envs=2, max_episode_frames=4
  )
  world = make_world(config, seed=0)
  assert world.spec == EnvSpec((4,), np.float32, 2, 1) == world_spec(config)
  world.reset()
  for k in range(11):
    t = world.recv()
    world.send(np.full(2, k % 2, np.int32), t.env_id)
  assert world.pop_episodes() == [
    (lane, 4.0, 4, 4, True) for _ in range(2) for lane in range(2)
  ]
  world.close()


def test_misuse():
  world = _world(num_envs=2)
  with pytest.raises(RuntimeError, match=r"call reset\(\) or send\(\) first"):
    world.recv()
  world.reset()
  with pytest.raises(RuntimeError, match="rows on their way"):
    world.reset()
  ids = world.recv().env_id
  with pytest.raises(ValueError, match=r"actions in \[0, 2\), got 0 to 2"):
    world.send(np.array([0, 2], np.int32), ids)
  with pytest.raises(ValueError, match="each of the 2 lanes.*got 1"):
    world.send(np.zeros(1, np.int32), ids[:1])
  world.reset()
  assert world.recv().is_first_t.all()
  world.close()
  world.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
  "make, message",
  [
    (
      "make_raising",
      "step 1 of its game: step raised KeyError: 'no such place'",
    ),
    ("make_hanging", "no answer within 0.3 s; if it may.*step_timeout_seconds"),
    ("make_shapeless", r"an array of shape \(2,\), got \(3,\)"),
  ],
)
def test_a_bad_lane_is_named(make, message, vectorization):
  world = _world(make, vectorization=vectorization, step_timeout_seconds=20)
  world.reset()
  ids = world.recv().env_id
  world._calls._timeout = 0.3 if "hang" in make else 20
  world.send(np.array([0, 1, 0], np.int32), ids)
  with pytest.raises(LaneError, match=f"{make}', lane 1.*{message}") as caught:
    world.recv()
  if make == "make_raising":
    (note,) = caught.value.__notes__
    assert 'raise KeyError("no such place")' in note
  world.close()


@pytest.mark.parametrize(
  "make, message",
  [
    ("make_unrewarding", r"expected a number as the reward, got \[0.0, 1.0\]"),
    ("make_old", "expected .observation, reward, terminated, truncated, info."),
  ],
)
def test_what_an_environment_returns(make, message):
  world = _world(make, num_envs=1)
  world.reset()
  world.send(np.ones(1, np.int32), world.recv().env_id)
  with pytest.raises(LaneError, match=f"lane 0.*{message}.*mend"):
    world.recv()
  world.close()


def test_a_process_that_dies_is_named():
  world = _world("make_dying", vectorization="async")
  world.reset()
  world.send(np.array([0, 0, 1], np.int32), world.recv().env_id)
  with pytest.raises(LaneError, match="the process of lane 2 ended"):
    world.recv()
  world.close()


def test_a_package_registers_its_tasks_when_it_is_named():
  config = EnvConfig(task=f"gymnasium:{HERE}:stamped/Walk-v0", num_envs=1)
  assert world_spec(config) == EnvSpec((2,), np.float32, 2, 1)
  with pytest.raises(ConfigError, match=f"mean gymnasium:{HERE}:stamped/Walk"):
    world_spec(EnvConfig(task=f"gymnasium:{HERE}:stamped/Wlak-v0"))


@pytest.mark.parametrize(
  "task, options, message",
  [
    ("gymnasium:CartPole-v7", {}, "did you mean gymnasium:CartPole-v1"),
    ("gymnasium:cartpol", {}, "unknown task .*did you mean gymnasium:CartPole"),
    ("gymnasium:Zzzzzz-v0", {}, "none of a similar name"),
    ("gymnasium:no_such_package:X-v0", {}, "no module named 'no_such_package'"),
    ("gymnasium:Pendulum-v1", {}, "actions of the space Box float32 .1."),
    (f"{HERE}:make_nothing", {}, "returns a gymnasium.Env.*returns str"),
    (f"{HERE}:no_such", {}, "has no 'no_such'"),
    ("no_such_module:make", {}, "no module named 'no_such_module'"),
    (f"{HERE}:NoSpace", {}, "of the space Text have no fixed size"),
    (f"{HERE}:Continuous", {}, "chooses one of a discrete set"),
    (f"{HERE}:Walk", dict(batch_size=1), "whose lanes step together, got 1"),
    (f"{HERE}:Walk", dict(life_loss="roll"), "Atari games of EnvPool"),
  ],
)
def test_refuses(task, options, message):
  with pytest.raises(ConfigError, match=message) as caught:
    make_world(EnvConfig(task=task, num_envs=2, **options), seed=0)
  assert "\n" not in str(caught.value)


def test_a_module_that_fails_keeps_its_own_error(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "broken_env.py").write_text("import no_such_library\n")
  with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
    world_spec(EnvConfig(task="broken_env:make_env"))
  assert not isinstance(caught.value, ConfigError)


def test_without_gymnasium(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
  with pytest.raises(MissingPackageError, match=r"r2d2_jax\[gymnasium\]"):
    world_spec(EnvConfig(task="gymnasium:CartPole-v1"))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_its_screen_is_lane_0s(vectorization):
  world = _world("Drawn", num_envs=2, vectorization=vectorization)
  world.reset()
  ids = world.recv().env_id
  assert screen(world).shape == (4, 6, 3) and screen(world).max() == 0
  world.send(np.zeros(2, np.int32), ids)
  world.recv()
  assert screen(world).min() == screen(world).max() == 1
  world.close()
  blank = _world(num_envs=1)
  blank.reset()
  blank.recv()
  assert screen(blank) is None
  blank.close()


def test_unknown_autoreset_mode_is_refused():
  env = vector.SyncVectorEnv([stamped.Walk])
  env.metadata["autoreset_mode"] = "sometimes"
  with pytest.raises(ConfigError, match="autoreset mode.*got 'sometimes'"):
    vector_world(lambda: env, seed=0)


def test_a_vectorised_task_of_gymnasiums_own():
  """CartPole in numpy: all lanes in one environment, with one seed."""
  make = lambda: gymnasium.make_vec(
    "CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"
  )
  found = _play(vector_world(make, seed=0), 60)
  np.testing.assert_array_equal(found.is_first_t[1:], found.is_last_t[:-1])
  assert found.is_last_t.sum() > 3
  _assert_same(found, _play(vector_world(make, seed=0), 60))
