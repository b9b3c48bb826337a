"""Leg `start_up`: seconds until a command answers, acts and learns.

Everything here runs in processes of its own, one at a time.
"""

import json
import os
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
_FULL_RUNS = {"smoke": 3, "laptop": 3}
_TOY_RUNS = {"smoke": 1}
# In turns, in one cache directory that is empty at first: the setting
# run.compile_cache_gib.
_STARTS = {"nothing kept": "0", "first start": "1", "second start": "1"}
_MOMENTS = {"first_action": "first action", "first_update": "first update"}
# Of a start that finds nothing kept: 6 of 23 and 12 of 47 seconds.
_SECOND_START_AIM = 0.26


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
    moments = _starts(preset, rounds)
    run_rows += [
      (preset, start, *(spread(moments[start, name]) for name in _MOMENTS))
      for start in _STARTS
    ]
    comparisons += [
      less_than(
        f"start_up, preset {preset}, seconds to the {what}: second start /"
        " nothing kept",
        ratio(moments["second start", name], moments["nothing kept", name]),
        _SECOND_START_AIM,
      )
      for name, what in _MOMENTS.items()
    ]
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
          "compiled programs",
          *(f"seconds to the {what}" for what in _MOMENTS.values()),
        ),
        run_rows,
        "From the start of the process; to the first update the replay is"
        " filled as the preset asks. Nothing kept: run.compile_cache_gib 0; the"
        " first start fills an empty cache, the second finds it.",
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


def _starts(preset: str, rounds: int) -> dict[tuple[str, str], list[float]]:
  """(start, moment) -> seconds, one for each round."""
  seconds: dict[tuple[str, str], list[float]] = {}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as directory:
      for start, gib in _STARTS.items():
        for name, value in _moments(
          preset, gib, pathlib.Path(directory)
        ).items():
          seconds.setdefault((start, name), []).append(value)
  return seconds


def _moments(
  preset: str, cache_gib: str, directory: pathlib.Path
) -> dict[str, float]:
  """Seconds from the process's start to its first action and first update."""
  path = directory / "moments.json"
  path.unlink(missing_ok=True)
  environ = os.environ | {"XDG_CACHE_HOME": str(directory)}
  environ.pop("JAX_COMPILATION_CACHE_DIR", None)
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as run_dir:
    result = subprocess.run(
      [
        sys.executable,
        "-m",
        "experiments.benchmark.first_update",
        str(path),
        "--preset",
        preset,
        "--run.run-dir",
        str(pathlib.Path(run_dir) / "run"),
        "--run.compile-cache-gib",
        cache_gib,
      ],
      cwd=ROOT,
      env=environ,
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
