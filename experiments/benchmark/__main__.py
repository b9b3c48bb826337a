"""Measures the parts and the whole: `python -m experiments.benchmark`.

    python -m experiments.benchmark --legs learner acting
    python -m experiments.benchmark --torch-python /path/to/python

docs/performance.md says what each leg is.
"""

import datetime
import os
import pathlib
import shlex
import sys
import time

import tyro

from experiments.benchmark.legs import USUAL_LEGS, Leg, Settings, measure_leg
from r2d2_jax.config import ConfigError

# jax, EnvPool and Reverb are imported by the legs, in processes of their own.


def benchmark(
  legs: tuple[Leg, ...] = USUAL_LEGS,
  toy: bool = False,
  output: pathlib.Path | None = None,
  torch_python: str = sys.executable,
) -> int:
  """Measures the learner, acting, replay, whole runs, start-up and growth.

  Takes about twelve minutes on two cores; leave the machine alone meanwhile.
  Every comparison is a ratio within the run. Nothing fails because of a number.

  Args:
    legs: what to measure; `cluster`, which starts Ray, only where it is named.
    toy: smallest sizes: shows that everything runs, measures nothing.
    output: directory for benchmark.json and benchmark.md; left out, it is
      runs/benchmark-<date>.
    torch_python: interpreter that has PyTorch (requirements-bench.txt), for the
      learner's counterpart.

  Returns:
    The exit code: 1 if a leg broke down.
  """
  from rich.console import Console

  from experiments.benchmark import machine, report
  from experiments.benchmark.children import in_child

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
  if os.sep in torch_python:  # children run elsewhere; no link is followed
    torch_python = os.path.abspath(torch_python)
  settings = Settings(toy, torch_python)
  about = machine.describe() | {
    "command": shlex.join(
      ["python", "-m", "experiments.benchmark", *sys.argv[1:]]
    ),
    "toy": toy,
    "load_average": machine.load_average(),
  }
  measured: dict[str, dict] = {}
  for name in legs:
    console.print(f"{name} ...", highlight=False)
    load, start = machine.load_average(), time.perf_counter()
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
        "load_average": load,
      }
      report.show(console, result)
    report.write(output, about, measured)
  console.print(
    f"wrote {output}/benchmark.json and benchmark.md",
    highlight=False,
    soft_wrap=True,
  )
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
