"""Leg `replay`: rows written, items sampled, bytes kept, and how they scale.

Real Pong frames, recorded first and then fed again and again; recurrent states
and values are random numbers of the right shapes. Written is what
`SequenceBuilder` cuts and the replay takes, one process, one thread.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import dataclasses
import gc
import itertools
from typing import Any, NamedTuple

import envpool
import numpy as np

from experiments.benchmark.acting import random_play
from experiments.benchmark.legs import Settings
from experiments.benchmark.rates import units_per_second
from experiments.benchmark.results import (
  Comparison,
  LegResult,
  Spread,
  Table,
  at_least,
  spread,
)
from experiments.benchmark.workload import PONG
from r2d2_jax.config import Config, EnvConfig
from r2d2_jax.envs.make import make_world
from r2d2_jax.presets import laptop, paper
from r2d2_jax.replay.make import make_replay
from r2d2_jax.replay.sequences import Item, SequenceBuilder, new_uid
from r2d2_jax.types import ActorOutput, CoreState, EnvSpec, Timestep

# Items that go to the replay in one call: the fewest that the actor loop hands
# over.
_INSERT_ITEMS = 16


class _Size(NamedTuple):
  lanes: int
  rounds: int
  periods: int  # items of each lane that are written in a round
  batches: int  # sampled in a round
  layout_lanes: int
  layout_items: int  # of each lane, in the table of bytes
  levels: tuple[int, ...]  # items held, in the table of costs
  level_items: int  # inserted in a round of that table


_FULL = _Size(64, 7, 8, 16, 8, 6, (1_000, 10_000, 100_000), 512)
_TOY = _Size(2, 2, 2, 1, 2, 2, (32, 64), 16)


def measure(settings: Settings) -> LegResult:
  """Rows written and items sampled per second, bytes per row, flatness."""
  size = _TOY if settings.toy else _FULL
  skipped, backends = [], []
  for backend in ("reverb", "local"):
    try:
      _replay(_small_config(backend), _SMALL).close()
      backends.append(backend)
    except ImportError as error:
      skipped.append(f"replay, {backend}: {error}")
  comparisons, throughput = _throughput(size, backends)
  return LegResult(
    comparisons,
    [throughput, _bytes(size, backends), _flatness(size, backends)],
    skipped,
  )


# A stream of rows.


class _Rows(NamedTuple):
  """One row of every lane, as the actor loop has it in hand."""

  timestep: Timestep
  output: ActorOutput


def _record(
  timesteps: Iterator[Timestep],
  spec: EnvSpec,
  *,
  rows: int,
  core_units: int,
  frame_stack: int,
) -> list[_Rows]:
  """Rows that never begin or end an episode, but for the very first."""
  rng = np.random.default_rng(0)
  earlier = frame_stack - 1  # frames that the state before a row holds
  obs_t = [next(timesteps).obs_t for _ in range(rows + earlier)]
  lanes = len(obs_t[0])
  actions = lambda: rng.integers(0, spec.num_actions, lanes, np.int32)
  floats = lambda *shape: rng.standard_normal((lanes, *shape)).astype(
    np.float32
  )
  recorded = []
  for t in range(rows):
    frames = np.empty((lanes, earlier, *spec.obs_shape), spec.obs_dtype)
    for j in range(earlier):
      frames[:, j] = obs_t[t + j]
    recorded.append(
      _Rows(
        Timestep(
          obs_t=obs_t[t + earlier],
          r_t=np.zeros(lanes, np.float32),
          discount_t=np.ones(lanes, np.float32),
          is_first_t=np.full(lanes, t == 0),
          is_last_t=np.zeros(lanes, bool),
          env_id=np.arange(lanes, dtype=np.int32),
        ),
        ActorOutput(
          a_t=actions(),
          a_tm1=actions(),
          q_t=floats(spec.num_actions),
          core_state=CoreState(
            frames, (floats(core_units), floats(core_units))
          ),
        ),
      )
    )
  return recorded


class _Writer:
  """Feeds recorded rows to a builder, and its items to `insert`."""

  def __init__(
    self,
    config: Config,
    spec: EnvSpec,
    recorded: list[_Rows],
    insert: Callable[[list[Item], np.ndarray], None],
  ):
    self._lanes = len(recorded[0].timestep.env_id)
    self._stream = itertools.chain(
      recorded, itertools.cycle([_in_the_middle(rows) for rows in recorded])
    )
    self._builder = SequenceBuilder(
      self._lanes,
      spec=spec,
      core_state=recorded[0].output.core_state,
      burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length,
      overlap=config.agent.overlap,
    )
    self._insert = insert
    self._pending: list[Item] = []
    self.num_items = 0

  def step(self) -> int:
    """Writes one row of every lane; returns how many that are."""
    rows = next(self._stream)
    self._pending += self._builder.add(rows.timestep, rows.output)
    while len(self._pending) >= _INSERT_ITEMS:
      self._insert(
        self._pending[:_INSERT_ITEMS], np.ones(_INSERT_ITEMS, np.float32)
      )
      del self._pending[:_INSERT_ITEMS]
      self.num_items += _INSERT_ITEMS
    return self._lanes

  def write_items(self, count: int) -> int:
    """Writes until that many more items are in; returns the rows it took."""
    goal = self.num_items + count
    rows = 0
    while self.num_items < goal:
      rows += self.step()
    return rows


def _in_the_middle(rows: _Rows) -> _Rows:
  no = np.zeros_like(rows.timestep.is_first_t)
  return rows._replace(timestep=rows.timestep._replace(is_first_t=no))


def _replay(config: Config, spec: EnvSpec) -> Any:
  """An empty replay for states as `_record` makes them."""
  frames = np.zeros(
    (1, config.network.frame_stack - 1, *spec.obs_shape), spec.obs_dtype
  )
  lstm = np.zeros((1, config.network.core_units), np.float32)
  return make_replay(config, spec, CoreState(frames, (lstm, lstm)))


def _period(config: Config) -> int:
  """Rows from one item of a lane to its next."""
  return config.agent.trace_length - config.agent.overlap


# Rows and items per second.


def _throughput(
  size: _Size, backends: list[str]
) -> tuple[list[Comparison], Table]:
  env = EnvConfig(task="Pong", num_envs=size.lanes, full_action_space=False)
  comparisons, rows = [], []
  with contextlib.closing(make_world(env, seed=0)) as world:
    frames = list(itertools.islice(random_play(world), 130))
  for preset in (laptop(), paper()):
    agent = preset.agent
    lengths = f"{agent.burn_in} + {agent.trace_length} by {_period(preset)}"
    recorded = _record(
      iter(frames),
      PONG,
      rows=120,
      core_units=preset.network.core_units,
      frame_stack=preset.network.frame_stack,
    )
    for backend in ("items dropped", *backends):
      config = dataclasses.replace(preset, env=env)
      written, sampled = _write_and_sample(config, backend, recorded, size)
      rows.append((lengths, backend, written, sampled))
      if backend == "reverb":
        comparisons.append(
          at_least(
            f"replay, Reverb, items of {lengths} rows: rows written per second",
            written,
            80_000,
          )
        )
  return comparisons, Table(
    f"Replay: Pong's frames, {size.lanes} lanes, one process",
    (
      "items: burn-in + trace by rows apart",
      "replay",
      "rows written/s",
      "items sampled/s",
    ),
    rows,
    "Sampled in batches of the preset (16 and 64 items), while nothing is"
    " written.",
  )


def _write_and_sample(
  config: Config, backend: str, recorded: list[_Rows], size: _Size
) -> tuple[Spread, Spread | str]:
  calls = size.periods * _period(config)
  with contextlib.ExitStack() as stack:
    if backend == "items dropped":
      insert = lambda items, priorities: None
    else:
      config = config.updated({"replay.backend": backend})
      replay = stack.enter_context(contextlib.closing(_replay(config, PONG)))
      insert = replay.insert
    writer = _Writer(config, PONG, recorded, insert)
    # Past the first items, which begin in the padding.
    units_per_second(writer.step, calls=2 * config.item_rows)
    written = [
      units_per_second(writer.step, calls=calls) for _ in range(size.rounds)
    ]
    if backend == "items dropped":
      return spread(written), "-"
    batch_size = config.agent.batch_size
    sampled = _sampling_rates(replay, batch_size, size.batches, size.rounds)
  return spread(written), spread(sampled)


def _sampling_rates(
  replay: Any, batch_size: int, batches: int, rounds: int
) -> list[float]:
  """Items per second of so many batches a round."""
  sample = lambda: len(replay.sample(batch_size, timeout_seconds=60.0).keys)
  # What was fetched ahead while nobody sampled came for nothing.
  units_per_second(sample, calls=4)
  return [units_per_second(sample, calls=batches) for _ in range(rounds)]


# Bytes.


class _Layout(NamedTuple):
  name: str
  spec: EnvSpec
  frame_stack: int  # of the network that would read it
  shared: bool  # rows that items share are stored once
  timesteps: Callable[[int], Iterator[Timestep]]  # lanes -> rows


def _bytes(size: _Size, backends: list[str]) -> Table:
  """Bytes per row by layout: as they come, and as the replay keeps them."""
  config = paper()
  period = _period(config)
  grey = lambda lanes: _play(lanes, 1)
  stacked = PONG._replace(obs_shape=(84, 84, 4))
  layouts = [
    _Layout(
      "colour frame 210 x 160 x 3, whole items",
      PONG._replace(obs_shape=(3, 210, 160)),
      1,
      False,
      _play_colour,
    ),
    _Layout(
      "4 stacked grey frames 84 x 84, whole items",
      stacked,
      1,
      False,
      lambda lanes: _play(lanes, 4),
    ),
    _Layout("single grey frames 84 x 84, whole items", PONG, 4, False, grey),
    _Layout(
      "single grey frames, blocks shared by items (as here)",
      PONG,
      4,
      True,
      grey,
    ),
  ]
  rows = []
  for layout in layouts:
    steps = config.item_rows + (size.layout_items - 1) * period
    recorded = _record(
      layout.timesteps(size.layout_lanes),
      layout.spec,
      rows=steps,
      core_units=config.network.core_units,
      frame_stack=layout.frame_stack,
    )
    observation = int(np.prod(layout.spec.obs_shape))
    copies = 1 if layout.shared else config.item_rows / period
    kept = [
      _kept_bytes_per_row(config, layout, recorded, backend)
      if backend == "reverb" or layout.shared
      else "-"
      for backend in backends
    ]
    rows.append((layout.name, observation, copies, *kept))
  return Table(
    "Bytes per row of experience (Pong, random play, the paper's items of"
    f" {config.item_rows} rows every {period})",
    (
      "layout",
      "bytes of one observation",
      "copies of it",
      *(f"kept by {backend}, bytes/row" for backend in backends),
    ),
    rows,
    "Kept: memory in use per row more, from malloc's own counts, everything"
    " included: actions, rewards, states. Reverb compresses, the local replay"
    " does not.",
  )


def _kept_bytes_per_row(
  config: Config, layout: _Layout, recorded: list[_Rows], backend: str
) -> float:
  config = config.updated(
    {
      "replay.backend": backend,
      "env.num_envs": len(recorded[0].timestep.env_id),
      "network.frame_stack": layout.frame_stack,
    }
  )
  with contextlib.closing(_replay(config, layout.spec)) as replay:
    insert = replay.insert
    if not layout.shared:
      insert = lambda items, priorities: replay.insert(
        [_alone(item) for item in items], priorities
      )
    writer = _Writer(config, layout.spec, recorded, insert)
    # The first items are half padding.
    writer.write_items(2 * _INSERT_ITEMS)
    before, rows = _bytes_in_use(), 0
    while rows + config.env.num_envs * config.item_rows < (
      len(recorded) * config.env.num_envs
    ):
      rows += writer.write_items(_INSERT_ITEMS)
    return (_bytes_in_use() - before) / rows


def _alone(item: Item) -> Item:
  """The item with blocks that no other item has."""
  return item._replace(
    blocks=tuple(block._replace(uid=new_uid()) for block in item.blocks)
  )


def _play(lanes: int, frame_stack: int) -> Iterator[Timestep]:
  """Pong at random, single frames or stacks of them."""
  env = EnvConfig(task="Pong", num_envs=lanes, full_action_space=False)
  with contextlib.closing(make_world(env, seed=0)) as world:
    newest = []
    for timestep in random_play(world):
      newest = [*newest, timestep.obs_t][-frame_stack:]
      if len(newest) < frame_stack:
        continue
      if frame_stack > 1:
        timestep = timestep._replace(obs_t=np.stack(newest, axis=-1))
      yield timestep


def _play_colour(lanes: int) -> Iterator[Timestep]:
  """Pong at random, the frames as the console draws them."""
  pool = envpool.make_gymnasium(
    "Pong-v5",
    num_envs=lanes,
    stack_num=1,
    gray_scale=False,
    img_height=210,
    img_width=160,
    use_fire_reset=False,
  )
  rng = np.random.default_rng(0)
  nothing = np.zeros(lanes)
  obs, _ = pool.reset()
  while True:
    yield Timestep(obs, nothing, nothing, nothing, nothing, nothing)
    obs = pool.step(rng.integers(0, PONG.num_actions, lanes, np.int32))[0]


class _MallocCounts(ctypes.Structure):
  """glibc's struct mallinfo2."""

  _fields_ = [
    (name, ctypes.c_size_t)
    for name in (
      "arena",
      "ordblks",
      "smblks",
      "hblks",
      "hblkhd",
      "usmblks",
      "fsmblks",
      "uordblks",
      "fordblks",
      "keepcost",
    )
  ]


def _bytes_in_use() -> int:
  """Bytes that the process holds from malloc, numpy's and Reverb's alike."""
  gc.collect()
  libc = ctypes.CDLL(None)
  libc.mallinfo2.restype = _MallocCounts
  counts = libc.mallinfo2()
  return counts.uordblks + counts.hblkhd


# Flatness.

_SMALL = EnvSpec((8,), np.dtype(np.uint8), num_actions=6, frame_skip=1)


def _small_config(backend: str) -> Config:
  """The laptop preset's items over rows of a few bytes."""
  return laptop().updated(
    {
      "env.num_envs": 64,
      "network.frame_stack": 1,
      "network.core_units": 8,
      "replay.backend": backend,
    }
  )


def _flatness(size: _Size, backends: list[str]) -> Table:
  """Microseconds per item inserted, sampled, updated, by items held."""
  rows = []
  for backend in backends:
    config = _small_config(backend).updated(
      {"replay.capacity_sequences": size.levels[-1], "replay.min_sequences": 16}
    )
    recorded = _record(
      _noise(config.env.num_envs),
      _SMALL,
      rows=40,
      core_units=config.network.core_units,
      frame_stack=1,
    )
    with contextlib.closing(_replay(config, _SMALL)) as replay:
      writer = _Writer(config, _SMALL, recorded, replay.insert)
      for level in size.levels:
        writer.write_items(level - writer.num_items)
        rows.append((backend, level, *_costs(replay, writer, config, size)))
  return Table(
    "Replay: microseconds per item, by items held (small rows, so that memory"
    " holds them)",
    (
      "replay",
      "items held",
      "inserted, us",
      "sampled, us",
      "priority updated, us",
    ),
    rows,
    "The last level is the capacity: there each insertion also evicts.",
  )


def _costs(
  replay: Any, writer: _Writer, config: Config, size: _Size
) -> list[Spread]:
  batch_size = config.agent.batch_size

  def insert():
    writer.write_items(size.level_items)
    return size.level_items

  def update():
    replay.update_priorities(keys, priorities)
    return len(keys)

  # Sampled last: what is fetched ahead then does not weigh on the others.
  inserted = [units_per_second(insert, calls=1) for _ in range(size.rounds)]
  keys = replay.sample(batch_size, timeout_seconds=60.0).keys
  priorities = np.ones(batch_size, np.float32)
  updated = [
    units_per_second(update, calls=size.batches) for _ in range(size.rounds)
  ]
  sampled = _sampling_rates(replay, batch_size, size.batches, size.rounds)
  return [
    spread(1e6 / np.array(rates)) for rates in (inserted, sampled, updated)
  ]


def _noise(lanes: int) -> Iterator[Timestep]:
  rng = np.random.default_rng(0)
  nothing = np.zeros(lanes)
  while True:
    obs_t = rng.integers(0, 256, (lanes, *_SMALL.obs_shape), np.uint8)
    yield Timestep(obs_t, nothing, nothing, nothing, nothing, nothing)
