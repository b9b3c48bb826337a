"""What the agent takes from rlax is rlax's own; rlax stays as it is."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from r2d2_jax.agent import _rlax

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(program: str) -> None:
  result = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


def test_functions_are_those_that_the_package_itself_gives():
  # distrax and dm_env are not in the locks; what is compared does not use them.
  _run("""
import sys, types
for name in "distrax", "dm_env":
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__getattr__ = lambda attribute: object
import rlax
from r2d2_jax.agent import _rlax
for name in "n_step_bootstrapped_returns", "signed_hyperbolic":
  own, taken = getattr(rlax, name), getattr(_rlax, name)
  assert own is not taken
  assert own.__code__ == taken.__code__
  assert own.__defaults__ == taken.__defaults__
  assert own.__code__.co_filename == taken.__code__.co_filename
""")


def test_nothing_of_rlax_is_left_behind_or_loaded():
  _run("""
import builtins, sys
before = builtins.__import__
import r2d2_jax.agent.targets
assert builtins.__import__ is before
tops = {name.partition(".")[0] for name in sys.modules}
assert not tops & {"rlax", "distrax", "tensorflow_probability", "tensorflow"}
""")


def test_rlax_that_is_already_there_is_left_alone():
  _run("""
import sys, types
mine = sys.modules["rlax"] = types.ModuleType("rlax")
import r2d2_jax.agent.targets
assert sys.modules["rlax"] is mine and not hasattr(mine, "_src")
assert not [name for name in sys.modules if name.startswith("rlax.")]
""")


def test_values():
  # r + d r' + d d' v'' and, at the end, r + d v of the last row.
  returns = _rlax.n_step_bootstrapped_returns(
    np.float32([1, 2, 4]),
    np.float32([0.5, 0.5, 0.5]),
    np.float32([8, 16, 32]),
    2,
  )
  np.testing.assert_allclose(returns, [1 + 1 + 4, 2 + 2 + 8, 4 + 16])
  np.testing.assert_allclose(
    _rlax.signed_hyperbolic(np.float32([3, -8]), 0.5), [1 + 1.5, -2 - 4]
  )


def test_a_missing_module_is_named():
  with pytest.raises(ImportError, match=r"rlax\._src\.gone was not found"):
    _rlax.load("gone")
