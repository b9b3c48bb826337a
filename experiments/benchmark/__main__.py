"""Measures the parts and the whole: `python -m experiments.benchmark`.

    python -m experiments.benchmark --legs learner acting
    python -m experiments.benchmark --legs learner acting --device gpu
    python -m experiments.benchmark --torch-python /path/to/python
    python -m experiments.benchmark --wait-quiet 10 --compare benchmark.json

docs/performance.md says what each leg is.
"""

import datetime
import functools
import os
import pathlib
import shlex
import sys
import time

import tyro

from experiments.benchmark.devices import find_device
from experiments.benchmark.legs import (
  USUAL_LEGS,
  Device,
  Leg,
  Settings,
  measure_leg,
)
from r2d2_jax.cli.command import check_number
from r2d2_jax.config import ConfigError

# jax, EnvPool and Reverb are imported by the legs, in processes of their own.


def benchmark(
  legs: tuple[Leg, ...] = USUAL_LEGS,
  toy: bool = False,
  output: pathlib.Path | None = None,
  torch_python: str = sys.executable,
  device: Device = "cpu",
  wait_quiet: float = 0.0,
  compare: pathlib.Path | None = None,
) -> int:
  """Measures the learner, acting, replay, whole runs, start-up and growth.

  Leave the machine alone meanwhile: a warning says when others keep it busy.
  Every aim is a ratio within the run. Nothing fails because of a number.

  Args:
    legs: what to measure; `cluster`, which starts Ray, only where it is named.
    toy: smallest sizes: shows that everything runs, measures nothing.
    output: directory for benchmark.json and benchmark.md; left out, it is
      runs/benchmark-<date>.
    torch_python: interpreter that has PyTorch (requirements-bench.txt), for the
      learner's counterpart.
    device: 'gpu' measures on JAX's first card: the learner and inference in
      float32 and bfloat16, larger batches, PyTorch on the same card. 'cpu' uses
      no card, be there one.
    wait_quiet: minutes to wait before each part for others to leave the cores
      alone; 0 does not wait.
    compare: benchmark.json of an earlier run, whose numbers are shown beside
      these.

  Returns:
    The exit code: 1 if a leg broke down.
  """
  from rich.console import Console

  from experiments.benchmark import compare as comparing
  from experiments.benchmark import machine, report
  from experiments.benchmark.children import in_child
  from experiments.benchmark.quiet import wait_until_quiet
  from r2d2_jax.system.storage.origin import describe

  earlier = comparing.read_benchmark(compare) if compare else None
  check_number("--wait-quiet", wait_quiet, 0)
  if device == "cpu":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  kind = in_child(find_device, device) if device != "cpu" else device
  if output is None:
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    output = pathlib.Path(f"runs/benchmark-{date}")
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f"--output: cannot write in {output}: {error.strerror}; give another"
      " directory"
    ) from error
  # Reverb's and TensorFlow's reports of themselves.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  console = Console()
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  if os.sep in torch_python:  # children run elsewhere; no link is followed
    torch_python = os.path.abspath(torch_python)
  settings = Settings(toy, torch_python, device)
  about = describe() | {
    "command": shlex.join(
      ["python", "-m", "experiments.benchmark", *sys.argv[1:]]
    ),
    "device": kind,
    "toy": toy,
    "load_average": machine.load_average(),
  }
  measured: dict[str, dict] = {}
  written = report.write(output, about, measured)
  for name in legs:
    # Toy sizes measure nothing.
    busy = "-" if toy else round(wait_until_quiet(wait_quiet, say=say), 2)
    say(f"{name} ...")
    start = time.perf_counter()
    try:
      result = in_child(measure_leg, name, settings)
    # Whatever it is: what the other legs measured is not lost.
    except Exception as error:
      measured[name] = {"error": f"{type(error).__name__}: {error}"}
      print(f"error: leg {name}: {error}", file=sys.stderr)
    else:
      measured[name] = {
        "result": result,
        "seconds": round(time.perf_counter() - start, 1),
        "busy_cores": busy,
      }
      report.show(console, result)
    written = report.write(output, about, measured)
  if earlier:
    tables = comparing.compare(earlier, written)
    differences = comparing.differences(earlier, written)
    report.show_tables(console, tables)
    for line in differences:
      say(line)
    report.write_compared(output, tables, differences)
  say(f"wrote {output}/benchmark.json and benchmark.md")
  return int(any("error" in leg for leg in measured.values()))


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  try:
    return tyro.cli(
      benchmark, args=arguments, prog="python -m experiments.benchmark"
    )
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130


if __name__ == "__main__":
  sys.exit(main())
