"""Leg `replay`: rows written, items sampled, bytes kept, and how they scale.

Real Pong frames, recorded first and then fed again and again; recurrent states
and values are random numbers of the right shapes. Written is what
`SequenceBuilder` cuts and the replay takes, one process, one thread.
"""

from collections.abc import Iterator
import contextlib
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.acting import drop
from experiments.benchmark.legs import Settings
from experiments.benchmark.rates import units_per_second
from experiments.benchmark.replay_bytes import bytes_table
from experiments.benchmark.replay_stream import (
  Rows,
  Writer,
  empty_replay,
  period,
  pong_frames,
  record,
  record_pong,
  sampling_rates,
)
from experiments.benchmark.results import (
  Comparison,
  LegResult,
  Spread,
  Table,
  at_least,
  ratio,
  spread,
)
from experiments.benchmark.workload import PONG
from r2d2_jax.config import Config
from r2d2_jax.presets import laptop, paper
from r2d2_jax.types import EnvSpec, Timestep

# The builder alone: what is written nowhere.
_DROPPED = "items dropped"
_AIM = 0.6  # of its rows per second


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
      empty_replay(_small_config(backend), _SMALL).close()
      backends.append(backend)
    except ImportError as error:
      skipped.append(f"replay, {backend}: {error}")
  comparisons, throughput = _throughput(size, backends)
  return LegResult(
    comparisons,
    [
      throughput,
      bytes_table(size.layout_lanes, size.layout_items, backends),
      _flatness(size, backends),
    ],
    skipped,
  )


# Rows and items per second.


def _throughput(
  size: _Size, backends: list[str]
) -> tuple[list[Comparison], Table]:
  comparisons, rows = [], []
  frames = pong_frames(size.lanes)
  for preset in (laptop(), paper()):
    agent = preset.agent
    lengths = f"{agent.burn_in} + {agent.trace_length} by {period(preset)}"
    recorded = record_pong(preset, frames)
    config = preset.updated({"env.num_envs": size.lanes})
    written, sampled = _write_and_sample(config, backends, recorded, size)
    rows += [
      (lengths, name, spread(rates), sampled[name])
      for name, rates in written.items()
    ]
    if "reverb" in backends:
      comparisons.append(
        at_least(
          f"replay, Reverb, items of {lengths} rows: rows written, share of"
          " items dropped",
          ratio(written["reverb"], written[_DROPPED]),
          _AIM,
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
    "Written in turns, in rounds of equal work. Sampled in batches of the"
    " preset (16 and 64 items), while nothing is written.",
  )


def _write_and_sample(
  config: Config, backends: list[str], recorded: list[Rows], size: _Size
) -> tuple[dict[str, list[float]], dict[str, Spread | str]]:
  """Rows written per second in every round; items sampled per second."""
  calls = size.periods * period(config)
  with contextlib.ExitStack() as stack:
    replays = {
      backend: stack.enter_context(
        contextlib.closing(
          empty_replay(config.updated({"replay.backend": backend}), PONG)
        )
      )
      for backend in backends
    }
    inserts = {_DROPPED: drop} | {k: v.insert for k, v in replays.items()}
    writers = {
      name: Writer(config, PONG, recorded, insert)
      for name, insert in inserts.items()
    }
    # Past the first items, which begin in the padding.
    for writer in writers.values():
      units_per_second(writer.step, calls=2 * config.item_rows)
    written = {name: [] for name in writers}
    for _ in range(size.rounds):
      for name, writer in writers.items():
        written[name].append(units_per_second(writer.step, calls=calls))
    sampled: dict[str, Spread | str] = {_DROPPED: "-"}
    for name, replay in replays.items():
      sampled[name] = spread(
        sampling_rates(
          replay, config.agent.batch_size, size.batches, size.rounds
        )
      )
  return written, sampled


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
    recorded = record(
      _noise(config.env.num_envs),
      _SMALL,
      rows=40,
      core_units=config.network.core_units,
      frame_stack=1,
    )
    with contextlib.closing(empty_replay(config, _SMALL)) as replay:
      writer = Writer(config, _SMALL, recorded, replay.insert)
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
  replay: Any, writer: Writer, config: Config, size: _Size
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
  sampled = sampling_rates(replay, batch_size, size.batches, size.rounds)
  return [
    spread(1e6 / np.array(rates)) for rates in (inserted, sampled, updated)
  ]


def _noise(lanes: int) -> Iterator[Timestep]:
  rng = np.random.default_rng(0)
  nothing = np.zeros(lanes)
  while True:
    obs_t = rng.integers(0, 256, (lanes, *_SMALL.obs_shape), np.uint8)
    yield Timestep(obs_t, nothing, nothing, nothing, nothing, nothing)
