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
import math

import numpy as np

from r2d2_jax import types
from r2d2_jax.replay.items import (
  Block,
  Item,
  core_from_leaves,
  core_leaves,
  join_carry,
  new_uid,
  row_specs,
  with_dtype,
  with_new_names,
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

  def reads_state(self, timestep: types.Timestep) -> np.ndarray:
    """Of which of these rows `add` will read the recurrent state: bool [B].

    Those in which an item starts, but for an episode's first row, whose state
    is null; with `row_states` all of them. What `output.core_state` holds of
    the others need not be fetched from the device.
    """
    lanes = np.asarray(timestep.env_id)
    if "row_carry" in self._specs:
      return np.ones(lanes.shape, np.bool_)
    is_first = np.asarray(timestep.is_first_t, np.bool_)
    # A row that is first and last closes the episode before.
    goes_on = self._open[lanes] & (~is_first | np.asarray(timestep.is_last_t))
    return goes_on & (self._position[lanes] % self._period == 0)

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
      output: what the actor made of these rows, in the same order; its
        core_state is read where `reads_state` says so.
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
      batch["row_carry"] = join_carry(output.core_state.carry, lanes.size)
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
