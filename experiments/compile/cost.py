"""What a compiled update costs, and how many of them a slice can do at most."""

import collections
import math
import re
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
import numpy as np

from experiments.compile.topology import Chip

_ITEM_BYTES = {
  "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
  "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_COLLECTIVE = re.compile(
  r"= (?P<shape>.*?) (?P<name>all-reduce|all-gather|reduce-scatter"
  r"|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Cost(NamedTuple):
  """Of one update, on each chip."""

  flops: float  # of products alone, every step of a loop counted
  traffic_bytes: float  # XLA's "bytes accessed": the body of a loop once
  memory_bytes: int  # arguments, results that reuse none of them, temporaries
  collectives: dict[str, tuple[int, int]]  # name -> how many, bytes of results


def cost(program: Any, compiled: Any) -> Cost:
  """Reads it off a program and what it was compiled to."""
  memory = compiled.memory_analysis()
  return Cost(
    product_flops(program.function.trace(*program.arguments).jaxpr.jaxpr),
    compiled.cost_analysis()["bytes accessed"],
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    collectives(compiled.as_text()),
  )


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
  """Where devices talk in a compiled module: name -> how often, bytes."""
  found: dict[str, list[int]] = collections.defaultdict(list)
  for match in _COLLECTIVE.finditer(hlo):
    found[match["name"]].append(
      sum(
        math.prod(int(size) for size in sizes.split(",") if size)
        * _ITEM_BYTES[dtype]
        for dtype, sizes in _ARRAY.findall(match["shape"])
        if dtype in _ITEM_BYTES
      )
    )
  return {name: (len(sizes), sum(sizes)) for name, sizes in found.items()}


def product_flops(jaxpr: Any) -> float:
  """Multiplications and additions of products and convolutions, on one chip.

  Counted in the traced function, where the length of every loop is known: XLA's
  own count takes the body of a loop once. Of branches for several platforms the
  last counts, the accelerators'.
  """
  total = 0.0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      x, y = equation.invars[0].aval, equation.outvars[0].aval
      inner = math.prod(x.shape[axis] for axis in contracted)
      total += 2.0 * math.prod(y.shape) * inner
    elif name == "conv_general_dilated":
      total += _convolution_flops(equation)
    elif name == "cond":
      total += product_flops(params["branches"][-1].jaxpr)
    else:
      for inner in jax.tree.leaves(tuple(params.values()), is_leaf=_is_program):
        if _is_program(inner):
          inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
          total += product_flops(inner) * params.get("length", 1)
  return total


def _is_program(x: Any) -> bool:
  return isinstance(x, Jaxpr | ClosedJaxpr)


def _convolution_flops(equation: Any) -> float:
  """Zeros between and around the pixels are left out, as no chip needs them."""
  params = equation.params
  x, kernel = (var.aval.shape for var in equation.invars)
  y = equation.outvars[0].aval.shape
  x_axes, kernel_axes, y_axes = params["dimension_numbers"]
  total = 2.0 * y[y_axes[0]] * y[y_axes[1]] * kernel[kernel_axes[1]]
  for i, (low, _) in enumerate(params["padding"]):
    step, gap = params["window_strides"][i], params["lhs_dilation"][i]
    window = np.arange(kernel[kernel_axes[2 + i]]) * params["rhs_dilation"][i]
    place = np.arange(y[y_axes[2 + i]])[:, None] * step + window - low
    inside = (place >= 0) & (place <= (x[x_axes[2 + i]] - 1) * gap)
    total *= np.count_nonzero(inside & (place % gap == 0))
  return total


class Bound(NamedTuple):
  """What published peaks allow: a bound from above, not a forecast."""

  compute_seconds: float
  memory_seconds: float

  @property
  def updates_per_second(self) -> float:
    return 1 / max(self.compute_seconds, self.memory_seconds)

  @property
  def by(self) -> str:
    """Which of the two it is."""
    seconds = self.compute_seconds, self.memory_seconds
    return "compute" if seconds[0] >= seconds[1] else "memory"


def roofline(cost: Cost, chip: Chip) -> Bound:
  """An update takes at least its products' time, and at least its traffic's.

  Nothing is counted for loops that wait for their own last step (the LSTM), for
  talk between chips, and for batches on their way from the host.
  """
  return Bound(
    cost.flops / chip.bf16_flops,
    cost.traffic_bytes / chip.memory_bytes_per_second,
  )
