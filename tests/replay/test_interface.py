"""Both memories have the methods of `Replay`, and describe none anew."""

import importlib
import inspect

import pytest

from r2d2_jax.replay.interface import Replay

METHODS = {
  "insert",
  "sample",
  "update_priorities",
  "size",
  "num_inserted",
  "check_alive",
  "save",
  "close",
}


def _methods(cls):
  return {
    name: value
    for name, value in inspect.getmembers(cls, inspect.isfunction)
    if not name.startswith("_")
  }


@pytest.mark.parametrize(
  "module, name",
  [
    ("local", "LocalReplay"),
    pytest.param("reverb", "ReverbReplay", marks=pytest.mark.reverb),
  ],
)
def test_a_memory_has_the_methods_of_the_interface(module, name):
  if module == "reverb":
    pytest.importorskip("reverb")
  cls = getattr(importlib.import_module(f"r2d2_jax.replay.{module}"), name)
  interface, own = _methods(Replay), _methods(cls)
  assert interface.keys() == own.keys() == METHODS
  for method, described in interface.items():
    assert inspect.signature(own[method]) == inspect.signature(described), (
      method
    )
    assert own[method].__doc__ == "See `Replay`."
    assert described.__doc__
