"""EnvPool's environments as a `World`. The only importer of envpool."""

from typing import Any, NamedTuple

import envpool
import numpy as np

from r2d2_jax.config import ConfigError, EnvConfig, MissingPackageError
from r2d2_jax.envs import families
from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.tasks import resolve_task
from r2d2_jax.envs.world import EpisodeLog, EpisodeReport, check_actions
from r2d2_jax.types import Timestep


def envpool_seed(seed: int) -> int:
  """The seed given to EnvPool: a hash, in [0, 2^30).

  EnvPool seeds lane i with seed + i. Worlds of neighbouring seeds would share
  all lanes but one; an evaluation seeded one up would replay the training
  games.
  """
  return int(lane_uniform(seed, np.array(0))[0] * 2**30)


def find_task(name: str) -> str:
  """EnvPool's id of a task; ConfigError if none. See `resolve_task`."""
  return resolve_task(name, envpool.list_all_envs())


def task_spec(task: str, **options):
  """EnvPool's spec of a task.

  Raises:
    MissingPackageError: a library that the task needs is not installed.
    ConfigError: a file of it (a ROM, a scenario) is missing.
  """
  try:
    return envpool.make_spec(task, **options)
  except ImportError as error:
    raise MissingPackageError(
      f"{task} cannot start here: {error} Procgen is the family that needs Qt"
      " 5; all the others run without."
    ) from error
  except RuntimeError as error:
    raise ConfigError(
      f"{task} cannot start here, EnvPool says: {error} Take another task."
    ) from error


def task_interface(
  task: str, config: EnvConfig
) -> tuple[dict[str, Any], families.Interface]:
  """EnvPool's options for a task, and the task as the agent meets it with them.

  No lane is started: milliseconds.

  Args:
    task: EnvPool's id, from `find_task`.
    config: options.

  Raises:
    ConfigError: the task cannot start here, does not suit this agent, or an
      option does not suit the task.
  """
  defaults = task_spec(task).config
  options = families.family_options(task, defaults, config)
  spaces = task_spec(task, **options)
  return options, families.family_interface(
    task, spaces, families.frame_skip(defaults, config)
  )


class _Rows(NamedTuple):
  """What EnvPool hands out, of some lanes [B]."""

  env_id: np.ndarray  # int32
  obs: np.ndarray  # [B, *obs_shape], as the agent sees it
  r_t: np.ndarray
  terminated: np.ndarray  # bool; the game is over, time limit or not
  done: np.ndarray  # bool; EnvPool begins a new game at the next send
  lives: np.ndarray  # 0 where the task has none


class EnvPoolWorld:
  """Lanes of one EnvPool task, stepped by EnvPool's threads.

  Rows: the row with the end of an episode carries the true last observation;
  the one after it is EnvPool's reset row, whose action is ignored. discount_t
  is 0 on termination alone, EnvPool's own discount being 0 on truncation too. A
  game over in the very step of the time limit, which EnvPool calls truncated,
  is over.

  Lives: 'roll' sets discount_t to 0 in the row in which a life was lost and
  does nothing else; 'reset' also makes that row last and first. The game goes
  on in both, and its report covers the whole of it.

  Cap: counted here. EnvPool knows nothing of it (but in Atari): it is told to
  reset the lanes that were cut, where it would have played on.

  Frames: a report's episode_frames are agent steps x frame skip. The no-ops
  that begin an Atari game, counted by noop_max in raw frames, are in neither;
  nor do they count towards the frame cap.
  """

  def __init__(self, task: str, config: EnvConfig, *, seed: int):
    """Starts the lanes: about 50 ms each on Atari.

    Args:
      task: EnvPool's id, from `find_task`.
      config: lanes and options.
      seed: non-negative; lane i plays the same in every pool of this seed.

    Raises:
      ConfigError: as `task_interface` raises it.
    """
    options, interface = task_interface(task, config)
    self.spec = interface.spec
    self._task = task
    self.num_envs = config.num_envs
    self.batch_size = config.batch_size or config.num_envs
    self._convert = interface.convert
    self._life_loss = config.life_loss
    self._log = EpisodeLog(self.num_envs, self.spec.frame_skip)
    self._lives = np.zeros(self.num_envs, np.int64)
    self._cap_steps = families.cap_steps(task_spec(task).config, config)
    # Of the game that is played; whether the next row is a first one.
    self._steps = np.zeros(self.num_envs, np.int64)
    self._game_over = np.ones(self.num_envs, bool)
    self._cut = np.zeros(self.num_envs, bool)  # EnvPool would play on
    self._num_waiting = 0  # lanes that owe a row
    self._reset_rows: list[_Rows] = []  # of lanes that were cut, lock-step only
    self._pool = envpool.make(
      task,
      env_type="gymnasium",
      num_envs=self.num_envs,
      batch_size=self.batch_size,
      num_threads=config.num_threads,
      seed=envpool_seed(seed),
      **options,
    )

  def reset(self) -> None:
    """Starts a new game in every lane.

    Raises:
      RuntimeError: rows are on their way: receive them first.
    """
    if self._num_waiting:
      raise RuntimeError(
        f"reset with {self._num_waiting} rows on their way: call recv first."
      )
    self._game_over[:] = True
    self._num_waiting = self.num_envs
    self._pool.async_reset()

  def recv(self) -> Timestep:
    """The next rows; see `World.recv`.

    Raises:
      RuntimeError: fewer than `batch_size` lanes have been sent an action
        (EnvPool would wait for ever).
      ConfigError: the rows are not what EnvPool's spec of the task says.
    """
    if self._num_waiting < self.batch_size:
      raise RuntimeError(
        f"recv needs {self.batch_size} lanes, {self._num_waiting} are under "
        "way: call reset() or send() first."
      )
    env_id, obs, r_t, terminated, done, lives = self._receive()
    self._num_waiting -= len(env_id)

    game_first = self._game_over[env_id]
    self._steps[env_id] = np.where(game_first, 0, self._steps[env_id] + 1)
    capped = self._steps[env_id] >= self._cap_steps
    terminated = terminated & ~game_first
    truncated = (done | capped) & ~terminated & ~game_first
    game_last = terminated | truncated
    self._cut[env_id] = game_last & ~done
    # done in a first row: EnvPool resets once more, to another first row.
    self._game_over[env_id] = game_last | done
    r_t = np.where(game_first, 0, r_t).astype(np.float32)
    self._log.add(env_id, r_t, game_first, game_last, truncated)

    life_lost = np.zeros(len(env_id), bool)
    if self._life_loss != "ignore":
      life_lost = (lives < self._lives[env_id]) & ~game_first
      self._lives[env_id] = lives
    cut = life_lost & (self._life_loss == "reset")
    return Timestep(
      obs_t=obs,
      r_t=r_t,
      discount_t=np.where(terminated | life_lost, 0, 1).astype(np.float32),
      is_first_t=game_first | (cut & ~game_last),
      is_last_t=game_last | cut,
      env_id=env_id,
    )

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts in the rows just received; see `World.send`."""
    check_actions(a_t, env_id, self.spec.num_actions)
    self._num_waiting += len(env_id)
    a_t, env_id = a_t.astype(np.int32), env_id.astype(np.int32)
    cut = self._cut[env_id]
    if cut.any():
      # `async_reset` is this with all lanes; there is no public way to name
      # some.
      self._pool._reset(env_id[cut])
      if self.batch_size == self.num_envs:
        # Here EnvPool files rows by their place in what was sent, so that
        # those of two calls would overwrite each other.
        self._reset_rows.append(self._from_pool())
      a_t, env_id = a_t[~cut], env_id[~cut]
    if env_id.size:
      self._pool.send(a_t, env_id)

  def _receive(self) -> _Rows:
    rows, self._reset_rows = self._reset_rows, []
    if not rows:
      return self._from_pool()
    if sum(len(r.env_id) for r in rows) < self.num_envs:
      rows.append(self._from_pool())
    order = np.argsort(np.concatenate([r.env_id for r in rows]))
    return _Rows(*(np.concatenate(x)[order] for x in zip(*rows, strict=True)))

  def _from_pool(self) -> _Rows:
    obs, r_t, terminated, truncated, info = self._pool.recv()
    env_id = info["env_id"]
    obs = self._convert(obs)
    expected = (len(env_id), *self.spec.obs_shape)
    if (obs.shape, obs.dtype) != (
      expected,
      self.spec.obs_dtype,
    ) or r_t.shape != env_id.shape:
      raise ConfigError(
        f"{self._task} does not show what EnvPool's spec of it says: expected "
        f"observations {self.spec.obs_dtype} {expected} and rewards "
        f"{env_id.shape}, got {obs.dtype} {obs.shape} and {r_t.shape}. Take "
        "another task."
      )
    return _Rows(
      env_id=env_id,
      obs=obs,
      r_t=r_t,
      terminated=terminated | (info.get("terminated", 0) != 0),
      done=terminated | truncated,
      lives=info.get("lives", np.zeros_like(env_id)),
    )

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._log.pop()

  def close(self) -> None:
    """Stops EnvPool's threads."""
    self._pool.close()
