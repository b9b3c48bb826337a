"""What `python -m experiments.compile` prints: Markdown tables, row by row."""

import time

from experiments.compile.cost import Bound, Cost, cost, roofline
from experiments.compile.programs import (
  actor_program,
  export,
  learner_program,
)
from experiments.compile.topology import chip_of, slice_devices
from r2d2_jax.config import Config
from r2d2_jax.envs.make import world_spec

# Agent steps per second are these, by 4 frames: the paper's 256 actors, SEED's.
KNOWN_FLEETS = {"R2D2, the paper": 66_000, "R2D2 in SEED RL": 440_000}
_ATARI_FRAMES = 4

_COSTS = (
  "slice", "chips", "batch", "dtype", "GFLOP a chip", "GB moved a chip",
  "GiB held a chip", "between chips", "at most, updates/s", "bound by",
)  # fmt: skip
_FLEETS = (
  "slice", "batch", "dtype", "updates/s", "agent steps/s", "frames/s",
  "actor cores",
)  # fmt: skip


def steps_per_update(config: Config) -> float:
  """Agent steps that one update may train on: B (T - 1) / replay ratio.

  An item of T trained rows has T - 1 transitions (`ReplayRatio` counts them).
  """
  rows = config.agent.batch_size * (config.agent.trace_length - 1)
  return rows / config.replay.replay_ratio


def show_slices(
  configs: list[Config], topologies: tuple[str, ...], steps_per_core: float
) -> None:
  """Compiles all, and prints each as soon as it is there."""
  # All names before the first compilation, which takes minutes.
  slices = {name: (chip_of(name), slice_devices(name)) for name in topologies}
  spec = world_spec(configs[0].env)
  fleets = []
  _row(*_COSTS)
  _row(*["---"] * len(_COSTS))
  for name, (chip, devices) in slices.items():
    for config in configs:
      program = learner_program(config, spec, devices)
      compiled = program.function.lower(*program.arguments).compile()
      measured = cost(program, compiled)
      bound = roofline(measured, chip)
      batch, dtype = config.agent.batch_size, config.network.compute_dtype
      _row(name, len(devices), batch, dtype, *_costs(measured, bound))
      rate = bound.updates_per_second
      steps = rate * steps_per_update(config)
      fleet = _fleet(steps, steps * spec.frame_skip, steps_per_core)
      fleets.append((name, batch, dtype, _number(rate), *fleet))
  print(
    "\nActors that keep it busy, at"
    f" {steps_per_core:,.0f} agent steps/s of a core:\n"
  )
  _row(*_FLEETS)
  _row(*["---"] * len(_FLEETS))
  for fleet in fleets:
    _row(*fleet)
  for name, frames in KNOWN_FLEETS.items():
    steps = frames / _ATARI_FRAMES
    rate = steps / steps_per_update(configs[0])
    fleet = _fleet(steps, frames, steps_per_core)
    _row(name, configs[0].agent.batch_size, "any", _number(rate), *fleet)


def _costs(cost: Cost, bound: Bound) -> tuple[str, ...]:
  between = ", ".join(
    f"{count} {name} {size / 1e6:.1f} MB"
    for name, (count, size) in sorted(cost.collectives.items())
  )
  return (
    _number(cost.flops / 1e9),
    _number(cost.traffic_bytes / 1e9),
    _number(cost.memory_bytes / 2**30),
    between or "nothing",
    _number(bound.updates_per_second),
    bound.by,
  )


def _fleet(steps: float, frames: float, per_core: float) -> tuple[str, ...]:
  return _number(steps), _number(frames), _number(steps / per_core)


def show_exports(configs: list[Config], platform: str) -> None:
  """Lowers learner and actor, and prints how long the modules are."""
  spec = world_spec(configs[0].env)
  columns = ("program", "platform", "batch or lanes", "dtype", "StableHLO, kB",
             "seconds")  # fmt: skip
  _row(*columns)
  _row(*["---"] * len(columns))
  for config in configs:
    for name, size, program in (
      ("learner", config.agent.batch_size, learner_program(config, spec)),
      ("actor", config.env.num_envs, actor_program(config, spec)),
    ):
      start = time.perf_counter()
      text = export(program, platform)
      seconds = time.perf_counter() - start
      length = f"{len(text) / 1e3:,.0f}"
      dtype = config.network.compute_dtype
      _row(name, platform, size, dtype, length, f"{seconds:.1f}")


def _number(x: float) -> str:
  return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _row(*cells: object) -> None:
  print("|", " | ".join(map(str, cells)), "|", flush=True)
