"""Whether a world keeps the rows' contract, for authors of worlds."""

from typing import Any

import numpy as np

from r2d2_jax.config import UserError
from r2d2_jax.envs.world import World
from r2d2_jax.parts import num_bytes, split_parts
from r2d2_jax.types import EnvSpec, Timestep


class WorldError(UserError, ValueError):
  """A world breaks the contract of `World`: says which rule, and where."""


def check_world(
  world: World,
  *,
  num_steps: int = 200,
  seed: int = 0,
  twin: World | None = None,
) -> None:
  """Plays random actions in a world, and looks whether it keeps its contract.

  Its spec; shapes, types and finite numbers of every row; that a lane's first
  row follows its last one and nothing else; that discount_t is 0 or 1, and 1
  in a first row; that rows handed out are not written to later; that each game
  that ends is reported once, with its steps and frames; that impossible actions
  are refused. It cannot see whether a last observation is the true one, or a
  reward belongs to its action: give rows that say where they come from, as
  `tests/stamped.py` does.

  Args:
    world: fresh from being made; it is left open, in the middle of its games.
    num_steps: how often all lanes step, on average: some games should end.
    seed: of the actions.
    twin: another world of the same seed, which has to show the same rows.

  Raises:
    WorldError: the first rule that is broken.
  """
  _check_spec(world.spec)
  lanes, batch = world.num_envs, world.batch_size
  _need(0 < batch <= lanes, "batch_size", f"in [1, num_envs={lanes}]", batch)
  chooser = np.random.default_rng(seed)
  audit = _Audit(world)
  worlds = [world] if twin is None else [world, twin]
  for each in worlds:
    each.reset()
  refused = False
  for _ in range(-(-num_steps * lanes // batch)):
    t, *others = [each.recv() for each in worlds]
    for other in others:
      _check_same(t, other)
    audit.rows(t)
    if not refused:
      _check_refusals(world, t.env_id)
      refused = True
    a_t = _random_actions(chooser, t, world.spec.num_actions)
    for each in worlds:
      each.send(a_t, t.env_id)
    audit.reports()


def _check_spec(spec: EnvSpec) -> None:
  shape = spec.obs_shape
  _need(
    isinstance(shape, tuple)
    and all(isinstance(n, int) and n > 0 for n in shape),
    "spec.obs_shape",
    "a tuple of whole numbers above 0",
    shape,
  )
  _need(
    isinstance(spec.obs_dtype, np.dtype)
    and spec.obs_dtype in (np.uint8, np.float32),
    "spec.obs_dtype",
    "np.dtype(np.uint8) or np.dtype(np.float32)",
    repr(spec.obs_dtype),
  )
  if spec.obs_parts:
    _need(
      (shape, spec.obs_dtype)
      == ((sum(map(num_bytes, spec.obs_parts)),), np.uint8),
      "spec.obs_shape, spec.obs_dtype",
      "the bytes of spec.obs_parts, uint8",
      (shape, spec.obs_dtype),
    )
  for name in ("num_actions", "frame_skip"):
    value = getattr(spec, name)
    _need(
      isinstance(value, int) and value >= 1,
      f"spec.{name}",
      "a whole number above 0",
      value,
    )


def _random_actions(
  chooser: np.random.Generator, t: Timestep, num_actions: int
) -> np.ndarray:
  """int32 [B]; of the allowed ones, where rows say which these are."""
  if t.action_mask_t is None:
    a_t = chooser.integers(num_actions, size=len(t.env_id))
  else:
    a_t = [chooser.choice(np.flatnonzero(mask)) for mask in t.action_mask_t]
  return np.asarray(a_t, np.int32)


def _check_refusals(world: World, env_id: np.ndarray) -> None:
  """That actions which would do harm are refused before they act."""
  num_actions, batch = world.spec.num_actions, len(env_id)
  for a_t, what in (
    (np.full(batch, num_actions, np.int32), f"action {num_actions}"),
    (np.full(batch, -1, np.int32), "action -1"),
    (np.zeros(batch, np.float32), "actions of type float32"),
    (np.zeros((batch, 1), np.int32), f"actions of shape {(batch, 1)}"),
  ):
    try:
      world.send(a_t, env_id)
    except ValueError:
      continue
    raise WorldError(
      f"send: expected a ValueError for {what} of {num_actions} actions, got"
      " none; call r2d2_jax.envs.world.check_actions in it"
    )


def _check_same(t: Timestep, other: Timestep) -> None:
  for name, x, y in zip(Timestep._fields, t, other, strict=True):
    _need(
      np.array_equal(x, y),
      name,
      "the same rows of two worlds of one seed",
      "others; does it draw from a generator that is not seeded?",
    )


class _Audit:
  """What has been seen of a world's lanes."""

  def __init__(self, world: World):
    self._world = world
    lanes = world.num_envs
    self._begins = np.ones(lanes, bool)  # the next row has to be a first one
    self._steps = np.zeros(lanes, np.int64)  # of the game under way
    self._last: tuple[Timestep, list[Any]] | None = None
    self._ended: list[tuple[int, int, bool]] = []  # lane, steps, terminated

  def rows(self, t: Timestep) -> None:
    """Looks at the rows of one `recv`."""
    if self._last is not None:
      for name, x, kept in zip(Timestep._fields, *self._last, strict=True):
        _need(
          kept is None or np.array_equal(x, kept),
          f"{name} of the rows before",
          "as it was handed out",
          "changed since: hand out a copy",
        )
    self._shapes(t)
    self._numbers(t)
    for row, lane in enumerate(t.env_id):
      self._row(t, row, int(lane))
    self._last = t, [x if x is None else np.copy(x) for x in t]

  def reports(self) -> None:
    """Looks at the games that have been reported since the last rows."""
    found = [
      (r.env_id, r.episode_steps, not r.truncated)
      for r in self._world.pop_episodes()
      if self._frames(r)
    ]
    _need(
      sorted(found) == sorted(self._ended),
      "pop_episodes",
      f"the games that ended, as (lane, steps, terminated): {self._ended}",
      found,
    )
    self._ended = []

  def _frames(self, report) -> bool:
    frames = report.episode_steps * self._world.spec.frame_skip
    _need(
      report.episode_frames == frames,
      "episode_frames of a report",
      f"steps x frame skip, {frames}",
      report.episode_frames,
    )
    return True

  def _shapes(self, t: Timestep) -> None:
    spec, batch = self._world.spec, self._world.batch_size
    expected = {
      "obs_t": ((batch, *spec.obs_shape), spec.obs_dtype),
      "r_t": ((batch,), np.float32),
      "discount_t": ((batch,), np.float32),
      "is_first_t": ((batch,), np.bool_),
      "is_last_t": ((batch,), np.bool_),
      "env_id": ((batch,), np.int32),
    }
    mask_t = t.action_mask_t
    if spec.action_mask:
      expected["action_mask_t"] = ((batch, spec.num_actions), np.bool_)
    else:
      _need(mask_t is None, "action_mask_t", "None without spec.action_mask", 0)
    for name, (shape, dtype) in expected.items():
      x = getattr(t, name)
      _need(
        isinstance(x, np.ndarray) and (x.shape, x.dtype) == (shape, dtype),
        name,
        f"an array {np.dtype(dtype)} {shape}",
        f"{x.dtype} {x.shape}" if hasattr(x, "dtype") else type(x).__name__,
      )

  def _numbers(self, t: Timestep) -> None:
    lanes, ids = self._world.num_envs, t.env_id
    _need(
      len(set(ids.tolist())) == len(ids)
      and ids.min() >= 0
      and ids.max() < lanes,
      "env_id",
      f"different lanes of {lanes}",
      ids,
    )
    if len(ids) == lanes:
      _need((np.diff(ids) > 0).all(), "env_id", "all lanes in order", ids)
    if t.action_mask_t is not None:
      _need(
        t.action_mask_t.any(axis=1).all(),
        "action_mask_t",
        "an action that may be taken in each row",
        "a row without",
      )
    for name, arrays in (
      ("obs_t", split_parts(t.obs_t, self._world.spec)),
      ("r_t", [t.r_t]),
    ):
      finite = all(np.isfinite(x).all() for x in arrays)
      _need(finite, name, "finite numbers", "NaN or infinity")
    _need(
      np.isin(t.discount_t, (0, 1)).all(),
      "discount_t",
      "0 or 1 (gamma is the agent's)",
      t.discount_t,
    )

  def _row(self, t: Timestep, row: int, lane: int) -> None:
    first, last = bool(t.is_first_t[row]), bool(t.is_last_t[row])
    where = f"lane {lane}, step {self._steps[lane]} of its game"
    begins = self._begins[lane]
    both = first and last  # a lost life: the game goes on
    _need(
      first == begins or both,
      f"is_first_t ({where})",
      "True after a last row and nowhere else" if begins else "False",
      first,
    )
    _need(
      not (begins and last),
      f"is_last_t ({where})",
      "False in a first row: an episode takes a step",
      last,
    )
    _need(
      t.discount_t[row] == 1 or not begins,
      f"discount_t ({where})",
      "1 in a first row",
      0,
    )
    self._steps[lane] = 0 if begins else self._steps[lane] + 1
    self._begins[lane] = last and not first
    if self._begins[lane]:
      over = bool(t.discount_t[row] == 0)
      self._ended.append((lane, int(self._steps[lane]), over))


def _need(ok: bool | np.bool_, what: str, expected: str, got: object) -> None:
  if not ok:
    raise WorldError(f"{what}: expected {expected}, got {got}")
