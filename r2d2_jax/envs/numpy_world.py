"""What the built-in tasks share: lanes in numpy, without threads."""

import abc

import numpy as np

from r2d2_jax.envs.world import EpisodeLog, EpisodeReport, check_actions
from r2d2_jax.types import EnvSpec, Timestep


class NumpyWorld(abc.ABC):
  """A `World` of many lanes of one task, stepped together in numpy.

  A task gives three methods: how episodes begin, what an action does, what is
  shown. Random numbers come from `lane_uniform`, so that lane i shows the same
  episodes in every pool of the same seed. Fewer lanes per step than there are
  take turns.

  Attributes:
    episode: int64 [N], the number of the episode that each lane plays.
    step: int64 [N], its steps so far.
    terminated: bool [N], whether it is over.
  """

  def __init__(
    self,
    spec: EnvSpec,
    num_envs: int,
    *,
    seed: int,
    batch_size: int = 0,
    max_episode_steps: int = 108_000,
  ):
    """Args:
    spec: of the task.
    num_envs: lanes.
    seed: non-negative.
    batch_size: lanes per step, 0 for all; fewer take turns.
    max_episode_steps: agent steps after which an episode is truncated.
    """
    self.spec = spec
    self.num_envs = num_envs
    self.batch_size = batch_size or num_envs
    self.seed = seed
    self.episode = np.full(num_envs, -1, np.int64)
    self.step = np.zeros(num_envs, np.int64)
    self.terminated = np.zeros(num_envs, bool)
    self._max_episode_steps = max_episode_steps
    self._log = EpisodeLog(num_envs, frame_skip=1)
    self._r = np.zeros(num_envs, np.float32)
    self._truncated = np.zeros(num_envs, bool)
    self._ready = np.zeros(0, np.int32)

  @abc.abstractmethod
  def _begin(self, env_id: np.ndarray) -> None:
    """Begins episodes `episode[env_id]`, at step 0."""

  @abc.abstractmethod
  def _act(
    self, env_id: np.ndarray, a_t: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and whether the episodes are over, of one step each.

    `step[env_id]` is the row's in which was acted.
    """

  @abc.abstractmethod
  def _observe(self, env_id: np.ndarray) -> np.ndarray:
    """What the lanes' current rows show, a fresh array [B, *obs_shape]."""

  def reset(self) -> None:
    """Starts a new episode in every lane."""
    self._begin_next(np.arange(self.num_envs))
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
    is_first = self.step[env_id] == 0
    is_last = self.terminated[env_id] | self._truncated[env_id]
    self._log.add(
      env_id, self._r[env_id], is_first, is_last, self._truncated[env_id]
    )
    return Timestep(
      obs_t=self._observe(env_id),
      r_t=self._r[env_id],
      discount_t=np.where(self.terminated[env_id], 0, 1).astype(np.float32),
      is_first_t=is_first,
      is_last_t=is_last,
      env_id=env_id,
    )

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts in the rows just received; see `World.send`."""
    check_actions(a_t, env_id, self.spec.num_actions)
    self._ready = np.concatenate([self._ready, env_id.astype(np.int32)])
    over = self.terminated[env_id] | self._truncated[env_id]
    self._begin_next(env_id[over])
    a_t, env_id = a_t[~over], env_id[~over]
    r, terminated = self._act(env_id, a_t)
    self.step[env_id] += 1
    self._r[env_id] = r
    self.terminated[env_id] = terminated
    self._truncated[env_id] = (
      self.step[env_id] >= self._max_episode_steps
    ) & ~terminated

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._log.pop()

  def close(self) -> None:  # noqa: B027
    """Nothing to stop."""

  def _begin_next(self, env_id: np.ndarray) -> None:
    self.episode[env_id] += 1
    self.step[env_id] = 0
    self._r[env_id] = 0
    self.terminated[env_id] = self._truncated[env_id] = False
    self._begin(env_id)
