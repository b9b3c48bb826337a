"""Leg `host`: what an update costs the learner's host, whatever the device.

A batch is sampled and decoded, copied to the device, and its priorities are
written back. On an accelerator these go on beside the update: the slower of
sampling with copying (one thread, the prefetcher's) and the update sets the
pace. So their time is the bound on updates/s that no accelerator lifts.
"""

from collections.abc import Callable
import contextlib
import itertools

import jax
import numpy as np

from experiments.benchmark.legs import Settings
from experiments.benchmark.rates import units_per_second
from experiments.benchmark.replay_stream import (
  Writer,
  empty_replay,
  period,
  pong_frames,
  record_pong,
)
from experiments.benchmark.results import LegResult, Spread, Table, spread
from experiments.benchmark.workload import PONG
from r2d2_jax.config import Config
from r2d2_jax.presets import laptop, paper
from r2d2_jax.system.loops.learner import Batch

_LANES = 64


def measure(settings: Settings) -> LegResult:
  """Milliseconds of each part by batch and item length."""
  lanes = 2 if settings.toy else _LANES
  frames = pong_frames(lanes)
  rows, skipped = [], []
  for backend, preset in itertools.product(
    ("reverb", "local"), (laptop(), paper())
  ):
    config = preset.updated(
      {
        "env.num_envs": lanes,
        "replay.backend": backend,
        "replay.capacity_sequences": 32 if settings.toy else 1_024,
        "replay.min_sequences": 16,
        "agent.batch_size": 16,
      }
    )
    recorded = record_pong(config, frames)
    try:
      replay = empty_replay(config, PONG)
    except ImportError as error:
      skipped.append(f"host, {backend}: {error}")
      continue
    with contextlib.closing(replay):
      Writer(config, PONG, recorded, replay.insert).write_items(
        config.replay.capacity_sequences
      )
      for batch_size in (4,) if settings.toy else (16, 64, 256):
        rows.append(
          (
            f"{config.agent.burn_in} + {config.agent.trace_length} by"
            f" {period(config)}",
            batch_size,
            backend,
            *_costs(replay, config, batch_size, settings.toy),
          )
        )
  return LegResult(
    [],
    [
      Table(
        "The learner's host: ms per update, Pong's frames",
        (
          "items",
          "batch",
          "replay",
          "sampled, decoded",
          "copied",
          "written back",
          "updates/s at most",
        ),
        rows,
        "At most: one thread samples and copies, as the prefetcher does;"
        " nothing is written to the replay meanwhile.",
      )
    ],
    skipped,
  )


def _costs(
  replay, config: Config, batch_size: int, toy: bool
) -> tuple[Spread, Spread, Spread, Spread]:
  burn_in = config.agent.burn_in
  sample = lambda: replay.sample(batch_size, timeout_seconds=60.0)
  last = sample()
  priorities = np.ones(batch_size, np.float32)
  copy = lambda: jax.block_until_ready(Batch(last, burn_in).on_device)
  sampled, copied, written = (
    _milliseconds(call, toy)
    for call in (
      sample,
      copy,
      lambda: replay.update_priorities(last.keys, priorities),
    )
  )
  at_most = [1e3 / (a + b) for a, b in zip(sampled, copied, strict=True)]
  return spread(sampled), spread(copied), spread(written), spread(at_most)


def _milliseconds(call: Callable[[], object], toy: bool) -> list[float]:
  """Per call, in each round."""

  def once():
    call()
    return 1

  rounds, calls = (2, 1) if toy else (7, 12)
  units_per_second(once, calls=calls)  # what was fetched ahead came for nothing
  return [1e3 / units_per_second(once, calls=calls) for _ in range(rounds)]
