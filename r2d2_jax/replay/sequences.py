"""From the rows of many lanes to overlapping items of one episode each.

An episode of T rows, rows 0 .. T-1, becomes the padded run

    burn_in blank rows | row 0 ... row T-1 | blank rows up to the item's end

and item k covers its rows [k S, k S + burn_in + trace_length + lookahead_rows),
where S = trace_length - overlap. The trained part of item k is therefore rows
k S .. k S + trace_length - 1 of the episode, so that every transition t -> t+1
lies in the trained part of at least one item: the first `burn_in` rows of an
episode too (Kapturowski et al., ICLR 2019, section 2.3, says nothing of them;
DEVIATION: many implementations lose them), and so do episodes shorter than an
item. The lookahead, the rows behind the trained part, is there for the returns
of the trained ones: where the episode ends within it, or before it, padding
stands in its place, and as many items are given as its transitions need.

Rows travel in blocks of R = gcd(burn_in, trace_length, overlap, lookahead_rows)
rows, and an item is a run of blocks: neighbouring items share blocks, which
replay stores once.
"""

import collections
import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax import types
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


def _join_carry(carry: Any, num_lanes: int) -> np.ndarray:
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


class SequenceBuilder:
  """Cuts the rows of N lanes into items; see the module's docstring.

  Every operation on a row is vectorised over the lanes; Python runs lane by
  lane only where a block is full or an episode ends.

  Args:
    num_envs: N, lanes; `env_id` is in [0, N).
    spec: what the world says of itself.
    core_state: an example, leading [N] (or any), for shapes and dtypes.
    burn_in: rows before the trained part.
    trace_length: rows of the trained part.
    overlap: rows shared by the trained parts of neighbours, in
      [1, trace_length).
    lookahead_rows: rows behind the trained part.
    lane_ids: int32 [N], the `env_id` under which each lane's rows are stored;
      None stores a lane's own number.
    row_states: keep the carry of every row, not only of items' first rows.
    log_prob: keep the log-probability of every action.

  Raises:
    ValueError: lengths that leave transitions out or make no progress; lane_ids
      of another number of lanes.
  """

  def __init__(
    self,
    num_envs: int,
    *,
    spec: types.EnvSpec,
    core_state: types.CoreState,
    burn_in: int,
    trace_length: int,
    overlap: int,
    lookahead_rows: int = 0,
    lane_ids: np.ndarray | None = None,
    row_states: bool = False,
    log_prob: bool = False,
  ):
    if min(burn_in, lookahead_rows) < 0 or not 1 <= overlap < trace_length:
      raise ValueError(
        "expected burn_in >= 0, lookahead_rows >= 0 and 1 <= overlap < "
        "trace_length (without an overlap the transition between two items is "
        f"lost); got burn_in={burn_in}, trace_length={trace_length}, "
        f"overlap={overlap}, lookahead_rows={lookahead_rows}"
      )
    self._lane_ids = np.asarray(
      np.arange(num_envs) if lane_ids is None else lane_ids
    )
    if self._lane_ids.shape != (num_envs,):
      raise ValueError(
        f"expected one of lane_ids for each of the {num_envs} lanes; got an "
        f"array of shape {self._lane_ids.shape}"
      )
    self._burn_in = burn_in
    self._period = trace_length - overlap
    self._trained_until = burn_in + trace_length  # rows of the item
    self._item_rows = self._trained_until + lookahead_rows
    self._block_rows = math.gcd(burn_in, trace_length, overlap, lookahead_rows)
    self._item_blocks = self._item_rows // self._block_rows

    # The block that each lane is filling. valid_t is made when a block is cut.
    self._specs = row_specs(spec, core_state, row_states, log_prob) | {
      "q_t": ((spec.num_actions,), np.dtype(np.float32))
    }
    lead = (num_envs, self._block_rows)
    self._rows = {
      name: np.zeros(lead + shape, dtype)
      for name, (shape, dtype) in self._specs.items()
      if name != "valid_t"
    }
    self._core_state = core_state
    # The state before the first row of that block, where an item starts there.
    self._state = [
      np.zeros((num_envs,) + x.shape[1:], x.dtype)
      for x in core_leaves(core_state)
    ]

    # Per lane: is an episode running, its rows so far with the padding in front
    # counted, its items so far, its newest blocks.
    self._open = np.zeros(num_envs, np.bool_)
    self._position = np.zeros(num_envs, np.int64)
    self._num_items = np.zeros(num_envs, np.int64)
    self._history = [
      collections.deque(maxlen=self._item_blocks) for _ in range(num_envs)
    ]
    self._blank = self._make_block(
      {
        name: np.zeros((self._block_rows,) + shape, dtype)
        for name, (shape, dtype) in self._specs.items()
      },
      self._core_from([np.zeros_like(x[0]) for x in self._state]),
    )

  def add(
    self,
    timestep: types.Timestep,
    output: types.ActorOutput,
    *,
    num_updates: int = 0,
    step: int = 0,
  ) -> list[Item]:
    """Takes the rows that just happened, returns the items that they complete.

    A row that is last and first at once closes the old episode (as a row with
    its reward and discount) and opens the next one (with the same observation
    and the action now taken). A first row whose predecessor was never marked as
    last (the world was started anew) closes the old episode as a truncation
    does. First rows are stored with action before, reward and state 0, discount
    1.

    Args:
      timestep: B rows, in any order of lanes, each lane at most once.
      output: what the actor made of these rows, in the same order.
      num_updates: updates behind the parameters that acted, for `types.Origin`.
      step: environment steps of the whole run so far, for `types.Origin`.

    Returns:
      Items of B lanes or fewer, each with the actor's state just before its
      first row (zeros where it begins in the padding).

    Raises:
      ValueError: a lane twice or out of range, or one whose first row has not
        come yet.
    """
    lanes = np.asarray(timestep.env_id)
    is_first = np.asarray(timestep.is_first_t, np.bool_)
    is_last = np.asarray(timestep.is_last_t, np.bool_)
    self._check_lanes(lanes, is_first)
    batch = {
      "obs_t": np.asarray(timestep.obs_t),
      "a_tm1": np.asarray(output.a_tm1),
      "r_t": np.asarray(timestep.r_t),
      "discount_t": np.asarray(timestep.discount_t),
      "a_t": np.asarray(output.a_t),
      "q_t": np.asarray(output.q_t),
      "env_id": self._lane_ids[lanes],
      "num_updates": np.full(lanes.size, num_updates),
      "step": np.full(lanes.size, step),
    }
    if "action_mask_t" in self._specs:
      batch["action_mask_t"] = np.asarray(timestep.action_mask_t)
    if "row_carry" in self._specs:
      batch["row_carry"] = _join_carry(output.core_state.carry, lanes.size)
    if "log_prob_t" in self._specs:
      batch["log_prob_t"] = np.asarray(output.log_prob_t)
    items = []
    was_open = self._open[lanes]
    closing = np.flatnonzero(is_first & is_last & was_open)
    if closing.size:
      self._append(
        lanes[closing],
        {name: x[closing] for name, x in batch.items()}
        | {"is_first_t": np.zeros(closing.size, np.bool_)},
        closing,
        output.core_state,
        items,
      )
    for lane in lanes[is_first & was_open]:
      self._end_episode(lane, items)
    for lane in lanes[is_first]:
      self._begin_episode(lane)
    if "row_carry" in batch:
      batch["row_carry"] = batch["row_carry"].copy()
      batch["row_carry"][is_first] = 0
    self._append(
      lanes,
      batch
      | {
        "a_tm1": np.where(is_first, 0, batch["a_tm1"]),
        "r_t": np.where(is_first, 0.0, batch["r_t"]),
        "discount_t": np.where(is_first, 1.0, batch["discount_t"]),
        "is_first_t": is_first,
      },
      np.arange(lanes.size),
      output.core_state,
      items,
    )
    for lane in lanes[is_last & ~is_first]:
      self._end_episode(lane, items)
    return items

  def _check_lanes(self, lanes, is_first):
    num_envs = self._open.size
    if lanes.size and not 0 <= lanes.min() <= lanes.max() < num_envs:
      raise ValueError(
        f"expected env_id in [0, {num_envs}); got {lanes.tolist()}"
      )
    if np.unique(lanes).size != lanes.size:
      raise ValueError(
        f"expected each lane at most once per call; got {lanes.tolist()}"
      )
    lost = lanes[~(self._open[lanes] | is_first)]
    if lost.size:
      raise ValueError(
        f"lanes {lost.tolist()}: expected a row with is_first_t after the end "
        "of an episode and at the start of the stream; got a row in the middle "
        "of an episode. Feed the rows of `reset` too."
      )

  def _begin_episode(self, lane):
    self._open[lane] = True
    self._position[lane] = self._burn_in
    self._num_items[lane] = 0
    self._history[lane].extend(
      [self._blank] * (self._burn_in // self._block_rows)
    )

  def _append(self, lanes, batch, index, core_state, items):
    """Writes one row per lane; `index` says where it stands in core_state."""
    position = self._position[lanes]
    slot = position % self._block_rows
    for name, value in batch.items():
      self._rows[name][lanes, slot] = value
    # The state that the actor had *before* this row, where an item starts here.
    starts = np.flatnonzero(position % self._period == 0)
    if starts.size:
      is_first = batch["is_first_t"][starts]
      for mine, theirs in zip(
        self._state, core_leaves(core_state), strict=True
      ):
        value = theirs[index[starts]]  # a copy
        value[is_first] = 0
        mine[lanes[starts]] = value
    position += 1
    self._position[lanes] = position
    for lane in lanes[position % self._block_rows == 0]:
      self._cut_block(lane, self._block_rows)
      complete = self._position[lane] - self._item_rows
      if complete >= 0 and complete % self._period == 0:
        self._emit(lane, tuple(self._history[lane]), items)

  def _cut_block(self, lane, count):
    """Moves the `count` rows of the lane's block into its history."""
    rows = {}
    for name, buffer in self._rows.items():
      rows[name] = buffer[lane].copy()
      rows[name][count:] = 0
    rows["valid_t"] = np.arange(self._block_rows) < count
    core_state = None
    if (self._position[lane] - count) % self._period == 0:
      core_state = self._core_from([x[lane].copy() for x in self._state])
    self._history[lane].append(self._make_block(rows, core_state))

  def _core_from(self, leaves):
    return core_from_leaves(leaves, self._core_state)

  def _make_block(self, rows, core_state):
    return Block(**rows, core_state=core_state, uid=new_uid())

  def _emit(self, lane, blocks, items):
    items.append(Item(blocks, blocks[0].core_state))
    self._num_items[lane] += 1

  def _end_episode(self, lane, items):
    """Emits padded items as long as one has a transition that no other has.

    Without a lookahead that is one at most.
    """
    position = self._position[lane]
    count = position % self._block_rows
    if count:
      self._cut_block(lane, count)
    history = tuple(self._history[lane])
    # Blocks of the episode that are no longer in history.
    skipped = -(-position // self._block_rows) - len(history)
    while self._has_more(lane):
      first = self._num_items[lane] * self._period // self._block_rows
      blocks = history[first - skipped :]
      blocks += (self._blank,) * (self._item_blocks - len(blocks))
      self._emit(lane, blocks, items)
    self._open[lane] = False
    self._history[lane].clear()

  def _has_more(self, lane) -> bool:
    """Whether the lane's episode has a transition that no item trains."""
    position, num_items = self._position[lane], self._num_items[lane]
    if not num_items:
      return bool(position - self._burn_in > 1)
    covered = (num_items - 1) * self._period + self._trained_until
    return bool(position > covered)

  def state_dict(self) -> dict[str, np.ndarray]:
    """Everything as plain arrays: the open episodes and their newest blocks."""
    state = {
      "open": self._open.copy(),
      "position": self._position.copy(),
      "num_items": self._num_items.copy(),
    }
    state |= {f"rows/{k}": v.copy() for k, v in self._rows.items()}
    state |= {f"state/{i}": v.copy() for i, v in enumerate(self._state)}
    kept = [
      (lane, block)
      for lane, history in enumerate(self._history)
      for block in history
    ]
    state["block_lane"] = np.array([lane for lane, _ in kept], np.int64)
    state["block_is_blank"] = np.array(
      [b is self._blank for _, b in kept], np.bool_
    )
    state["block_has_state"] = np.array(
      [b.core_state is not None for _, b in kept], np.bool_
    )
    for name, (shape, dtype) in self._specs.items():
      stack = np.zeros((len(kept), self._block_rows) + shape, dtype)
      for i, (_, block) in enumerate(kept):
        stack[i] = getattr(block, name)
      state[f"block/{name}"] = stack
    for k, leaf in enumerate(self._state):
      stack = np.zeros((len(kept),) + leaf.shape[1:], leaf.dtype)
      for i, (_, block) in enumerate(kept):
        if block.core_state is not None:
          stack[i] = core_leaves(block.core_state)[k]
      state[f"block_state/{k}"] = stack
    return state

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`; blocks get new uids.

    Raises:
      ValueError: the state is of other lanes, lengths or shapes.
    """
    state = with_new_names(state)
    own = (
      {
        "open": self._open,
        "position": self._position,
        "num_items": self._num_items,
      }
      | {f"rows/{k}": v for k, v in self._rows.items()}
      | {f"state/{i}": v for i, v in enumerate(self._state)}
    )
    for name, array in own.items():
      value = np.asarray(state[name])
      if value.shape != array.shape:
        raise ValueError(
          f"{name}: expected the shape {array.shape} of this configuration; "
          f"got {value.shape}. Restore with the lanes and lengths of the run "
          "that saved it."
        )
      array[...] = with_dtype(value, array.dtype)
    for history in self._history:
      history.clear()
    for i, lane in enumerate(np.asarray(state["block_lane"])):
      if state["block_is_blank"][i]:
        block = self._blank
      else:
        core_state = None
        if state["block_has_state"][i]:
          core_state = self._core_from(
            [
              np.array(with_dtype(state[f"block_state/{k}"][i], mine.dtype))
              for k, mine in enumerate(self._state)
            ]
          )
        block = self._make_block(
          {name: np.array(state[f"block/{name}"][i]) for name in self._specs},
          core_state,
        )
      self._history[lane].append(block)
