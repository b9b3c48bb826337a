"""Gymnasium's vector environments as a `World`.

Gymnasium has three orders of rows around an episode's end; `GymnasiumWorld`
gives this package's own for all of them:

    next step   the row with the end carries the true last observation, the one
                after it is the reset row, whose action is ignored: this
                package's row order
    same step   the row with the end carries the *next* episode's first
                observation, the last one is in info["final_obs"]
    disabled    the caller resets the lanes that have ended

Vector environments step all their lanes or none. Where a lane needs a reset row
that they do not give of themselves (in the latter two, and where the frame cap
cuts an episode), it is stepped along, unseen, and then reset by a mask. Nothing
of such a step is handed out or counted.
"""

from typing import Any

from gymnasium import vector
import numpy as np

from r2d2_jax.config import ConfigError
from r2d2_jax.envs.action_spaces import Actions, actions_of
from r2d2_jax.envs.gymnasium_lanes import ACTION_MASK, LaneError
from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.spaces import Observations, observations_of
from r2d2_jax.envs.vector_calls import Calls
from r2d2_jax.envs.world import EpisodeLog, EpisodeReport, check_actions
from r2d2_jax.types import Array, EnvSpec, Timestep


class GymnasiumWorld:
  """Lanes of a Gymnasium vector environment; see the top of the module.

  A game that terminates in the step of a time limit is over: discount_t is 0.
  Frames are steps: what an environment skips inside is its own matter.
  """

  def __init__(
    self,
    calls: Calls,
    *,
    task: str,
    seed: int,
    max_episode_steps: int,
    action_mask: bool = False,
  ):
    """Args:
    calls: of the vector environment, which belongs to this world from now on.
    task: for messages.
    seed: non-negative; lane i is seeded the same whatever the number of lanes.
    max_episode_steps: steps after which an episode is truncated.
    action_mask: whether infos["action_mask"] [lanes, actions] says which
      actions may be taken.

    Raises:
      ConfigError: the spaces do not suit this agent, or Gymnasium's autoreset
        mode is not known.
    """
    self._calls = calls
    env = calls.env
    try:
      self._obs = observations_of(task, env.single_observation_space)
      self._actions = actions_of(task, env.single_action_space)
      self._mode = _autoreset_mode(env)
    except ConfigError:
      calls.close()
      raise
    self.num_envs = self.batch_size = env.num_envs
    self.spec = spec_of(self._obs, self._actions, action_mask=action_mask)
    self._task = task
    self._seed = seed
    self._cap_steps = max_episode_steps
    self._log = EpisodeLog(self.num_envs, frame_skip=1)
    self._ids = np.arange(self.num_envs, dtype=np.int32)
    self._steps = np.zeros(self.num_envs, np.int64)
    self._over = np.zeros(self.num_envs, bool)  # the next row is a first one
    self._done = np.zeros(self.num_envs, bool)  # as the environment says it
    # What the environments allow now, behind an end that is shown too.
    self._allowed: Array = None
    self._waits_for = ""  # "reset" or "step": a call under way
    self._is_seeded = False

  def reset(self) -> None:
    """Starts a new game in every lane; seeded the first time.

    Raises:
      RuntimeError: rows are on their way: receive them first.
    """
    if self._waits_for:
      raise RuntimeError("reset with rows on their way: call recv first.")
    seeds = None
    if not self._is_seeded:
      draws = lane_uniform(self._seed, self._ids)
      seeds = [int(x * 2**31) for x in draws]
      if not isinstance(
        self._calls.env.unwrapped, vector.SyncVectorEnv | vector.AsyncVectorEnv
      ):
        seeds = seeds[0]  # one that simulates all lanes at once has one seed
      self._is_seeded = True
    self._over = np.ones(self.num_envs, bool)
    self._calls.begin("reset", seed=seeds)
    self._waits_for = "reset"

  def recv(self) -> Timestep:
    """The next row of every lane; see `World.recv`.

    Raises:
      RuntimeError: no action has been sent.
      LaneError: an environment raised, hangs, or showed what is not in its
        space.
    """
    if not self._waits_for:
      raise RuntimeError(
        "recv with no row on its way: call reset() or send() first."
      )
    is_reset, self._waits_for = self._waits_for == "reset", ""
    first = self._over
    if is_reset:
      raw, infos = self._calls.result()
      obs, mask = self._obs.convert(raw), self._mask(infos)
      self._allowed = mask
      r_t = np.zeros(self.num_envs, np.float32)
      terminated = done = np.zeros(self.num_envs, bool)
    else:
      obs, mask, r_t, terminated, done = self._step_rows(first)
    self._steps = np.where(first, 0, self._steps + 1)
    truncated = (done | (self._steps >= self._cap_steps)) & ~terminated & ~first
    last = terminated | truncated
    self._over, self._done = last, done
    self._log.add(self._ids, r_t, first, last, truncated)
    if mask is not None:  # where the game is over nothing is chosen
      mask = mask | (terminated & ~mask.any(axis=1))[:, None]
    return Timestep(
      obs_t=obs,
      r_t=r_t,
      discount_t=np.where(terminated, 0, 1).astype(np.float32),
      is_first_t=first,
      is_last_t=last,
      env_id=self._ids.copy(),
      action_mask_t=mask,
    )

  def _step_rows(
    self, first: np.ndarray
  ) -> tuple[np.ndarray, Array, np.ndarray, np.ndarray, np.ndarray]:
    """obs, mask, r_t, terminated and done of all lanes, after a step.

    Args:
      first: bool [N], the lanes whose row is the first one of an episode.
    """
    raw, r_t, terminated, truncated, infos = self._calls.result()
    obs, mask = self._obs.convert(raw), self._mask(infos)
    self._allowed = mask
    done = terminated | truncated
    if self._mode == vector.AutoresetMode.SAME_STEP and done.any():
      obs[done] = self._final(infos, done)
      if mask is not None:
        mask = mask.copy()
        mask[done] = self._mask(infos.get("final_info", {}))[done]
    unseen = (
      first
      if self._mode != vector.AutoresetMode.NEXT_STEP
      else (first & ~self._done)
    )
    if unseen.any():
      # These lanes were stepped on, which nobody sees, and now begin.
      self._calls.begin("reset", options={"reset_mask": unseen.copy()})
      raw, infos = self._calls.result()
      obs[unseen] = self._obs.convert(raw)[unseen]
      if mask is not None:
        mask[unseen] = self._allowed[unseen] = self._mask(infos)[unseen]
    return (
      obs,
      mask,
      np.where(first, 0, r_t).astype(np.float32),
      terminated & ~first,
      done & ~first,
    )

  def _mask(self, infos: dict[str, Any]) -> Array:
    """A copy of the lanes' action masks, bool [N, A]; None where not asked for.

    Raises:
      LaneError: there is none, or it is something else.
    """
    if not self.spec.action_mask:
      return None
    mask = np.asarray(infos.get(ACTION_MASK))
    expected = (self.num_envs, self.spec.num_actions)
    if mask.shape != expected or not np.isin(mask, (0, 1)).all():
      raise LaneError(
        f"environment {self._task!r}: infos[{ACTION_MASK!r}]: expected zeros"
        f" and ones {expected}, lanes and actions, got"
        f" {infos.get(ACTION_MASK)!r:.80}; mend the environment"
      )
    return mask.astype(np.bool_)

  def _final(self, infos: dict[str, Any], done: np.ndarray) -> np.ndarray:
    """The last observations of the episodes that ended, [sum(done), ...]."""
    space = self._calls.env.single_observation_space
    final = [infos["final_obs"][i] for i in np.flatnonzero(done)]
    out = vector.utils.create_empty_array(space, len(final))
    return self._obs.convert(vector.utils.concatenate(space, final, out))

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts in the rows just received; see `World.send`."""
    check_actions(a_t, env_id, self.spec.num_actions)
    if len(env_id) != self.num_envs:
      raise ValueError(
        f"expected an action for each of the {self.num_envs} lanes, which step"
        f" together, got {len(env_id)}."
      )
    actions = np.empty(self.num_envs, np.int64)
    actions[env_id] = a_t
    if self._mode == vector.AutoresetMode.DISABLED and self._done.any():
      # Such a lane may not be stepped along without this.
      self._calls.begin("reset", options={"reset_mask": self._done.copy()})
      _, infos = self._calls.result()
      if self._allowed is not None:
        self._allowed[self._done] = self._mask(infos)[self._done]
    if self._allowed is not None:  # the unseen steps keep to the rules too
      refused = self._over & ~self._allowed[self._ids, actions]
      actions[refused] = np.argmax(self._allowed[refused], axis=1)
    self._calls.begin("step", self._actions.convert(actions))
    self._waits_for = "step"

  def render(self) -> np.ndarray | None:
    """What lane 0 shows, uint8 [height, width, 3]; see `screen`."""
    self._calls.begin("render")
    picture = (self._calls.result() or (None,))[0]
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
      return None
    return picture.astype(np.uint8)

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._log.pop()

  def close(self) -> None:
    """Closes the environments; ends the processes, if there are any."""
    self._calls.close()


def spec_of(
  obs: Observations, actions: Actions, *, action_mask: bool
) -> EnvSpec:
  """What a world of such spaces says of itself."""
  return EnvSpec(
    obs.shape,
    obs.dtype,
    actions.num_actions,
    frame_skip=1,
    action_mask=action_mask,
    obs_parts=obs.parts,
  )


def _autoreset_mode(env: vector.VectorEnv) -> vector.AutoresetMode:
  mode = env.metadata.get("autoreset_mode", vector.AutoresetMode.NEXT_STEP)
  try:
    return (
      mode
      if isinstance(mode, vector.AutoresetMode)
      else (vector.AutoresetMode(mode))
    )
  except ValueError as error:
    raise ConfigError(
      f"{env}: expected an autoreset mode of Gymnasium"
      f" ({', '.join(m.value for m in vector.AutoresetMode)}), got {mode!r}"
    ) from error
