"""Recall: a memory task that a policy without memory cannot solve.

An episode: a *cue* names one of K symbols; D blank rows follow, each showing a
random symbol that means nothing; a *hush* row, in which only action 0 keeps the
episode alive; a *query* row, in which the action must name the cue. Reward 1
for the right name, else 0, and the episode is over.

    row      0     1 .. D        D + 1   D + 2   D + 3
    shows    cue   distractors   hush    query   nothing (the last row)

D is drawn anew for each episode, so the query cannot be timed: from 3 to 8 in
'recall', from 16 to 24 in 'recall-long', whose episodes are longer than an
item.

The bound: a policy that acts on (obs_t, a_tm1, r_t) alone has an expected
return of at most 1 / K. In the query row the observation is always the same,
r_t is always 0, and a_tm1 is always 0 because of the hush row (without it a
policy could carry the cue along as its own previous action). Its guess is
therefore independent of the cue, which is uniform. With memory the return is 1.
"""

import numpy as np

from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.numpy_world import NumpyWorld
from r2d2_jax.types import EnvSpec

NUM_SYMBOLS = 4  # K, also the number of actions
# By the task's name the least and the largest D.
DELAYS = {"recall": (3, 8), "recall-long": (16, 24)}
# obs_t: one-hot symbol [K], then three flags.
IS_CUE, IS_HUSH, IS_QUERY = NUM_SYMBOLS, NUM_SYMBOLS + 1, NUM_SYMBOLS + 2
OBS_SIZE = NUM_SYMBOLS + 3

# Which of a lane's random numbers: they must not be one another's.
_CUE, _DELAY, _DISTRACTOR = 0, 1, 2


class RecallWorld(NumpyWorld):
  """Many lanes of the task above."""

  def __init__(
    self,
    num_envs: int,
    *,
    seed: int,
    delays: tuple[int, int] = DELAYS["recall"],
    batch_size: int = 0,
    max_episode_steps: int = 108_000,
  ):
    """Args: least and largest D; the others as for `NumpyWorld`."""
    super().__init__(
      EnvSpec((OBS_SIZE,), np.dtype(np.float32), NUM_SYMBOLS, 1),
      num_envs,
      seed=seed,
      batch_size=batch_size,
      max_episode_steps=max_episode_steps,
    )
    self._delays = delays

  def _begin(self, env_id: np.ndarray) -> None:
    pass  # all of an episode follows from its number

  def _act(
    self, env_id: np.ndarray, a_t: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    step, (cue, delay) = self.step[env_id], self._episode_draw(env_id)
    asked = step == delay + 2
    disturbed = (step == delay + 1) & (a_t != 0)
    return asked & (a_t == cue), asked | disturbed

  def _episode_draw(self, env_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cue and delay of the current episodes, int64 [B] each."""
    episode = self.episode[env_id]
    cue = NUM_SYMBOLS * lane_uniform(self.seed, env_id, episode, _CUE)
    low, high = self._delays
    delay = low + (high - low + 1) * lane_uniform(
      self.seed, env_id, episode, _DELAY
    )
    return cue.astype(np.int64), delay.astype(np.int64)

  def _observe(self, env_id: np.ndarray) -> np.ndarray:
    """float32 [B, K + 3]: what the lanes' current rows show."""
    step, (cue, delay) = self.step[env_id], self._episode_draw(env_id)
    over = self.terminated[env_id]
    distractor = (
      NUM_SYMBOLS
      * lane_uniform(self.seed, env_id, self.episode[env_id], _DISTRACTOR, step)
    ).astype(np.int64)
    obs = np.zeros((len(env_id), OBS_SIZE), np.float32)
    shown = np.flatnonzero(step <= delay)
    obs[shown, np.where(step == 0, cue, distractor)[shown]] = 1
    obs[:, IS_CUE] = step == 0
    obs[:, IS_HUSH] = step == delay + 1
    obs[:, IS_QUERY] = (step == delay + 2) & ~over
    return obs
