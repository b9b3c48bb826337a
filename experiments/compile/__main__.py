"""Compiles the learner for TPU slices that are not here.

    python -m experiments.compile --topology v5e:2x2 v5e:4x4 --preset paper
    python -m experiments.compile --preset gpu --export cuda

The first needs libtpu, the extra `tpu`. docs/performance.md says what the
numbers are, and has a table of them.
"""

import os
import sys
from typing import Literal

from r2d2_jax.cli.command import program, run_command
from r2d2_jax.config import Config, ConfigError, validate
from r2d2_jax.presets import PRESETS

# jax and EnvPool are imported after the command line has been understood.

DType = Literal["float32", "bfloat16"]


def compile_for(
  topology: tuple[str, ...] = (),
  preset: str = "paper",
  batch: tuple[int, ...] = (),
  dtype: tuple[DType, ...] = (),
  task: str = "",
  export: Literal["cuda", "tpu"] | None = None,
  steps_per_core: float = 1905.0,
) -> None:
  """Compiles the learner's update for TPU slices that are not here.

  Prints, for each slice, batch and dtype: products, memory traffic and memory
  on each chip; what crosses between chips; how many updates a second published
  peaks allow at most; and the actors that would keep such a learner busy.
  Nothing is run: all numbers are compiled or computed.

  Args:
    topology: slices, generation and chips along each axis: v5e:4x4, v4:2x2x1.
    preset: whose network and agent.
    batch: items of a batch, over all chips; left out, the preset's.
    dtype: of the network's arithmetic; left out, the preset's.
    task: its observations and actions; left out, the preset's.
    export: lower learner and actor for this platform, and compile nothing.
    steps_per_core: agent steps per second of one core of an actor host
      (docs/performance.md: the loop with Reverb, network of `laptop`).
  """
  # Whatever accelerator is here is left alone.
  os.environ["JAX_PLATFORMS"] = "cpu"
  configs = _configs(preset, batch, dtype, task)
  if export is None and not topology:
    raise ConfigError(
      "expected slices to compile for (--topology v5e:4x4) or a platform to"
      " lower for (--export cuda), got neither"
    )
  if not steps_per_core > 0:
    raise ConfigError(f"--steps-per-core: expected > 0, got {steps_per_core}")
  from experiments.compile import report

  if export is not None:
    report.show_exports(configs, export)
  else:
    report.show_slices(configs, topology, steps_per_core)


def _configs(
  preset: str, batches: tuple[int, ...], dtypes: tuple[str, ...], task: str
) -> list[Config]:
  """The preset, once for each batch and dtype; checked."""
  if preset not in PRESETS:
    raise ConfigError(
      f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}"
    )
  config = PRESETS[preset]()
  configs = [
    config.updated(
      {
        "agent.batch_size": batch,
        "network.compute_dtype": dtype,
        "env.task": task or config.env.task,
      }
    )
    for batch in batches or (config.agent.batch_size,)
    for dtype in dtypes or (config.network.compute_dtype,)
  ]
  for config in configs:
    validate(config)
  return configs


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(compile_for, prog=program("compile"), arguments=arguments)


if __name__ == "__main__":
  sys.exit(main())
