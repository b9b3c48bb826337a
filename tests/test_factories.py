"""Factories by name: table entries, import paths, what is said of others."""

import sys
import textwrap

import pytest

from r2d2_jax.config import ConfigError
from r2d2_jax.factories import factory, load, path_of

TABLE = {"one": 1, "two": 2}


@pytest.fixture
def own_module(tmp_path, monkeypatch):
  """Writes `my_own_module.py` into the current directory."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

  def write(text):
    (tmp_path / "my_own_module.py").write_text(textwrap.dedent(text))

  yield write
  sys.modules.pop("my_own_module", None)


def test_a_name_of_the_table():
  assert factory("network.torso", "two", TABLE) == 2


def test_a_path_is_found_from_the_current_directory(own_module):
  own_module(
    "class A:\n  @staticmethod\n  def f(): return 7\ndef g(): return 8"
  )
  assert factory("network.torso", "my_own_module:g", TABLE)() == 8
  assert load("network.torso", "my_own_module:A.f")() == 7


@pytest.mark.parametrize(
  "name, words",
  [
    (
      "three",
      "network.torso: expected one of one, two, or 'package.module:name'",
    ),
    ("no_such_module:f", "no module named 'no_such_module'"),
    ("my_own_module.deeper:f", "no module named 'my_own_module.deeper'"),
    ("my_own_module:f", "my_own_module has no 'f'"),
    ("my_own_module:", "my_own_module has no ''"),
  ],
)
def test_what_is_not_there_is_told(own_module, name, words):
  own_module("x = 1")
  with pytest.raises(ConfigError, match="network.torso") as caught:
    factory("network.torso", name, TABLE)
  assert words in str(caught.value)


def test_an_error_inside_the_module_is_its_own(own_module):
  own_module("import no_such_package_of_mine")
  with pytest.raises(ModuleNotFoundError, match="no_such_package_of_mine"):
    load("network.torso", "my_own_module:f")
  own_module("raise ValueError('mine')")
  with pytest.raises(ValueError, match="mine") as caught:
    load("network.torso", "my_own_module:f")
  assert not isinstance(caught.value, ConfigError)


def test_the_path_of_a_function_leads_back_to_it():
  assert path_of(factory) == "r2d2_jax.factories:factory"
  assert load("agent.make_agent", path_of(factory)) is factory

  def local():
    pass

  assert path_of(local) == ""
  assert path_of(lambda: 0) == ""
  assert path_of(3) == ""
