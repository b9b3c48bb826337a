"""Flicker: observations that go blank at random (DRQN; talk, slide 31)."""

import numpy as np

from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.world import EpisodeReport, World
from r2d2_jax.types import Timestep


class FlickerWorld:
  """Another world, with each observation blanked (all 0) with a probability.

  Only obs_t changes: rewards, ends and reports are those of the world inside.
  Every row may go blank, the first and the last of an episode included. A lane's
  blanks depend on the seed and on how many rows it has had, not on arrival order.
  """

  def __init__(self, world: World, probability: float, *, seed: int):
    """Args:
    world: the world inside.
    probability: chance per row, in [0, 1].
    seed: non-negative.
    """
    self.spec = world.spec
    self.num_envs = world.num_envs
    self.batch_size = world.batch_size
    self._world = world
    self._probability = probability
    self._seed = seed
    self._num_rows = np.zeros(world.num_envs, np.int64)

  def reset(self) -> None:
    """See `World.reset`."""
    self._world.reset()

  def recv(self) -> Timestep:
    """See `World.recv`; some of obs_t are blank."""
    timestep = self._world.recv()
    ids = timestep.env_id
    blank = (
      lane_uniform(self._seed, ids, self._num_rows[ids]) < self._probability
    )
    self._num_rows[ids] += 1
    obs_t = timestep.obs_t.copy()
    obs_t[blank] = 0
    return timestep._replace(obs_t=obs_t)

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """See `World.send`."""
    self._world.send(a_t, env_id)

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._world.pop_episodes()

  def close(self) -> None:
    """See `World.close`."""
    self._world.close()
