"""memory-chain-<length>: bsuite's memory_len, with one bit to remember.

Source: Osband et al., "Behaviour Suite for Reinforcement Learning", ICLR 2020;
its `bsuite/environments/memory_chain.py` (0.3.6) with num_bits = 1, which is
what the experiment memory_len runs with lengths from 1 to 100. To the letter:

    row        0    1    2       ...   L       L + 1
    t          0    0    1             L - 1   L     (the timestep shown)
    time       1    1    1 - 1/L       1/L     0     obs[0] = 1 - t / L
    query      0    0    0             0       0     obs[1]: which bit; one only
    context    c    c    0             0       0     obs[2]: -1 or +1

The context stands in the first row and, since bsuite shows it where a step was
taken in t = 0, in the second one. An episode has L + 1 steps; actions do
nothing until the last one, chosen in row L: reward +1 if action 1 meets context
+1 or action 0 context -1, else -1. A policy without memory has a mean of 0 (for
L above 1). bsuite shows [1, 3]; here it is [3].
"""

import numpy as np

from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.numpy_world import NumpyWorld
from r2d2_jax.types import EnvSpec


class MemoryChainWorld(NumpyWorld):
  """Many lanes of the task above."""

  def __init__(self, num_envs: int, *, length: int, **options):
    """Args: L; the others as for `NumpyWorld`."""
    super().__init__(
      EnvSpec((3,), np.dtype(np.float32), 2, 1), num_envs, **options
    )
    self._length = length

  def _begin(self, env_id: np.ndarray) -> None:
    pass  # all of an episode follows from its number

  def _act(
    self, env_id: np.ndarray, a_t: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    asked = self.step[env_id] == self._length
    right = a_t == self._context(env_id)
    return np.where(asked, np.where(right, 1, -1), 0), asked

  def _observe(self, env_id: np.ndarray) -> np.ndarray:
    t = np.maximum(self.step[env_id] - 1, 0)
    obs = np.zeros((len(env_id), 3), np.float32)
    obs[:, 0] = 1 - t / self._length
    obs[:, 2] = np.where(t == 0, 2 * self._context(env_id) - 1, 0)
    return obs

  def _context(self, env_id: np.ndarray) -> np.ndarray:
    """The bits of the current episodes, int64 [B], 0 or 1."""
    return (lane_uniform(self.seed, env_id, self.episode[env_id]) < 0.5).astype(
      np.int64
    )
