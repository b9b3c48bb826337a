"""One inference step of the actors against the same one in PyTorch.

A part of the leg `acting` on an accelerator: frames start on the host and
actions end there, as in a run.
"""

import contextlib
import pathlib
import sys
import tempfile

from experiments.benchmark.children import Stepper, in_turns
from experiments.benchmark.learner import (
  has_torch,
  share_memory,
  torch_device,
  without_torch,
)
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

_DTYPES = ("float32", "bfloat16")
_LANES, _ROUNDS, _STEPS = (64, 256), 9, 100
_TOY_LANES, _TOY_ROUNDS, _TOY_STEPS = (2,), 2, 1


def measure_inference(settings: Settings) -> LegResult:
  """Agent steps per second of the paper's network, here and in PyTorch."""
  skipped, comparisons, rows = [], [], []
  torch_python = settings.torch_python
  if not has_torch(torch_python):
    skipped.append(without_torch("acting, inference", torch_python))
    torch_python = ""
  share_memory()
  for dtype in _DTYPES:
    for lanes in _TOY_LANES if settings.toy else _LANES:
      comparison, row = _compare(lanes, dtype, torch_python, settings.toy)
      comparisons += comparison
      rows.append(row)
  return LegResult(
    comparisons,
    [
      Table(
        "Inference of the paper's network alone",
        (
          "lanes",
          "dtype",
          "here, agent steps/s",
          "PyTorch, agent steps/s",
          "first mean value, here",
          "first mean value, PyTorch",
        ),
        rows,
        "Frames start on the host, actions end there. Equal first values show"
        " that both sides do the same work.",
      )
    ],
    skipped,
  )


def _compare(
  lanes: int, dtype: str, torch_python: str, toy: bool
) -> tuple[list[Comparison], tuple[Cell, ...]]:
  with contextlib.ExitStack() as stack:
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = str(pathlib.Path(directory) / "inputs.npz")
    sides = [
      stack.enter_context(
        Stepper(
          sys.executable,
          "experiments.benchmark.jax_step",
          "act",
          str(lanes),
          dtype,
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
            "act",
            path,
            dtype,
            torch_device(sides[0].info["platform"]),
          )
        )
      )
    seconds = in_turns(
      sides,
      rounds=_TOY_ROUNDS if toy else _ROUNDS,
      calls=_TOY_STEPS if toy else _STEPS,
    )
  rates = [
    spread([lanes * len(each) / sum(each) for each in of_side])
    for of_side in seconds
  ]
  values = [f"{side.info['q']:.4g}" for side in sides]
  if not torch_python:
    return [], (lanes, dtype, rates[0], "-", values[0], "-")
  return [
    at_least(
      f"acting, inference, {lanes} lanes, {dtype}: speed relative to PyTorch",
      ratio(rates[0].values, rates[1].values),
      1.0,
    )
  ], (lanes, dtype, *rates, *values)
