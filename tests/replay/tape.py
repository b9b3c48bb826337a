"""A stamped world played into a SequenceBuilder, and items by brute force."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax import types
from r2d2_jax.replay.items import Item
from r2d2_jax.replay.sequences import SequenceBuilder
from tests.stamped import StampedWorld

NUM_ACTIONS = 4
SEQUENCE_FIELDS = (
  "obs_t",
  "a_tm1",
  "r_t",
  "discount_t",
  "is_first_t",
  "a_t",
  "valid_t",
)


class Lengths(NamedTuple):
  burn_in: int
  trace_length: int
  overlap: int

  @property
  def period(self):
    return self.trace_length - self.overlap

  @property
  def item_rows(self):
    return self.burn_in + self.trace_length


class Tape(NamedTuple):
  world: StampedWorld
  items: list[list[Item]]  # per lane, as they came
  # (lane, episode, step) -> the frames that the actor saw in that row
  stacks: dict[tuple[int, int, int], np.ndarray]
  # (lane, episode, step) -> what was said of that row: (num_updates, step)
  origins: dict[tuple[int, int, int], tuple[int, int]]


class StampingActor:
  """Says in q_t and in the recurrent state which row it was asked about.

  q_t = (lane, episode, step, action + 0.5); c = (lane, episode, step) just
  before the row, h = -c; frames = the last 3 frames before the row, by the
  stack rule; log_prob_t = -step - 0.5. `make_carry` makes another carry of c,
  zeros of zeros.
  """

  def __init__(
    self,
    world: StampedWorld,
    make_carry: Callable[[np.ndarray], Any] = lambda c: (c, -c),
  ):
    n = world.num_envs
    self._world = world
    self._make_carry = make_carry
    self._random = np.random.default_rng(0)
    self._a_tm1 = np.zeros(n, np.int32)
    self._frames = np.zeros((n, 3) + world.spec.obs_shape, world.spec.obs_dtype)

  def example(self) -> types.CoreState:
    c = np.zeros((self._world.num_envs, 3), np.float32)
    return types.CoreState(self._frames, self._make_carry(c))

  def step(self, timestep: types.Timestep):
    """(output, what the torso saw [B, 4, ...])."""
    lanes = timestep.env_id
    rows = [self._world.rows[lane][-1] for lane in lanes]
    c = np.array(
      [
        (lane, row.episode, row.step)
        for lane, row in zip(lanes, rows, strict=True)
      ],
      np.float32,
    )
    a_t = self._random.integers(0, NUM_ACTIONS, lanes.size).astype(np.int32)
    q_t = np.concatenate([c, a_t[:, None] + 0.5], axis=1, dtype=np.float32)
    before = self._frames[lanes]
    output = types.ActorOutput(
      a_t,
      self._a_tm1[lanes],
      q_t,
      types.CoreState(before, self._make_carry(c)),
      -c[:, 2] - 0.5,
    )
    seen = before.copy()
    seen[timestep.is_first_t] = timestep.obs_t[timestep.is_first_t, None]
    stack = np.concatenate([seen, timestep.obs_t[:, None]], axis=1)
    self._frames[lanes] = stack[:, 1:]
    self._a_tm1[lanes] = a_t
    return output, stack


def make_builder(world, actor, lengths: Lengths, **kwargs) -> SequenceBuilder:
  return SequenceBuilder(
    world.num_envs,
    spec=world.spec,
    core_state=actor.example(),
    **lengths._asdict(),
    **kwargs,
  )


def play(
  world: StampedWorld,
  lengths: Lengths,
  num_steps: int,
  *,
  actor: StampingActor | None = None,
  **kwargs,
) -> Tape:
  """Plays `num_steps` calls of recv."""
  actor = actor or StampingActor(world)
  builder = make_builder(world, actor, lengths, **kwargs)
  items = [[] for _ in range(world.num_envs)]
  stacks, origins = {}, {}
  world.reset()
  for call in range(num_steps):
    timestep = world.recv()
    output, stack = actor.step(timestep)
    origin = 1 + call // 10, 2**40 + call
    for item in builder.add(
      timestep, output, num_updates=origin[0], step=origin[1]
    ):
      items[lane_of(item)].append(item)
    for lane, frames in zip(timestep.env_id, stack, strict=True):
      row = world.rows[lane][-1]
      stacks[lane, row.episode, row.step] = frames
      origins[lane, row.episode, row.step] = origin
    world.send(output.a_t, timestep.env_id)
  return Tape(world, items, stacks, origins)


def column(item: Item, name: str) -> np.ndarray:
  """One field of an item's rows, [L, ...]."""
  return np.concatenate([getattr(block, name) for block in item.blocks])


def lane_of(item: Item) -> int:
  return int(column(item, "q_t")[column(item, "valid_t")][0, 0])


def episodes(world: StampedWorld, lane: int):
  """(rows, is it over) of each episode so far; a row that is last and first
  belongs to two. The row that still waits for its action is left out."""
  running = []
  for row in world.rows[lane]:
    if row.a_t is None:
      break
    if row.is_first and row.is_last and running:
      yield running + [row._replace(is_first=False)], True
      running = []
    if row.is_first:
      row = row._replace(a_tm1=0, r_t=0.0, discount_t=1.0)
    running.append(row)
    if row.is_last and not row.is_first:
      yield running, True
      running = []
  if running:
    yield running, False


def expected_items(world: StampedWorld, lane: int, lengths: Lengths):
  """The rows of each item, None in the padding, one row at a time."""
  for rows, over in episodes(world, lane):
    padded = [None] * lengths.burn_in + rows
    trained_until = 0  # the last row so far that ends a trained transition
    start = 0
    while trained_until < len(rows) - 1:
      item = padded[start : start + lengths.item_rows]
      if len(item) < lengths.item_rows and not over:
        break
      yield item + [None] * (lengths.item_rows - len(item))
      trained_until = start + lengths.trace_length - 1
      start += lengths.period


# Carries of other cores: an array, as a GRU's; leaves of several shapes and
# dtypes.
CARRIES = {
  "gru": lambda c: c,
  "dict": lambda c: {
    "sum": c.astype(np.float32),
    "half": (-c).astype(jnp.bfloat16),
    "image": np.stack([c, 2 * c], axis=2).astype(np.float64),
    "inner": {"step": c[:, 2].astype(np.int32), "seen": c > 0},
    "nothing": (),
  },
}


def expected_carry(item: Item, make_carry: Callable[[np.ndarray], Any]) -> Any:
  """What `StampingActor` said before each row of an item, leaves [L, ...]."""
  keeps = column(item, "valid_t") & ~column(item, "is_first_t")
  return make_carry(column(item, "q_t")[:, :3] * keeps[:, None])


def assert_same_tree(got: Any, want: Any) -> None:
  """Structure, shapes, dtypes and every number."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a, b)
