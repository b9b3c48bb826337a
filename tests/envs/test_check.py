"""check_world: the worlds here pass; each rule catches one that breaks it."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.check import WorldError, check_world
from r2d2_jax.envs.make import make_world
from tests.stamped import StampedWorld

WALK = "tests.envs.stamped_gymnasium:Walk"


@pytest.mark.parametrize(
  "options",
  [
    dict(task="recall"),
    dict(task="recall", num_envs=5, batch_size=2),
    dict(task="recall-long", max_episode_frames=20),
    dict(task="recall", flicker_probability=0.5),
    dict(task="memory-chain-3"),
    dict(task="memory-chain-1", num_envs=4, batch_size=2),
    dict(task="stateless-cartpole"),
    dict(task="stateless-cartpole", max_episode_frames=9),
    dict(task=WALK),
    dict(task=WALK, vectorization="async", num_envs=2),
    dict(task=WALK, max_episode_frames=3),
    dict(task="gymnasium:CartPole-v1"),
    pytest.param(dict(task="Catch-v0"), marks=pytest.mark.envpool),
    pytest.param(
      dict(task="CartPole-v1", num_envs=4, batch_size=2),
      marks=pytest.mark.envpool,
    ),
  ],
)
def test_the_worlds_here(options):
  if "Catch" in options["task"] or options["task"] == "CartPole-v1":
    pytest.importorskip("envpool")
  config = EnvConfig(**{"num_envs": 3, **options})
  world = make_world(config, seed=3)
  # Which lanes are ready first is a matter of threads.
  lockstep = world.batch_size == world.num_envs or config.task != "CartPole-v1"
  twin = make_world(config, seed=3) if lockstep else None
  check_world(world, num_steps=60, twin=twin)
  for each in (world, twin):
    if each is not None:
      each.close()


def test_lost_lives():
  for life_loss in ("ignore", "roll", "reset"):
    lost = [(0, 0, 2), (1, 1, 1)]
    check_world(
      StampedWorld(
        [[4], [2, 3]], life_losses=lost, life_loss=life_loss, frame_skip=4
      )
    )


class _Broken(StampedWorld):
  """A stamped world with one rule broken."""

  def __init__(self, how):
    super().__init__([[3], [2]], truncated=[(0, 0)])
    self._how = how
    self._buffer = np.zeros((2, 2), np.float32)
    if how == "spec":
      self.spec = self.spec._replace(obs_shape=[2])
    if how == "dtype":
      self.spec = self.spec._replace(obs_dtype=np.dtype(np.float64))
    if how == "frames":
      self.spec = self.spec._replace(frame_skip=4)

  def recv(self):
    t = super().recv()
    how, step = self._how, t.obs_t[:, 1]
    if how == "buffer":
      self._buffer[:] = t.obs_t
      t = t._replace(obs_t=self._buffer)
    if how == "nan":
      t = t._replace(r_t=np.where(step == 2, np.nan, t.r_t))
    if how == "double":
      t = t._replace(r_t=t.r_t.astype(np.float64))
    if how == "gamma":
      t = t._replace(discount_t=t.discount_t * np.float32(0.99))
    if how == "no first":
      t = t._replace(is_first_t=t.is_first_t & (t.obs_t[:, 0] == 0))
    if how == "first":
      t = t._replace(is_first_t=t.is_first_t | (step == 1))
    if how == "order":
      t = t._replace(env_id=t.env_id[::-1].copy())
    if how == "truncation":
      t = t._replace(discount_t=np.where(t.is_last_t, 0, 1).astype(np.float32))
    return t

  def send(self, a_t, env_id):
    if self._how == "any action":
      a_t = np.asarray(a_t).reshape(-1).astype(np.int32) % 4
    if self._how == "any action" or a_t.max() < 4:
      super().send(a_t, env_id)
    else:
      raise ValueError

  def pop_episodes(self):
    reports = super().pop_episodes()
    return reports[:-1] if self._how == "unreported" else reports


@pytest.mark.parametrize(
  "how, message",
  [
    ("spec", r"spec.obs_shape: expected a tuple .*got \[2\]"),
    ("dtype", "spec.obs_dtype: expected .*float64"),
    ("frames", "episode_frames of a report: expected steps x frame skip"),
    ("buffer", "obs_t of the rows before: .*hand out a copy"),
    ("nan", "r_t: expected an array float32|r_t: expected finite"),
    ("double", r"r_t: expected an array float32 \(2,\), got float64"),
    ("gamma", "discount_t: expected 0 or 1 .gamma"),
    ("no first", "is_first_t .lane 1.*: expected True after a last row"),
    ("first", "is_first_t .lane 0, step 0.*: expected False, got True"),
    ("order", "env_id: expected all lanes in order"),
    ("truncation", r"pop_episodes: expected .*\(0, 3, True\)"),
    ("unreported", "pop_episodes: expected the games that ended"),
    ("any action", "send: expected a ValueError for action 4"),
  ],
)
def test_each_rule(how, message):
  with pytest.raises(WorldError, match=message):
    check_world(_Broken(how))


def test_two_worlds_of_one_seed():
  with pytest.raises(WorldError, match="two worlds of one seed"):
    check_world(StampedWorld([[3]]), twin=StampedWorld([[4]]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RepeatPreviousEasy", "CountRecallEasy"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_popgym(name, vectorization):
  pytest.importorskip("popgym")
  config = EnvConfig(
    task=f"gymnasium:popgym:popgym-{name}-v0",
    num_envs=3,
    vectorization=vectorization,
  )
  worlds = [make_world(config, seed=1) for _ in range(2)]
  check_world(worlds[0], twin=worlds[1], num_steps=300)
  for world in worlds:
    world.close()
