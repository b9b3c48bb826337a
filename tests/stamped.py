"""A world whose observation *is* its step index.

Most mistakes of bookkeeping (a row off by one, a reward paired with the wrong
action, an episode that leaks into the next) show at a glance here, because
every row says where it belongs.
"""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from r2d2_jax.envs.world import EpisodeLog, EpisodeReport, check_actions
from r2d2_jax.types import EnvSpec, Timestep

IMAGE_SHAPE = (84, 84)


class StampedRow(NamedTuple):
  """The truth about one row; `a_t` is None until an action was sent in it."""

  episode: int
  step: int
  a_tm1: int  # 0 in a game's first row
  r_t: float
  discount_t: float
  is_first: bool
  is_last: bool
  a_t: int | None


def stamped_reward(step: int, a_tm1: int) -> float:
  """r_t = step + a_tm1 / 16, exact in float32; 0 in a game's first row."""
  return step + a_tm1 / 16 if step else 0.0


def stamped_image(lane: int, episode: int, step: int) -> np.ndarray:
  """uint8 [84, 84]: pixels (0, 0..3): lane, episode, step % 256, its rest."""
  image = np.zeros(IMAGE_SHAPE, np.uint8)
  image[0, :4] = lane, episode % 256, step % 256, step // 256
  return image


class StampedWorld:
  """A `World` from a script, in memory.

  Observations are float32 [B, 2] = (episode, step), or with obs="image" uint8
  [B, 84, 84] as `stamped_image` draws them. Rewards are `stamped_reward`.

  Attributes:
    rows: for every lane all its rows so far, as `StampedRow`.
    sent: (env_id, a_t) of every `send`, copied.
  """

  def __init__(
    self,
    lengths_steps: Sequence[Sequence[int]],
    *,
    truncated: Collection[tuple[int, int]] = (),
    life_losses: Collection[tuple[int, int, int]] = (),
    life_loss: Literal["ignore", "roll", "reset"] = "ignore",
    batch_size: int = 0,
    order_seed: int = 0,
    num_actions: int = 4,
    frame_skip: int = 1,
    obs: Literal["vector", "image"] = "vector",
  ):
    """See the class.

    Args:
      lengths_steps: for every lane the steps of its episodes, in turn and then
        from the start again. n steps are n + 1 rows, steps 0..n.
      truncated: (lane, episode) of the episodes that end by a cap: discount 1.
      life_losses: (lane, episode, step) of the rows in which a life is lost.
      life_loss: what becomes of these rows, as in EnvConfig.
      batch_size: lanes per step; fewer than all arrive in random order.
      order_seed: seed of that order.
      num_actions: actions 0..num_actions-1.
      frame_skip: raw frames per step, for the reports.
      obs: "vector" or "image".
    """
    if any(n < 1 for lane in lengths_steps for n in lane):
      raise ValueError("an episode takes at least one step.")
    self.num_envs = len(lengths_steps)
    self.batch_size = batch_size or self.num_envs
    self.spec = EnvSpec(
      obs_shape=IMAGE_SHAPE if obs == "image" else (2,),
      obs_dtype=np.dtype(np.uint8 if obs == "image" else np.float32),
      num_actions=num_actions,
      frame_skip=frame_skip,
    )
    self.rows: list[list[StampedRow]] = [[] for _ in lengths_steps]
    self.sent: list[tuple[np.ndarray, np.ndarray]] = []
    self._lengths = [tuple(lane) for lane in lengths_steps]
    self._truncated = frozenset(truncated)
    self._life_losses = frozenset(life_losses)
    self._life_loss = life_loss
    self._order = np.random.default_rng(order_seed)
    self._ready: list[int] = []  # lanes that have a row to hand out
    self._awaiting: set[int] = set()  # lanes whose row has been handed out
    self._log = EpisodeLog(self.num_envs, frame_skip)

  def reset(self) -> None:
    """Begins the first episode of every lane, or its next one."""
    for lane in range(self.num_envs):
      episode = self.rows[lane][-1].episode + 1 if self.rows[lane] else 0
      self._append(lane, episode, step=0, a_tm1=0)
    self._ready = list(range(self.num_envs))
    self._awaiting = set()

  def recv(self) -> Timestep:
    """The next `batch_size` rows.

    Raises:
      RuntimeError: too few lanes have been sent an action (a real world would
        wait here for ever).
    """
    if len(self._ready) < self.batch_size:
      raise RuntimeError(
        f"recv needs {self.batch_size} lanes, {len(self._ready)} are ready: "
        "send actions first."
      )
    if self.batch_size == self.num_envs:
      lanes = list(range(self.num_envs))
    else:
      picked = self._order.permutation(len(self._ready))[: self.batch_size]
      lanes = [self._ready[i] for i in picked]
    self._ready = [lane for lane in self._ready if lane not in lanes]
    self._awaiting.update(lanes)
    rows = [self.rows[lane][-1] for lane in lanes]
    game_last = np.array(
      [
        row.step == self._length(lane, row.episode)
        for lane, row in zip(lanes, rows, strict=True)
      ]
    )
    self._log.add(
      env_id=np.array(lanes),
      raw_reward=np.array([row.r_t for row in rows]),
      game_first=np.array([row.step == 0 for row in rows]),
      game_last=game_last,
      truncated=game_last & np.array([row.discount_t == 1 for row in rows]),
    )
    if self.spec.obs_shape == IMAGE_SHAPE:
      obs = [
        stamped_image(i, row.episode, row.step)
        for i, row in zip(lanes, rows, strict=True)
      ]
    else:
      obs = [(row.episode, row.step) for row in rows]
    return Timestep(
      obs_t=np.array(obs, self.spec.obs_dtype),
      r_t=np.array([row.r_t for row in rows], np.float32),
      discount_t=np.array([row.discount_t for row in rows], np.float32),
      is_first_t=np.array([row.is_first for row in rows], bool),
      is_last_t=np.array([row.is_last for row in rows], bool),
      env_id=np.array(lanes, np.int32),
    )

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """Acts in the rows handed out; see `World.send`."""
    a_t, env_id = np.array(a_t), np.array(env_id)
    check_actions(a_t, env_id, self.spec.num_actions)
    self.sent.append((env_id, a_t))
    for lane, action in zip(env_id.tolist(), a_t.tolist(), strict=True):
      if lane not in self._awaiting:
        raise ValueError(f"lane {lane} has no row that waits for an action.")
      self._awaiting.remove(lane)
      self._ready.append(lane)
      row = self.rows[lane][-1]._replace(a_t=action)
      self.rows[lane][-1] = row
      if row.is_last and not row.is_first:  # the action is ignored
        self._append(lane, row.episode + 1, step=0, a_tm1=0)
      else:
        self._append(lane, row.episode, row.step + 1, a_tm1=action)

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    return self._log.pop()

  def close(self) -> None:
    """Nothing to stop."""

  def _length(self, lane: int, episode: int) -> int:
    return self._lengths[lane][episode % len(self._lengths[lane])]

  def _append(self, lane: int, episode: int, step: int, a_tm1: int) -> None:
    over = step == self._length(lane, episode)
    truncated = over and (lane, episode) in self._truncated
    terminated = over and not truncated
    lost = (
      (lane, episode, step) in self._life_losses
      and 0 < step
      and not over
      and self._life_loss != "ignore"
    )
    boundary = lost and self._life_loss == "reset"
    row = StampedRow(
      episode=episode,
      step=step,
      a_tm1=a_tm1,
      r_t=stamped_reward(step, a_tm1),
      discount_t=0.0 if terminated or lost else 1.0,
      is_first=step == 0 or boundary,
      is_last=over or boundary,
      a_t=None,
    )
    self.rows[lane].append(row)
