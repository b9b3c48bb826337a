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
from r2d2_jax.envs.world import EpisodeLog, EpisodeReport, check_actions
from r2d2_jax.types import EnvSpec, Timestep

NUM_SYMBOLS = 4  # K, also the number of actions
# By the task's name the least and the largest D.
DELAYS = {"recall": (3, 8), "recall-long": (16, 24)}
# obs_t: one-hot symbol [K], then three flags.
IS_CUE, IS_HUSH, IS_QUERY = NUM_SYMBOLS, NUM_SYMBOLS + 1, NUM_SYMBOLS + 2
OBS_SIZE = NUM_SYMBOLS + 3

# Which of a lane's random numbers: they must not be one another's.
_CUE, _DELAY, _DISTRACTOR = 0, 1, 2


class RecallWorld:
  """Many lanes of the task above as a `World`, in numpy, without threads.

  Lane i shows the same episodes in every pool of the same seed.
  """

  def __init__(
    self,
    num_envs: int,
    *,
    seed: int,
    delays: tuple[int, int] = DELAYS["recall"],
    batch_size: int = 0,
    max_episode_steps: int = 108_000,
  ):
    """See the class.

    Args:
      num_envs: lanes.
      seed: non-negative.
      delays: least and largest D.
      batch_size: lanes per step, 0 for all; fewer take turns.
      max_episode_steps: agent steps after which an episode is truncated.
    """
    self.num_envs = num_envs
    self.batch_size = batch_size or num_envs
    self.spec = EnvSpec((OBS_SIZE,), np.dtype(np.float32), NUM_SYMBOLS, 1)
    self._seed = seed
    self._delays = delays
    self._max_episode_steps = max_episode_steps
    self._log = EpisodeLog(num_envs, frame_skip=1)
    self._episode = np.full(num_envs, -1, np.int64)
    self._step = np.zeros(num_envs, np.int64)
    self._r = np.zeros(num_envs, np.float32)
    self._terminated = np.zeros(num_envs, bool)
    self._truncated = np.zeros(num_envs, bool)
    self._ready = np.zeros(0, np.int32)

  def reset(self) -> None:
    """Starts a new episode in every lane."""
    self._begin(np.arange(self.num_envs))
    self._ready = np.arange(self.num_envs, dtype=np.int32)

  def recv(self) -> Timestep:
    """The next rows; see `World.recv`.

    Raises:
      RuntimeError: fewer than `batch_size` lanes have been sent an action.
    """
    if len(self._ready) < self.batch_size:
      raise RuntimeError(
        f"recv needs {self.batch_size} lanes, {len(self._ready)} are ready: "
        "call reset() or send() first."
      )
    env_id = self._ready[: self.batch_size]
    self._ready = self._ready[self.batch_size :]
    if self.batch_size == self.num_envs:
      env_id = np.sort(env_id)
    is_first = self._step[env_id] == 0
    is_last = self._terminated[env_id] | self._truncated[env_id]
    self._log.add(
      env_id, self._r[env_id], is_first, is_last, self._truncated[env_id]
    )
    return Timestep(
      obs_t=self._observe(env_id),
      r_t=self._r[env_id],
      discount_t=np.where(self._terminated[env_id], 0, 1).astype(np.float32),
      is_first_t=is_first,
      is_last_t=is_last,
      env_id=env_id,
    )

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts in the rows just received; see `World.send`."""
    check_actions(a_t, env_id, NUM_SYMBOLS)
    self._ready = np.concatenate([self._ready, env_id.astype(np.int32)])
    over = self._terminated[env_id] | self._truncated[env_id]
    self._begin(env_id[over])
    a_t, env_id = a_t[~over], env_id[~over]

    step, (cue, delay) = self._step[env_id], self._episode_draw(env_id)
    asked = step == delay + 2
    disturbed = (step == delay + 1) & (a_t != 0)
    self._step[env_id] = step + 1
    self._r[env_id] = asked & (a_t == cue)
    self._terminated[env_id] = asked | disturbed
    self._truncated[env_id] = (step + 1 >= self._max_episode_steps) & ~(
      asked | disturbed
    )

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._log.pop()

  def close(self) -> None:
    """Nothing to stop."""

  def _begin(self, env_id: np.ndarray) -> None:
    self._episode[env_id] += 1
    self._step[env_id] = 0
    self._r[env_id] = 0
    self._terminated[env_id] = self._truncated[env_id] = False

  def _episode_draw(self, env_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cue and delay of the current episodes, int64 [B] each."""
    episode = self._episode[env_id]
    cue = NUM_SYMBOLS * lane_uniform(self._seed, env_id, episode, _CUE)
    low, high = self._delays
    delay = low + (high - low + 1) * lane_uniform(
      self._seed, env_id, episode, _DELAY
    )
    return cue.astype(np.int64), delay.astype(np.int64)

  def _observe(self, env_id: np.ndarray) -> np.ndarray:
    """float32 [B, K + 3]: what the lanes' current rows show."""
    step, (cue, delay) = self._step[env_id], self._episode_draw(env_id)
    over = self._terminated[env_id]
    distractor = (
      NUM_SYMBOLS
      * lane_uniform(
        self._seed, env_id, self._episode[env_id], _DISTRACTOR, step
      )
    ).astype(np.int64)
    obs = np.zeros((len(env_id), OBS_SIZE), np.float32)
    shown = np.flatnonzero(step <= delay)
    obs[shown, np.where(step == 0, cue, distractor)[shown]] = 1
    obs[:, IS_CUE] = step == 0
    obs[:, IS_HUSH] = step == delay + 1
    obs[:, IS_QUERY] = (step == delay + 2) & ~over
    return obs
