"""The public names: there, documented, and imported only when asked for."""

import pathlib
import re
import subprocess
import sys

import pytest

import r2d2_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", r2d2_jax.__all__)
def test_a_public_name_is_there_and_has_a_docstring(name):
  assert getattr(r2d2_jax, name).__doc__
  assert name in dir(r2d2_jax)


def test_the_page_lists_the_public_names_and_no_others():
  page = (ROOT / "docs" / "api.md").read_text()
  rows = re.findall(r"^\| `(\w+)`", page, flags=re.MULTILINE)
  assert sorted(rows) == sorted(r2d2_jax.__all__)


def test_another_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
    _ = r2d2_jax.nonsense


def test_settings_are_read_without_jax():
  code = (
    "import sys; sys.modules['jax'] = None\n"
    "import r2d2_jax\n"
    "config = r2d2_jax.presets.smoke().updated({'run.seed': 3})\n"
    "r2d2_jax.validate(config)\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
