"""Leg `family`: whole runs of IMPALA and A3C beside one of R2D2.

The same network (that of the preset `laptop`) on Pong, from the log as in
`end_to_end`. They do different things with a step: R2D2 trains on each row
twice, IMPALA once, and A3C, whose workers compute gradients from five rows at a
time, once too.
"""

import dataclasses

from experiments.benchmark.end_to_end import logged, rate_of, windows_of
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import LegResult, Table, scaled
from experiments.benchmark.workload import TOY_NETWORK
from r2d2_jax.config import Config
from r2d2_jax.family import FAMILY
from r2d2_jax.presets import laptop

_LANES = 32
_BATCH = 16
_WORKERS = 16


def measure(settings: Settings) -> LegResult:
  """Agent steps, updates and trained rows per second."""
  rows, skipped = [], []
  for name, config in _runs(settings.toy).items():
    windows = windows_of(logged(config))
    if not windows:
      skipped.append(f"family, {name}: no update in the time it had")
      continue
    steps = rate_of([w.steps for w in windows], windows)
    updates = rate_of([w.updates for w in windows], windows)
    agent = config.agent
    rows.append(
      (
        name,
        config.env.num_envs,
        f"{agent.batch_size} x {agent.burn_in} + {agent.trace_length}",
        steps,
        updates,
        scaled(steps, float(windows[-1].row["replay_ratio"])),
      )
    )
  return LegResult(
    [],
    [
      Table(
        "R2D2, IMPALA and A3C: Pong, the laptop preset's network",
        (
          "agent",
          "lanes",
          "items x rows",
          "agent steps/s",
          "updates/s",
          "trained rows/s",
        ),
        rows,
        "In-process replay or queue. Each of A3C's lanes is a thread that plays"
        " and learns.",
      )
    ],
    skipped,
  )


def _runs(toy: bool) -> dict[str, Config]:
  run = {
    "env.task": "Pong",
    "env.full_action_space": False,
    "replay.backend": "local",
    "run.max_minutes": 0.7,
    "log.period_seconds": 4.0,
    "checkpoint.period_minutes": 60.0,
    "evaluation.num_episodes": 0,
  }
  lanes, batch, workers = _LANES, _BATCH, _WORKERS
  if toy:
    lanes, batch, workers = 4, 2, 2
    run |= {"run.total_steps": 1_500, "log.period_seconds": 0.1}
  network = TOY_NETWORK if toy else laptop().network
  r2d2, impala, a3c = (
    dataclasses.replace(make(), network=network).updated(run)
    for make in (laptop, FAMILY["impala"], FAMILY["a3c"])
  )
  return {
    "R2D2": r2d2.updated(
      {
        "env.num_envs": lanes,
        "agent.batch_size": batch,
        "replay.min_sequences": 2 * batch if toy else 1_000,
      }
    ),
    "IMPALA": impala.updated(
      {
        "env.num_envs": lanes,
        "agent.batch_size": batch,
        "replay.min_sequences": batch,
        # A batch, and room for what the lanes may bring in a step.
        "replay.capacity_sequences": batch + 2 * lanes,
      }
    ),
    "A3C": a3c.updated({"env.num_envs": workers}),
  }
