"""Devices that JAX does not find, and networks that a CPU is slow for."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from r2d2_jax.config import MissingPackageError
from r2d2_jax.envs import make
from r2d2_jax.presets import PRESETS, smoke
from r2d2_jax.system.planning.preflight import plan_run
from r2d2_jax.system.planning.words import plan_warnings

ROOT = pathlib.Path(__file__).parents[3]
_PLUGINS = {"cuda": "jax_cuda12_plugin", "tpu": "libtpu"}


@pytest.mark.parametrize(
  "asked, words",
  [
    ("cuda", "; unset it, or install the extra 'gpu': pip install '.[gpu]'"),
    ("tpu", "; unset it, or install the extra 'tpu': pip install '.[tpu]'"),
    ("nonsense", "Unable to initialize backend 'nonsense'"),
    ("nonsense,cpu", "'nonsense,cpu'"),
  ],
)
def test_a_device_that_is_not_there_is_one_message(asked, words, tmp_path):
  if importlib.util.find_spec(_PLUGINS.get(asked, "nothing")):
    pytest.skip("it may be there")
  result = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.train",
      "--preset",
      "smoke",
      "--run.run-dir",
      str(tmp_path / "run"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
    env=os.environ | {"JAX_PLATFORMS": asked},
  )
  assert result.returncode == 2, result.stderr
  assert re.match(
    f"error: JAX_PLATFORMS: expected a device of {asked!r}, but JAX finds"
    " [cgt]pu here",
    result.stderr,
  )
  assert words in result.stderr and result.stderr.count("\n") == 1
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["paper", "gpu", "laptop", "smoke"])
def test_a_network_for_accelerators_is_warned_of_on_a_cpu(preset, tmp_path):
  config = PRESETS[preset]()
  if preset != "smoke":
    pytest.importorskip("envpool")
  plan = plan_run(config, tmp_path / "run")
  slow = lambda plan: [w for w in plan_warnings(plan) if "no accelerator" in w]
  assert bool(slow(plan)) == (preset in ("paper", "gpu"))
  assert not slow(plan._replace(platform="gpu"))


def test_a_missing_envpool_is_told_in_words(monkeypatch):
  monkeypatch.setitem(sys.modules, "envpool", None)
  monkeypatch.delitem(sys.modules, "r2d2_jax.envs.envpool_world", raising=False)
  monkeypatch.delattr("r2d2_jax.envs.envpool_world", raising=False)
  env = dataclasses.replace(smoke().env, task="Pong")
  with pytest.raises(
    MissingPackageError, match=r"pip install 'r2d2_jax\[envpool\]'"
  ):
    make.world_spec(env)
