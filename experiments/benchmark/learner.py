"""Leg `learner`: one update against the same one written by hand in PyTorch.

The reference work: the paper's network on 84 x 84 frames and six actions,
double networks unrolled over burn-in + trace, backward over the trace. Both
sides get the same parameters and batch, each lives in a process of its own with
all cores, and the same accelerator if there is one, and they take turns: while
one steps the other sleeps.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

from experiments.benchmark.children import Stepper, in_turns
from experiments.benchmark.devices import peak_flops
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import (
  Cell,
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


class _Case(NamedTuple):
  """One kind of update, and how often it is made."""

  batch: str  # of BATCHES
  dtype: str
  rounds: int
  updates: int  # of each side in a round


_DTYPES = ("float32", "bfloat16")
_CASES = {
  "cpu": [_Case("small", "float32", 9, 4), _Case("big", "float32", 4, 1)],
  "gpu": [
    _Case(batch, dtype, 9, 10) for dtype in _DTYPES for batch in ("big", "huge")
  ],
}
_TOY_CASES = {
  "cpu": [_Case("toy", "float32", 2, 1)],
  "gpu": [_Case("toy", dtype, 2, 1) for dtype in _DTYPES],
}


def measure(settings: Settings) -> LegResult:
  """Milliseconds of an update here and in PyTorch."""
  skipped = []
  with_torch = has_torch(settings.torch_python)
  if not with_torch:
    skipped.append(without_torch("learner", settings.torch_python))
  share_memory()
  comparisons, rows = [], []
  for case in (_TOY_CASES if settings.toy else _CASES)[settings.device]:
    comparison, row = _compare(
      case, settings.torch_python if with_torch else ""
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
          "dtype",
          "GFLOP",
          "here, ms",
          "PyTorch, ms",
          "here, GFLOP/s",
          "PyTorch, GFLOP/s",
          "here, share of the peak",
          "PyTorch, share of the peak",
          "here, GiB at most",
          "PyTorch, GiB at most",
          "first loss, here",
          "first loss, PyTorch",
        ),
        rows,
        "Medians and quartiles of all updates. Equal first losses show that"
        " both sides do the same work. The peak is the accelerator's, as"
        " published, of TF32 for float32; memory is the accelerator's.",
      )
    ],
    skipped,
  )


def share_memory() -> None:
  """Lets JAX's children take of an accelerator only what they need."""
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def has_torch(python: str) -> bool:
  """Whether this interpreter can import torch."""
  try:
    return not subprocess.run(
      [python, "-c", "import torch"], capture_output=True, check=False
    ).returncode
  except OSError:
    return False


def without_torch(what: str, python: str) -> str:
  """Why there is nothing to compare with."""
  return (
    f"{what}: {python} has no torch, so there is nothing to compare with:"
    " install requirements-bench.txt, or name an interpreter that has it with"
    " --torch-python"
  )


def torch_device(platform: str) -> str:
  """What torch calls a platform of JAX."""
  return "cuda" if platform == "gpu" else "cpu"


def _compare(
  case: _Case, torch_python: str
) -> tuple[list[Comparison], tuple[Cell, ...]]:
  """A case's comparison (none without PyTorch) and its row of the table."""
  config = reference_config(case.batch, case.dtype)
  with contextlib.ExitStack() as stack:
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = str(pathlib.Path(directory) / "inputs.npz")
    sides = [
      stack.enter_context(
        Stepper(
          sys.executable,
          "experiments.benchmark.jax_step",
          "learn",
          case.batch,
          case.dtype,
          path,
        )
      )
    ]
    if torch_python:
      sides.append(
        stack.enter_context(
          Stepper(
            torch_python,
            "experiments.benchmark.torch_step",
            "learn",
            path,
            str(config.agent.burn_in),
            case.dtype,
            torch_device(sides[0].info["platform"]),
          )
        )
      )
    seconds = in_turns(sides, rounds=case.rounds, calls=case.updates)
  flop = learner_flops(config)
  peak = peak_flops(sides[0].info["kind"], case.dtype)
  columns = [
    _columns(side.info, of_side, flop, peak)
    for side, of_side in zip(sides, seconds, strict=True)
  ]
  if not torch_python:
    columns.append(("-",) * len(columns[0]))
  row = (
    case.batch,
    "{} x ({} + {})".format(*BATCHES[case.batch]),
    case.dtype,
    flop / 1e9,
    *(x for pair in zip(*columns, strict=True) for x in pair),
  )
  if not torch_python:
    return [], row
  here, other = ([sum(each) for each in of_side] for of_side in seconds)
  return [
    at_least(
      f"learner, {case.batch}, {case.dtype}: speed relative to PyTorch",
      ratio(other, here),
      1.0,
    )
  ], row


def _columns(
  info: dict, seconds: list[list[float]], flop: float, peak: float | None
) -> tuple[Cell, ...]:
  """A side's cells: ms, GFLOP/s, share of the peak, GiB, first loss."""
  taken = spread([s for each in seconds for s in each])
  memory = info["peak_bytes"]
  return (
    spread([1e3 * s for s in taken.values]),
    flop / taken.median / 1e9,
    flop / taken.median / peak if peak else "-",
    memory / 2**30 if memory else "-",
    f"{info['loss']:.6g}",
  )
