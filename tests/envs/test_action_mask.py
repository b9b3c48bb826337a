"""Action masks of Gymnasium's environments: whose they are, and refusals."""

from gymnasium import spaces, vector
from gymnasium.vector import AutoresetMode
import numpy as np
import pytest

from r2d2_jax.config import ConfigError, EnvConfig
from r2d2_jax.envs.action_spaces import action_mask_of, actions_of
from r2d2_jax.envs.check import WorldError, check_world
from r2d2_jax.envs.gymnasium_lanes import LaneError
from r2d2_jax.envs.gymnasium_make import vector_world
from r2d2_jax.envs.make import make_world, world_spec
from tests.envs.masked_gymnasium import Doors
from tests.stamped import StampedWorld

HERE = "tests.envs.masked_gymnasium"


def _config(make="make_doors", num_envs=3, **options):
  return EnvConfig(
    task=f"{HERE}:{make}", num_envs=num_envs, action_mask=True, **options
  )


def _play(world, num_rows):
  """Rows, with the last of the open doors taken in each."""
  world.reset()
  rows = []
  for _ in range(num_rows):
    rows.append(world.recv())
    mask = rows[-1].action_mask_t
    a_t = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    world.send(a_t.astype(np.int32), rows[-1].env_id)
  return rows


def _assert_masks_are_those_shown(rows):
  for t in rows:
    shown = t.obs_t[:, :4] == 1
    over = t.discount_t == 0
    np.testing.assert_array_equal(t.action_mask_t[~over], shown[~over])
    assert not shown[over].any() and t.action_mask_t[over].all()
    assert t.action_mask_t.dtype == np.bool_


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_row_has_the_mask_of_its_own_observation(mode, truncated):
  """In every autoreset mode, also where an episode ends and begins."""
  make = lambda: vector.SyncVectorEnv(
    [lambda: Doors(truncated=truncated)] * 3, autoreset_mode=mode
  )
  world = vector_world(make, seed=0, action_mask=True)
  rows = _play(world, 30)  # the unseen steps keep to the masks too, or raise
  _assert_masks_are_those_shown(rows)
  ends = np.concatenate([t.discount_t[t.is_last_t] for t in rows])
  assert len(ends) == 12 and (ends == truncated).all()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_lanes_of_a_task(vectorization):
  config = _config(vectorization=vectorization)
  world = make_world(config, seed=0)
  assert world.spec.action_mask and world_spec(config) == world.spec
  _assert_masks_are_those_shown(_play(world, 20))
  world.close()
  check_world(
    make_world(config, seed=1), twin=make_world(config, seed=1), num_steps=60
  )


def test_the_cap_cuts_a_row_that_keeps_its_mask():
  rows = _play(make_world(_config(max_episode_frames=3), seed=0), 20)
  _assert_masks_are_those_shown(rows)
  assert sum(t.is_last_t.sum() for t in rows) == 15


def test_without_the_setting_nothing_is_read():
  config = EnvConfig(task=f"{HERE}:make_missing", num_envs=2)
  world = make_world(config, seed=0)
  world.reset()
  assert world.recv().action_mask_t is None and not world.spec.action_mask


def test_a_tuple_of_masks_is_of_the_combinations():
  """Of MultiDiscrete [2, 3] the agent's action 3 a + b is the pair (a, b)."""
  actions = actions_of("task", spaces.MultiDiscrete([2, 3]))
  mask = action_mask_of(actions, ([1, 0], np.array([0, 1, 1], np.int8)))
  np.testing.assert_array_equal(mask, [0, 1, 1, 0, 0, 0])
  joint = np.array([0, 1, 0, 0, 0, 1])
  np.testing.assert_array_equal(action_mask_of(actions, joint), joint)
  config = _config("Factors")
  world = make_world(config, seed=0)
  check_world(world, num_steps=50)  # which raises where a pair is not allowed
  t = world.recv()
  a, b = t.obs_t[:, :2], t.obs_t[:, 2:]
  pairs = (a[:, :, None] * b[:, None, :]).reshape(3, 6)
  open_rows = t.discount_t == 1
  np.testing.assert_array_equal(t.action_mask_t[open_rows], pairs[open_rows])


@pytest.mark.parametrize(
  "space, given, message",
  [
    (spaces.Discrete(3), [1, 0], "expected 3 zeros and ones.*got"),
    (spaces.Discrete(3), np.array([1, 0, 2]), "expected 3 zeros and ones"),
    (spaces.Discrete(2), None, "expected 2 zeros and ones.*got None"),
    (
      spaces.MultiDiscrete([2, 3]),
      ([1, 1], [1, 1]),
      r"expected 6 zeros and ones, .* or a tuple of as many as \[2, 3\]",
    ),
    (spaces.MultiBinary(2), np.array([0, 2]), "expected 4 zeros and ones"),
  ],
)
def test_masks_that_are_none(space, given, message):
  with pytest.raises(ValueError, match=message):
    action_mask_of(actions_of("task", space), given)


@pytest.mark.parametrize(
  "make, message",
  [
    (
      "make_missing",
      r"step: expected info\['action_mask'\], which env.action_mask asks for,"
      r" got \['locked'\]",
    ),
    ("make_shape", r"step: info\['action_mask'\]: expected 4 zeros and ones"),
  ],
)
def test_a_lane_without_its_mask_is_named(make, message):
  world = make_world(_config(make), seed=0)
  with pytest.raises(LaneError, match=f"lane 0, step 1 of its game: {message}"):
    _play(world, 3)


def test_a_vector_environment_without_masks_is_refused():
  make = lambda: vector.SyncVectorEnv([lambda: Doors("missing")] * 2)
  with pytest.raises(LaneError, match=r"zeros and ones \(2, 4\), lanes and"):
    _play(vector_world(make, seed=0, action_mask=True), 3)


def test_tasks_that_cannot_say_it_are_refused():
  config = EnvConfig(task="recall", num_envs=2, action_mask=True)
  for make in (lambda: make_world(config, seed=0), lambda: world_spec(config)):
    with pytest.raises(ConfigError, match="env.action_mask: expected False"):
      make()


class _Masked(StampedWorld):
  """A stamped world that says something of masks."""

  def __init__(self, mask, *, says=True):
    super().__init__([[3]])
    self.spec = self.spec._replace(action_mask=says)
    self._mask = mask

  def recv(self):
    return super().recv()._replace(action_mask_t=self._mask)


@pytest.mark.parametrize(
  "mask, says, message",
  [
    (None, True, r"action_mask_t: expected an array bool \(1, 4\)"),
    (np.ones((1, 3), bool), True, r"bool \(1, 4\), got bool \(1, 3\)"),
    (np.ones((1, 4), bool), False, "None without spec.action_mask"),
    (np.zeros((1, 4), bool), True, "an action that may be taken in each row"),
  ],
)
def test_check_world_looks_at_masks(mask, says, message):
  with pytest.raises(WorldError, match=message):
    check_world(_Masked(mask, says=says))


def test_check_world_takes_a_world_with_masks():
  check_world(_Masked(np.array([[False, True, True, False]])))
