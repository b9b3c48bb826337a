"""Flicker: observations that go blank at random (DRQN; talk, slide 31)."""

import numpy as np

from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.world import World, WorldWrapper
from r2d2_jax.types import Timestep


class FlickerWorld(WorldWrapper):
  """Another world, with each observation blanked (all 0) with a probability.

  Only obs_t changes: rewards, ends and reports are those of the world inside.
  Every row may go blank, the first and the last of an episode included. A
  lane's blanks depend on the seed and on how many rows it has had, not on
  arrival order.
  """

  def __init__(self, world: World, probability: float, *, seed: int):
    """See the class.

    Args:
      world: the world inside.
      probability: chance per row, in [0, 1].
      seed: non-negative.
    """
    super().__init__(world)
    self._probability = probability
    self._seed = seed
    self._num_rows = np.zeros(world.num_envs, np.int64)

  def recv(self) -> Timestep:
    """See `World.recv`; some of obs_t are blank."""
    timestep = super().recv()
    ids = timestep.env_id
    blank = (
      lane_uniform(self._seed, ids, self._num_rows[ids]) < self._probability
    )
    self._num_rows[ids] += 1
    obs_t = timestep.obs_t.copy()
    obs_t[blank] = 0
    return timestep._replace(obs_t=obs_t)
