"""The world as the rest of the program sees it: lanes that yield rows."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from r2d2_jax.types import EnvSpec, Timestep


class EpisodeReport(NamedTuple):
  """One whole game, as a score table would list it.

  Nothing that changes what the agent *learns* from (reward clipping, life loss
  as an episode end, flicker) changes a report.
  """

  env_id: int  # the lane that played it
  episode_return: float  # raw undiscounted sum of the game's rewards
  episode_frames: int  # raw frames: episode_steps x frame_skip, no-ops left out
  episode_steps: int  # agent steps: rows of the game, the first one not counted
  truncated: bool  # cut by the frame cap, not over


class World(Protocol):
  """`num_envs` lanes, of which `batch_size` step at a time.

  ```
  world.reset()
  while True:
    timestep = world.recv()
    world.send(act(timestep), timestep.env_id)
  ```

  The row after a last one is the first row of the lane's next episode, whatever
  action was sent; a row that is last *and* first (see `Timestep`) is the
  exception: there the game goes on, and the action counts.

  No game is longer than the frame cap, which the world counts itself: it makes
  the row last (discount_t stays 1) and begins a new game, whoever would play
  on.
  """

  spec: EnvSpec
  num_envs: int
  batch_size: int

  def reset(self) -> None:
    """Starts every lane: `recv` then hands out first rows."""
    ...

  def recv(self) -> Timestep:
    """The next `batch_size` rows: lanes 0..N-1 in order if that is all of them,
    else whichever lanes are ready first."""
    ...

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts, int32 [B], in the rows of the lanes `env_id` just received.

    Raises:
      ValueError: an action outside [0, num_actions), or a wrong shape or type.
    """
    ...

  def pop_episodes(self) -> list[EpisodeReport]:
    """The games that ended since the last call, in order of arrival."""
    ...

  def close(self) -> None:
    """Stops the lanes. May be called twice."""
    ...


@runtime_checkable
class RestorableWorld(World, Protocol):
  """A `World` whose state can be saved: `journal.JournalWorld` makes one."""

  def state_dict(self) -> dict[str, np.ndarray]:
    """All that brings the world back; to be taken after a `send`."""
    ...

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`, in a world fresh from `reset`.

    Raises:
      ValueError: the world cannot be brought back.
    """
    ...


class WorldWrapper:
  """A `World` that hands on to the one inside; subclasses change part of it."""

  def __init__(self, world: World):
    """Args: the world inside."""
    self._world = world
    self.spec = world.spec
    self.num_envs = world.num_envs
    self.batch_size = world.batch_size

  def reset(self) -> None:
    """See `World.reset`."""
    self._world.reset()

  def recv(self) -> Timestep:
    """See `World.recv`."""
    return self._world.recv()

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """See `World.send`."""
    self._world.send(a_t, env_id)

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._world.pop_episodes()

  def close(self) -> None:
    """See `World.close`."""
    self._world.close()


def check_actions(
  a_t: np.ndarray, env_id: np.ndarray, num_actions: int
) -> None:
  """Refuses what an environment must never see.

  EnvPool reads past the end of its action table where an action is out of range
  and casts floats silently, so every world checks.

  Args:
    a_t: integer [B], each in [0, num_actions).
    env_id: integer [B].
    num_actions: size of the action set.

  Raises:
    ValueError: shape, type or range is wrong.
  """
  if a_t.shape != env_id.shape or a_t.ndim != 1:
    raise ValueError(
      "expected one action per row, shape [B]; got actions of shape "
      f"{a_t.shape} for lanes of shape {env_id.shape}."
    )
  if not np.issubdtype(a_t.dtype, np.integer):
    raise ValueError(
      f"expected integer actions, got {a_t.dtype}: cast them to int32."
    )
  if a_t.size and not (0 <= a_t.min() and a_t.max() < num_actions):
    raise ValueError(
      f"expected actions in [0, {num_actions}), got {a_t.min()} to "
      f"{a_t.max()}: does the network's num_actions match the world's spec?"
    )


class EpisodeLog:
  """Adds up whole games, lane by lane."""

  def __init__(self, num_envs: int, frame_skip: int):
    """Args: the number of lanes, and raw frames per agent step."""
    self._frame_skip = frame_skip
    self._returns = np.zeros(num_envs, np.float64)
    self._steps = np.zeros(num_envs, np.int64)
    self._reports: list[EpisodeReport] = []

  def add(
    self,
    env_id: np.ndarray,
    raw_reward: np.ndarray,
    game_first: np.ndarray,
    game_last: np.ndarray,
    truncated: np.ndarray,
  ) -> None:
    """Adds one row of each lane in `env_id`.

    Args:
      env_id: int [B], each lane at most once.
      raw_reward: float [B], as the game gives it.
      game_first: bool [B], the game begins here; the row's reward is dropped.
      game_last: bool [B], the game ends here (a lost life does not end it).
      truncated: bool [B], it ends because of a cap.
    """
    self._returns[env_id] = np.where(
      game_first, 0.0, self._returns[env_id] + raw_reward
    )
    self._steps[env_id] = np.where(game_first, 0, self._steps[env_id] + 1)
    for row in np.flatnonzero(game_last):
      lane = int(env_id[row])
      steps = int(self._steps[lane])
      self._reports.append(
        EpisodeReport(
          env_id=lane,
          episode_return=float(self._returns[lane]),
          episode_frames=steps * self._frame_skip,
          episode_steps=steps,
          truncated=bool(truncated[row]),
        )
      )

  def pop(self) -> list[EpisodeReport]:
    """Hands out the finished games and forgets them."""
    reports, self._reports = self._reports, []
    return reports
