"""Leg `learner`: one update against the same one written by hand in PyTorch.

The reference work: the paper's network on 84 x 84 frames and six actions,
double networks unrolled over burn-in + trace, backward over the trace. Both
sides get the same parameters and batch, each lives in a process of its own with
all cores, and they take turns: while one steps the other sleeps.
"""

import contextlib
import pathlib
import subprocess
import sys
import tempfile

from experiments.benchmark.children import Stepper
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import (
  Comparison,
  LegResult,
  Table,
  at_least,
  ratio,
  spread,
)
from experiments.benchmark.workload import (
  BATCHES,
  learner_flops,
  reference_config,
)

# Batch -> rounds, updates of each side in a round.
_FULL = {"small": (9, 4), "big": (4, 1)}
_TOY = {"toy": (2, 1)}


def measure(settings: Settings) -> LegResult:
  """Milliseconds of an update here and in PyTorch."""
  skipped = []
  with_torch = has_torch(settings.torch_python)
  if not with_torch:
    skipped.append(
      f"learner: {settings.torch_python} has no torch, so there is nothing to"
      " compare with: install requirements-bench.txt, or name an interpreter"
      " that has it with --torch-python"
    )
  comparisons, rows = [], []
  for batch, (rounds, updates) in (_TOY if settings.toy else _FULL).items():
    comparison, row = _compare(
      batch, rounds, updates, settings.torch_python if with_torch else ""
    )
    comparisons += comparison
    rows.append(row)
  return LegResult(
    comparisons,
    [
      Table(
        "One update of the learner",
        (
          "batch",
          "items x (burn-in + trace)",
          "GFLOP",
          "here, ms",
          "PyTorch, ms",
          "here, GFLOP/s",
          "PyTorch, GFLOP/s",
          "first loss, here",
          "first loss, PyTorch",
        ),
        rows,
        "Medians and quartiles of all updates. Equal first losses show that"
        " both sides do the same work.",
      )
    ],
    skipped,
  )


def has_torch(python: str) -> bool:
  """Whether this interpreter can import torch."""
  try:
    return not subprocess.run(
      [python, "-c", "import torch"], capture_output=True, check=False
    ).returncode
  except OSError:
    return False


def _compare(
  batch: str, rounds: int, updates: int, torch_python: str
) -> tuple[list[Comparison], tuple]:
  """A batch's comparison (none without PyTorch) and its row of the table."""
  config = reference_config(batch)
  gflop = learner_flops(config) / 1e9
  size = "{} x ({} + {})".format(*BATCHES[batch])
  with contextlib.ExitStack() as stack:
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = str(pathlib.Path(directory) / "inputs.npz")
    sides = [
      stack.enter_context(
        Stepper(sys.executable, "experiments.benchmark.jax_step", batch, path)
      )
    ]
    if torch_python:
      sides.append(
        stack.enter_context(
          Stepper(
            torch_python,
            "experiments.benchmark.torch_step",
            path,
            str(config.agent.burn_in),
          )
        )
      )
    for side in sides:  # the first update after the warm-up still allocates
      side.seconds(1)
    seconds = [[] for _ in sides]
    for _ in range(rounds):
      for side, all_rounds in zip(sides, seconds, strict=True):
        all_rounds.append(side.seconds(updates))
  milliseconds = [
    spread([1e3 * s for each in all_rounds for s in each])
    for all_rounds in seconds
  ]
  here, *other = milliseconds
  losses = [side.info["loss"] for side in sides]
  if not other:
    return [], (
      batch,
      size,
      gflop,
      here,
      "-",
      1e3 * gflop / here.median,
      "-",
      f"{losses[0]:.6g}",
      "-",
    )
  speed = ratio(
    [sum(each) for each in seconds[1]], [sum(each) for each in seconds[0]]
  )
  return [
    at_least(f"learner, {batch}: speed relative to PyTorch", speed, 1.0)
  ], (
    batch,
    size,
    gflop,
    here,
    other[0],
    1e3 * gflop / here.median,
    1e3 * gflop / other[0].median,
    *(f"{loss:.6g}" for loss in losses),
  )
