"""Imports point down only, and heavy packages enter through one door each."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

_BOTTOM = {"config", "types", "factories", "parts"}
# What the modules of a room may import from r2d2_jax, beside their own room.
# experiments/ may import all of it.
_BELOW = {
  "config": set(),
  "types": set(),
  "factories": {"config"},
  "parts": {"types"},
  "presets": {"config"},
  "family": {"config", "presets"},
  "ops": {"config", "types"},
  "agent": _BOTTOM | {"ops"},
  "envs": _BOTTOM,
  "replay": _BOTTOM,
  "system": _BOTTOM | {"agent", "envs", "replay"},
  "video": _BOTTOM | {"agent", "envs", "system"},
  "analysis": _BOTTOM | {"envs", "system"},
  "cli": _BOTTOM | {"presets", "family", "system", "video", "analysis"},
  "cluster": _BOTTOM
  | {"agent", "envs", "replay", "system", "presets", "family", "cli"},
}
# Inside system/: its sub-packages, and the modules beside them; what each may
# import of the others. loops/ knows no files, storage/ and metrics/ no run.
_INSIDE_SYSTEM = {
  "devices": set(),
  "compile_cache": set(),
  "storage": {"devices"},
  "metrics": {"storage"},
  "loops": {"devices", "metrics"},
  "planning": {"devices", "metrics", "storage"},
  "evaluation": {"devices", "storage"},
  "example": set(),
  "run": {"devices", "evaluation", "loops", "metrics", "planning", "storage"},
  "train": {
    "compile_cache",
    "devices",
    "evaluation",
    "loops",
    "metrics",
    "planning",
    "run",
    "storage",
  },
}

# Package -> how the path of the only modules begins that may import it;
# agent/_rlax.py says why it loads parts of rlax instead.
_DOORS = {
  "envpool": "r2d2_jax/envs/",
  "gymnasium": "r2d2_jax/envs/",
  "reverb": "r2d2_jax/replay/reverb",
  "tensorflow": "r2d2_jax/replay/reverb",
  "rlax": "r2d2_jax/agent/_rlax.py",
  "ray": "r2d2_jax/cluster/",
  "torch": "experiments/benchmark/torch_step.py",
}
# experiments/ may measure these two bare; rlax it must take from the agent.
_OPEN_TO_EXPERIMENTS = {"envpool", "reverb", "tensorflow"}

_JAX = {"jax", "jaxlib", "flax", "optax", "chex", "rlax"}
_CLOCKS_THREADS_FILES = {
  "time",
  "datetime",
  "threading",
  "queue",
  "concurrent",
  "multiprocessing",
  "subprocess",
  "asyncio",
  "socket",
  "os",
  "io",
  "pathlib",
  "shutil",
  "tempfile",
  "pickle",
}
# Room -> what it never imports: command lines read config and types in
# milliseconds, the world is numpy, the algorithm is pure, numbers and files
# know no threads, the loops no files.
_NEVER = {
  "config": _JAX,
  "types": _JAX,
  "factories": _JAX,
  "parts": _JAX,
  "envs": _JAX,
  "agent": _CLOCKS_THREADS_FILES,
  "system/metrics": {"threading"},
  "system/storage": {"threading"},
  "system/loops": {"pathlib"},
}

# The doors themselves; every other module below system/ does without.
_NEEDS_AN_EXTRA = {
  "r2d2_jax.envs.action_spaces",
  "r2d2_jax.envs.envpool_world",
  "r2d2_jax.envs.gymnasium_lanes",
  "r2d2_jax.envs.gymnasium_make",
  "r2d2_jax.envs.gymnasium_world",
  "r2d2_jax.envs.spaces",
  "r2d2_jax.envs.vector_calls",
  "r2d2_jax.replay.reverb",
  "r2d2_jax.replay.reverb_calls",
  "r2d2_jax.replay.reverb_parts",
  "r2d2_jax.replay.reverb_server",
  "r2d2_jax.replay.reverb_streams",
}


def _sources() -> list[str]:
  return sorted(
    str(path.relative_to(ROOT))
    for top in ("r2d2_jax", "experiments")
    for path in (ROOT / top).rglob("*.py")
  )


def _module(path: str) -> str:
  parts = list(pathlib.PurePosixPath(path).with_suffix("").parts)
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: str, source: str) -> set[str]:
  """Dotted names that a source imports, anywhere in it.

  `from a.b import c` counts as a.b.c, for c may be a module.
  """
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        package = pathlib.PurePosixPath(path).parent.parts
        kept = package[: len(package) - node.level + 1]
        base = ".".join([*kept, base] if base else kept)
      names.update(f"{base}.{alias.name}" for alias in node.names)
  return names


def _violations(path: str, source: str) -> list[str]:
  """One line for each import in `source` that the module may not have."""
  parts = _module(path).split(".")
  in_package = parts[0] == "r2d2_jax"
  room = parts[1] if in_package and len(parts) > 1 else ""
  found = []
  for name in sorted(_imported(path, source)):
    top, _, rest = name.partition(".")
    target = rest.partition(".")[0]
    if top == "r2d2_jax" and in_package and (not room or target != room):
      if target not in _BELOW.get(room, set()):
        found.append(f"{path} imports {name}: imports point down only")
    inner, _, _ = rest.partition(".")[2].partition(".")
    if room == "system" and target == "system" and len(parts) > 2:
      if inner != parts[2] and inner not in _INSIDE_SYSTEM[parts[2]]:
        found.append(f"{path} imports {name}: system/{parts[2]} does without")
    if top == "experiments" and in_package:
      found.append(f"{path} imports {name}: imports point down only")
    if top in _DOORS and not path.startswith(_DOORS[top]):
      if in_package or top not in _OPEN_TO_EXPERIMENTS:
        found.append(f"{path} imports {name}: only {_DOORS[top]} may")
    for place in (room, "/".join(parts[1:3])):
      if top in _NEVER.get(place, set()):
        found.append(f"{path} imports {name}: {place} does without")
  return found


@pytest.mark.parametrize("path", _sources())
def test_module_keeps_to_the_rules(path):
  assert not _violations(path, (ROOT / path).read_text())


def test_every_room_is_known():
  rooms = {
    _module(path).split(".")[1]
    for path in _sources()
    if _module(path).startswith("r2d2_jax.")
  }
  assert rooms == set(_BELOW)
  inside = {
    _module(path).split(".")[2]
    for path in _sources()
    if _module(path).startswith("r2d2_jax.system.")
  }
  assert inside == set(_INSIDE_SYSTEM)


@pytest.mark.parametrize(
  "path, source",
  [
    ("r2d2_jax/agent/a.py", "from r2d2_jax.replay import local"),
    ("r2d2_jax/agent/a.py", "from r2d2_jax import envs"),
    ("r2d2_jax/agent/a.py", "from ..envs.world import World"),
    ("r2d2_jax/agent/a.py", "from .. import system"),
    ("r2d2_jax/agent/a.py", "import r2d2_jax.system.train"),
    ("r2d2_jax/agent/a.py", "def f():\n  import r2d2_jax.envs"),
    ("r2d2_jax/agent/a.py", "import rlax"),
    ("r2d2_jax/agent/a.py", "import time"),
    ("r2d2_jax/agent/a.py", "from threading import Lock"),
    ("r2d2_jax/envs/a.py", "from r2d2_jax.replay.local import LocalReplay"),
    ("r2d2_jax/envs/a.py", "import jax.numpy as jnp"),
    ("r2d2_jax/replay/a.py", "from r2d2_jax.agent.priorities import x"),
    ("r2d2_jax/replay/local.py", "import reverb"),
    ("r2d2_jax/replay/reverb.py", "import envpool"),
    ("r2d2_jax/system/run/a.py", "from experiments.train import main"),
    ("r2d2_jax/system/run/a.py", "from r2d2_jax.cli.train import main"),
    ("r2d2_jax/system/run/a.py", "from envpool import make"),
    ("r2d2_jax/system/run/a.py", "import tensorflow as tf"),
    (
      "r2d2_jax/system/loops/a.py",
      "from r2d2_jax.system.storage.rundir import read_config",
    ),
    ("r2d2_jax/system/storage/a.py", "from r2d2_jax.system.loops import actor"),
    ("r2d2_jax/system/metrics/a.py", "import r2d2_jax.system.run.state"),
    ("r2d2_jax/system/metrics/a.py", "import threading"),
    ("r2d2_jax/system/storage/a.py", "from threading import Lock"),
    ("r2d2_jax/system/loops/a.py", "import pathlib"),
    ("r2d2_jax/ops/a.py", "from r2d2_jax.agent.loss import burn_in"),
    ("r2d2_jax/agent/a.py", "from r2d2_jax import presets"),
    ("r2d2_jax/config/sections.py", "import jax"),
    ("r2d2_jax/config/sections.py", "from r2d2_jax import types"),
    ("r2d2_jax/types.py", "from jax import Array"),
    ("r2d2_jax/types.py", "from . import config"),
    ("r2d2_jax/__init__.py", "from r2d2_jax.config import Config"),
    ("experiments/a.py", "import rlax"),
    ("experiments/a.py", "import torch"),
    ("r2d2_jax/agent/a.py", "from torch import nn"),
    ("r2d2_jax/system/a.py", "import ray"),
    ("experiments/a.py", "import ray"),
    ("r2d2_jax/system/run/a.py", "from r2d2_jax.cluster import governor"),
    ("r2d2_jax/cli/a.py", "from r2d2_jax.cluster.run import train_on_cluster"),
  ],
)
def test_wrong_import_is_found(path, source):
  assert _violations(path, source)


@pytest.mark.parametrize(
  "path, source",
  [
    ("r2d2_jax/agent/a.py", "from r2d2_jax.agent._rlax import load"),
    ("r2d2_jax/agent/a.py", "from . import loss\nfrom .loss import burn_in"),
    ("r2d2_jax/agent/a.py", "from r2d2_jax.types import Array\nimport jax"),
    ("r2d2_jax/envs/a.py", "import envpool\nimport os"),
    ("r2d2_jax/replay/reverb.py", "import reverb\nimport tensorflow as tf"),
    (
      "r2d2_jax/system/run/a.py",
      "from r2d2_jax.replay.make import make_replay",
    ),
    (
      "r2d2_jax/system/run/a.py",
      "import threading\nfrom r2d2_jax import config",
    ),
    ("r2d2_jax/system/run/a.py", "from r2d2_jax.system.loops import actor"),
    ("r2d2_jax/system/loops/a.py", "import threading"),
    ("r2d2_jax/system/metrics/a.py", "import pathlib"),
    ("r2d2_jax/cli/a.py", "from r2d2_jax.video.recording import play_game"),
    ("experiments/a.py", "import r2d2_jax.system.train\nimport envpool"),
    ("r2d2_jax/cluster/a.py", "import ray\nfrom r2d2_jax.cli import command"),
    ("experiments/benchmark/torch_step.py", "import torch"),
  ],
)
def test_right_import_passes(path, source):
  assert not _violations(path, source)


_IMPORT_WITHOUT = """
import importlib, sys

class Block:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {blocked!r}:
      raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Block())
for module in {modules!r}:
  importlib.import_module(module)
"""


def _import_without(blocked: list[str], modules: list[str]) -> None:
  program = _IMPORT_WITHOUT.format(blocked=blocked, modules=modules)
  result = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


def test_pure_half_needs_neither_tensorflow_nor_reverb_nor_envpool():
  modules = [
    _module(path)
    for path in _sources()
    if path.startswith("r2d2_jax/") and not path.startswith("r2d2_jax/system/")
  ]
  assert set(modules) > _NEEDS_AN_EXTRA
  _import_without(
    [
      "tensorflow",
      "reverb",
      "envpool",
      "gymnasium",
      "distrax",
      "tensorflow_probability",
    ],
    sorted(set(modules) - _NEEDS_AN_EXTRA),
  )


def test_config_and_types_need_no_jax():
  _import_without(
    sorted(_JAX | {"tensorflow", "reverb", "envpool"}),
    ["r2d2_jax.config", "r2d2_jax.types", "r2d2_jax.factories"],
  )
