"""Leg `start_up`: seconds until a command answers, acts and learns.

Everything here runs in processes of its own, one at a time.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from experiments.benchmark.children import ROOT
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import (
  LegResult,
  Table,
  less_than,
  ratio,
  spread,
)

# Python with the one package that every command needs to read its settings.
_BARE = [sys.executable, "-c", "import numpy"]
_HELP_AIM = 5.0  # times as long
_COMMANDS = ("train", "evaluate", "plot", "benchmark")
_MODULES = {
  "settings and types": "r2d2_jax.config, r2d2_jax.types",
  "learner, acting": "r2d2_jax.agent.learning, r2d2_jax.agent.acting",
  "pure half: agent, built-in world, local replay": (
    "r2d2_jax.agent.learning, r2d2_jax.envs.recall, r2d2_jax.replay.local"
  ),
  "EnvPool's worlds": "r2d2_jax.envs.envpool_world",
  "Reverb's replay": "r2d2_jax.replay.reverb",
  "training": "r2d2_jax.system.train",
}
# Preset -> rounds.
_FULL_RUNS = {"smoke": 2, "laptop": 2}
_TOY_RUNS = {"smoke": 1}


def measure(settings: Settings) -> LegResult:
  """Seconds of --help, of imports, until the first action and update."""
  toy = settings.toy
  comparisons, help_rows = [], []
  commands = {
    name: [sys.executable, "-m", f"experiments.{name}", "--help"]
    for name in (_COMMANDS[:1] if toy else _COMMANDS)
  }
  bare: list[float] = []
  seconds: dict[str, list[float]] = {name: [] for name in commands}
  for _ in range(1 if toy else 5):
    bare.append(_seconds(_BARE))
    for name, command in commands.items():
      seconds[name].append(_seconds(command))
  help_rows.append(("python -c 'import numpy'", spread(bare)))
  for name, values in seconds.items():
    help_rows.append((f"python -m experiments.{name} --help", spread(values)))
    comparisons.append(
      less_than(
        f"start_up, experiments.{name} --help: times Python's start with numpy",
        ratio(values, bare),
        _HELP_AIM,
      )
    )
  skipped, import_rows = [], []
  for name, modules in list(_MODULES.items())[: 1 if toy else None]:
    try:
      import_rows.append((name, *_import_seconds(modules, 1 if toy else 3)))
    except ImportError as error:
      skipped.append(f"start_up, {name}: {error}")
  run_rows = []
  for preset, rounds in (_TOY_RUNS if toy else _FULL_RUNS).items():
    moments = [_moments(preset) for _ in range(rounds)]
    run_rows.append(
      (
        preset,
        *(
          spread([m[name] for m in moments])
          for name in ("first_action", "first_update")
        ),
      )
    )
  return LegResult(
    comparisons,
    [
      Table("Start-up: help", ("command", "seconds"), help_rows),
      Table(
        "Start-up: imports, each in a fresh process",
        ("what", "seconds", "TensorFlow loaded"),
        import_rows,
        "Python's own start is not in it.",
      ),
      Table(
        "Start-up: python -m experiments.train --preset ...",
        (
          "preset",
          "seconds to the first action",
          "seconds to the first update",
        ),
        run_rows,
        "From the start of the process; to the first update the replay is"
        " filled as the preset asks.",
      ),
    ],
    skipped,
  )


def _seconds(command: list[str]) -> float:
  start = time.perf_counter()
  subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
  return time.perf_counter() - start


def _import_seconds(modules: str, rounds: int):
  """Seconds to import them, and whether TensorFlow came with them."""
  program = (
    "import json, sys, time; start = time.perf_counter()\n"
    f"import {modules}\n"
    "print(json.dumps([time.perf_counter() - start,"
    " 'tensorflow' in sys.modules]))"
  )
  answers = []
  for _ in range(rounds):
    result = subprocess.run(
      [sys.executable, "-c", program],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    if result.returncode:
      raise ImportError(result.stderr.strip().splitlines()[-1])
    answers.append(json.loads(result.stdout.splitlines()[-1]))
  return (
    spread([seconds for seconds, _ in answers]),
    "yes" if answers[0][1] else "no",
  )


def _moments(preset: str) -> dict[str, float]:
  """Seconds from the process's start to its first action and first update."""
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / "moments.json"
    start = time.monotonic()
    result = subprocess.run(
      [
        sys.executable,
        "-m",
        "experiments.benchmark.first_update",
        str(path),
        "--preset",
        preset,
        "--run.run-dir",
        str(pathlib.Path(directory) / "run"),
      ],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    if not path.exists():
      raise RuntimeError(
        f"preset {preset} came to no update, exit code {result.returncode}:"
        f" {result.stderr[-500:]}"
      )
    moments = json.loads(path.read_text())
  return {name: moment - start for name, moment in moments.items()}
