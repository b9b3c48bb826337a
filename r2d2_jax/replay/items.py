"""Blocks of rows and items of blocks: what is stored, and how it is read.

How episodes become items is `sequences`' subject.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import check_sampled

_UIDS = itertools.count()


def new_uid() -> int:
  """A block's number: one count for the whole process.

  Whatever builders share a replay, and whatever was restored from a file, no
  two blocks have the same one.
  """
  return next(_UIDS)


class Block(NamedTuple):
  """R consecutive rows of one lane (numpy), the unit of storage."""

  obs_t: np.ndarray  # [R, *obs_shape]
  a_tm1: np.ndarray  # int32 [R]
  r_t: np.ndarray  # float32 [R]
  discount_t: np.ndarray  # float32 [R]
  is_first_t: np.ndarray  # bool [R]
  a_t: np.ndarray  # int32 [R]
  valid_t: np.ndarray  # bool [R], False in padding
  env_id: np.ndarray  # int32 [R]; 0 in padding
  # int32 [R], of the parameters that acted; 0 in padding
  num_updates: np.ndarray
  step: np.ndarray  # int64 [R], environment steps of the run; 0 in padding
  # float32 [R, A]; for initial priorities, not stored in replay
  q_t: np.ndarray
  # Of one lane, before the first row; None where no item starts.
  core_state: types.CoreState | None
  uid: int  # unique in this process, increasing
  # [R, units]: the actor's carry
  row_carry: np.ndarray = np.zeros(0, np.float32)
  #   before each row, its leaves side by side, zeros where is_first_t and in
  #   padding; of size 0 where only `core_state` is kept
  # bool [R, A]: the actions that each row allows; of size 0 where worlds do
  # not say
  action_mask_t: np.ndarray = np.zeros(0, np.bool_)
  # float32 [R]; of size 0 where no learner asks
  log_prob_t: np.ndarray = np.zeros(0, np.float32)


class Item(NamedTuple):
  """burn_in + trace_length + lookahead_rows rows: what replay hands out."""

  blocks: tuple[Block, ...]  # consecutive
  core_state: types.CoreState  # of one lane, before the first row


class ItemRows(NamedTuple):
  """What initial priorities are computed from; zeros in the padding."""

  q_t: np.ndarray  # float32 [B, L, A]
  a_t: np.ndarray  # int32 [B, L]
  r_t: np.ndarray  # float32 [B, L]
  discount_t: np.ndarray  # float32 [B, L]
  valid_t: np.ndarray  # bool [B, L]


def row_specs(
  spec: types.EnvSpec,
  core_state: types.CoreState,
  row_states: bool,
  log_prob: bool = False,
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Shape and dtype of one row's fields, as replay stores them.

  Args:
    spec: what the world says of itself.
    core_state: an example, with one leading dimension.
    row_states: whether each row keeps the core's carry.
    log_prob: whether each row keeps the log-probability of its action.
  """
  shape_dtype = {
    "obs_t": (tuple(spec.obs_shape), spec.obs_dtype),
    "a_tm1": ((), np.int32),
    "r_t": ((), np.float32),
    "discount_t": ((), np.float32),
    "is_first_t": ((), np.bool_),
    "a_t": ((), np.int32),
    "valid_t": ((), np.bool_),
    "env_id": ((), np.int32),
    "num_updates": ((), np.int32),
    "step": ((), np.int64),
  }
  if spec.action_mask:
    shape_dtype["action_mask_t"] = ((spec.num_actions,), np.bool_)
  if row_states:
    dtype = _row_carry_dtype(core_state.carry)
    num_bytes = sum(_row_carry_bytes(core_state.carry))
    shape_dtype["row_carry"] = ((num_bytes // dtype.itemsize,), dtype)
  if log_prob:
    shape_dtype["log_prob_t"] = ((), np.float32)
  return {k: (s, np.dtype(d)) for k, (s, d) in shape_dtype.items()}


def stored_specs(
  config: Config, spec: types.EnvSpec, core_state: types.CoreState
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """`row_specs` of what a run of these settings stores."""
  return row_specs(
    spec, core_state, config.replay.row_states, config.agent.has_policy
  )


def core_leaves(core_state: types.CoreState) -> list[np.ndarray]:
  """The arrays of a core state, frames first; `core_from_leaves` undoes it."""
  return [np.asarray(x) for x in jax.tree.leaves(core_state)]


def core_from_leaves(leaves, like: types.CoreState) -> types.CoreState:
  """The inverse of `core_leaves`; `like` has the structure."""
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def with_dtype(saved: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """A saved array as what it was: numpy's files do not know bfloat16."""
  if saved.dtype.kind == "V" and saved.dtype.itemsize == dtype.itemsize:
    return saved.view(dtype)
  return saved


def with_new_names(saved: dict[str, Any]) -> dict[str, Any]:
  """The same by the names of today; row_carry was row_lstm in version 0.1."""
  return {k.replace("row_lstm", "row_carry"): x for k, x in saved.items()}


def as_sample(
  rows: dict[str, np.ndarray],
  core_state: types.CoreState,
  *,
  probability: np.ndarray,
  keys: np.ndarray,
  times_sampled: np.ndarray,
) -> types.ReplaySample:
  """Puts stored fields [B, L, ...] in the form that learner and metrics read.

  Raises:
    ReplayError: a probability that is not finite or not above 0.
  """
  check_sampled(probability, keys)
  # Of an item's rows, some may be padding; the others are of one lane.
  a_row = np.argmax(rows["valid_t"], axis=1)
  return types.ReplaySample(
    sequence=types.Sequence(
      inputs=types.AgentInputs(
        obs_t=rows["obs_t"],
        a_tm1=rows["a_tm1"],
        r_t=rows["r_t"],
        is_first_t=rows["is_first_t"],
        action_mask_t=rows.get("action_mask_t"),
      ),
      a_t=rows["a_t"],
      discount_t=rows["discount_t"],
      valid_t=rows["valid_t"],
      core_state=core_state,
      log_prob_t=rows.get("log_prob_t"),
    ),
    probability=probability,
    keys=keys,
    origin=types.Origin(
      env_id=rows["env_id"][np.arange(len(a_row)), a_row],
      num_updates=rows["num_updates"],
      step=rows["step"],
      times_sampled=times_sampled,
    ),
    row_carry=_split_carry(rows["row_carry"], core_state.carry)
    if "row_carry" in rows
    else None,
  )


def _row_carry_dtype(carry: Any) -> np.dtype:
  """float32 where all leaves are, else the leaves' bytes are kept."""
  all_float = all(x.dtype == np.float32 for x in jax.tree.leaves(carry))
  return np.dtype(np.float32 if all_float else np.uint8)


def _row_carry_bytes(carry: Any) -> list[int]:
  """What each leaf [B, ...] takes in one row."""
  return [
    math.prod(x.shape[1:]) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(carry)
  ]


def join_carry(carry: Any, num_lanes: int) -> np.ndarray:
  """The leaves [B, ...] side by side, [B, units]; [B, 0] for a core without."""
  parts = [
    np.ascontiguousarray(x).reshape(num_lanes, math.prod(x.shape[1:]))
    for x in jax.tree.leaves(carry)
  ]
  joined = np.concatenate(
    [np.zeros((num_lanes, 0), np.uint8), *(x.view(np.uint8) for x in parts)],
    axis=1,
  )
  return joined.view(_row_carry_dtype(carry))


def _split_carry(joined: np.ndarray, like: Any) -> Any:
  """The inverse, of rows [B, L, units]; `like` is the carry of B lanes."""
  leaves, structure = jax.tree.flatten(like)
  ends = np.cumsum(_row_carry_bytes(like), dtype=int)[:-1]
  parts = np.split(joined.view(np.uint8), ends, axis=2)
  return jax.tree.unflatten(
    structure,
    [
      np.ascontiguousarray(part)
      .view(x.dtype)
      .reshape(joined.shape[:2] + x.shape[1:])
      # Not strict: a core without state has no leaf, np.split gives one part.
      for part, x in zip(parts, leaves, strict=False)
    ],
  )


def stack_items(items: list[Item]) -> ItemRows:
  """The rows of items side by side, [B, L, ...], for initial priorities."""
  return ItemRows(
    *(
      np.stack(
        [
          np.concatenate([getattr(b, name) for b in item.blocks])
          for item in items
        ]
      )
      for name in ItemRows._fields
    )
  )
