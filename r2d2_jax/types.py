"""Every value that crosses from one room to another, and the row convention.

Dimensions
    N   lanes: environments that step side by side
    B   batch: lanes of one `step`, or items of one learner batch
    L   rows of one replay item: burn-in + trace
    T   rows of an unroll
    R   rows of one block, the unit in which replay stores rows
    A   actions
    k   frames that the torso sees at once (4 on Atari, 1 elsewhere)

Rows
    Row t holds what *arrived together*, then what was done:

        obs_t, a_tm1, r_t, discount_t, is_first_t | a_t

    so `r_t` and `discount_t` are the consequence of `a_tm1`, and the transition
    that starts in row t reads its reward from row t + 1. On a run of rows
    rlax's names are slices: q_tm1 = q[:-1], a_tm1 = a_t[:-1], r_t = r_t[1:],
    discount_t = gamma * discount_t[1:], q_t = q[1:].

    `discount_t` is the environment's own: 0.0 where the episode terminated (or,
    if asked for, a life was lost), else 1.0. Gamma enters in `agent/targets.py`
    alone. A row that ends an episode starts no transition. Truncation keeps
    discount 1 and bootstraps from the last observation, which the row carries.

    `valid_t` is False in padding. Padding behaves like the end of the item,
    never like a terminal state.

The frame stack is part of the recurrent state
    Environments yield single frames, replay stores single frames, and the
    networks rebuild the stack: `CoreState` is (the last k - 1 frames, the
    core's carry).
"""

from typing import Any, NamedTuple

import numpy as np

# numpy on the host, jax on the device. jax is not imported here, so that
# command lines can read this module quickly.
Array = Any
Params = Any


class Timestep(NamedTuple):
  """One row for each of B lanes as it comes out of the world (numpy, host).

  A row may be last and first at once: with life loss treated as an episode end
  in *reset* mode, the row in which the life was lost ends one episode and, the
  game going on from the same observation, begins the next one.
  """

  obs_t: Array  # uint8 (or float32) [B, ...]: single frames, Atari [B, 84, 84]
  r_t: Array  # float32 [B], the reward that the agent learns from
  discount_t: Array  # float32 [B], 0.0 or 1.0; 1.0 on truncation
  is_first_t: Array  # bool [B]; the row's r_t and action before it mean nothing
  is_last_t: Array  # bool [B]; terminated or truncated (life lost, reset mode)
  env_id: Array  # int32 [B], the lane that each row belongs to
  # bool [B, A], the actions that may be taken in the row, at least one; None
  # where all may (spec.action_mask is False). A truncated row has those of its
  # last observation, a terminated one, in which nothing is chosen, any.
  action_mask_t: Array = None


class AgentInputs(NamedTuple):
  """What the networks read: leading [B] for `step`, [T, B] for `unroll`."""

  obs_t: Array  # [..., *obs_shape]
  a_tm1: Array  # int32 [...]; ignored where is_first_t
  r_t: Array  # float32 [...]; ignored where is_first_t
  is_first_t: Array  # bool [...]
  action_mask_t: Array = None  # bool [..., A]; None: all may be taken


class CoreState(NamedTuple):
  """The whole recurrent state: what acting carries from row to row."""

  frames: Array  # [B, k - 1, *obs_shape], oldest first, dtype of obs
  carry: Any  # of the core: any pytree of arrays [B, ...]. An LSTM's is (c, h),
  #             float32 [B, D] each; a GRU's one array; () where it has none


class ActorState(NamedTuple):
  """What N lanes carry between calls of `actor_step`."""

  core_state: CoreState  # leading [N]
  a_tm1: Array  # int32 [N]
  # typed PRNG keys [N]: one stream per lane, whatever the arrival order
  key: Array


class ActorOutput(NamedTuple):
  """What acting hands to the world and to replay, for B lanes that stepped."""

  a_t: Array  # int32 [B], the action to take (epsilon-greedy, or of a policy)
  a_tm1: Array  # int32 [B], the action before it: completes the row
  # float32 [B, A], for the initial priority, networks.MASKED_Q where an action
  # is masked; an agent without values gives its policy's log-probabilities
  q_t: Array
  core_state: CoreState  # the state *before* this row, leading [B]
  # float32 [B], log mu(a_t), the chance with which it was chosen; None where no
  # learner asks
  log_prob_t: Array | None = None


class Sequence(NamedTuple):
  """Rows of one item [L, ...] or of a batch of items [B, L, ...]."""

  inputs: AgentInputs  # [..., L, ...]
  a_t: Array  # int32 [..., L]
  discount_t: Array  # float32 [..., L]
  valid_t: Array  # bool [..., L], False in padding
  core_state: CoreState  # before the first row, once per item: [...]
  log_prob_t: Array | None = None  # float32 [..., L], as `ActorOutput` has it


class Origin(NamedTuple):
  """Where the rows of a batch come from, for health metrics (numpy, host)."""

  env_id: Array  # int32 [B], the lane that an item comes from
  num_updates: Array  # int32 [B, L], of the parameters that acted; 0 in padding
  step: Array  # int64 [B, L], the run's environment steps then; 0 in padding
  # int32 [B], how often an item was drawn, this draw included
  times_sampled: Array


class ReplaySample(NamedTuple):
  """A batch as replay hands it out."""

  sequence: Sequence  # [B, L, ...]
  # float64 [B], of being sampled, given the table at that time
  probability: Array
  keys: Array  # uint64 [B]; stays on the host
  origin: Origin | None = None  # stays on the host
  # With replay.row_states: the actor's carry before each row, like
  # core_state.carry with leading [B, L]; zeros where is_first_t and in padding;
  # stays on the host.
  row_carry: Any = None


class LearnerState(NamedTuple):
  """The learner's whole state: arrays alone, to be saved and donated."""

  params: Params
  target_params: Params  # () where an algorithm has no target network
  opt_state: Any
  num_updates: Array  # int32 []


class LearnerOutput(NamedTuple):
  """What one update hands back."""

  priorities: Array  # float32 [B], before the exponent
  metrics: dict[str, Array]  # float32 scalars
  td_abs_by_row: Array  # float32 [T-1], mean |td| at each trained position


class ObsPart(NamedTuple):
  """One array of an observation that has several."""

  shape: tuple[int, ...]  # an image's [H, W] or [H, W, C]; [n] of n numbers
  dtype: np.dtype


class EnvSpec(NamedTuple):
  """What a world says of itself; all that the agent and replay need to know."""

  obs_shape: tuple[int, ...]  # of one frame, without the stack
  obs_dtype: np.dtype
  num_actions: int
  frame_skip: int  # raw frames per agent step: frames = steps * frame_skip
  action_mask: bool = False  # whether rows say which actions may be taken
  # Of an observation of several arrays, images first, which obs_t then has as
  # bytes, uint8 [bytes], one after the other (`parts`); else empty
  obs_parts: tuple[ObsPart, ...] = ()
