"""An error of orbax is told once; errors of others are told as ever."""

import sys
import types

import pytest

from r2d2_jax.system.storage.quiet_orbax import quiet_checkpointer


@pytest.fixture(name="heard")
def _heard(monkeypatch):
  """What reaches the hook that was there before."""
  heard = []
  monkeypatch.setattr(sys, "unraisablehook", heard.append)
  return heard


def test_the_hook_of_before_comes_back_or_gets_everything_else(heard):
  before = sys.unraisablehook
  with quiet_checkpointer():
    pass
  assert sys.unraisablehook is before
  for _ in range(3):
    with pytest.raises(ValueError, match="damaged"), quiet_checkpointer():
      raise ValueError("damaged")
  others = [
    types.SimpleNamespace(exc_value=error, object=None)
    for error in (RuntimeError("another"), ValueError("Event loop is closed"))
  ]
  for other in others:
    sys.unraisablehook(other)
  late = RuntimeError("Event loop is closed")
  sys.unraisablehook(types.SimpleNamespace(exc_value=late, object=None))
  assert heard == others
