"""The built wheel: what it installs. `make test-wheel` makes it."""

from importlib import metadata
import os
import pathlib

import pytest

import r2d2_jax

PREFIX = os.environ.get("WHEEL_PREFIX")

pytestmark = pytest.mark.skipif(
  not PREFIX, reason="`make test-wheel` runs these"
)


def test_package_comes_from_the_wheel():
  package = pathlib.Path(r2d2_jax.__file__).parent
  assert package.is_relative_to(PREFIX), package
  assert (package / "py.typed").exists()


def test_wheel_installs_one_top_level_package():
  files = metadata.files("r2d2_jax")
  tops = {path.parts[0] for path in files if path.suffix == ".py"}
  assert tops == {"r2d2_jax"}


def test_extras_are_not_forced_on_anyone():
  requirements = metadata.requires("r2d2_jax")
  forced = {line for line in requirements if "extra ==" not in line}
  names = {line.partition(">")[0].strip() for line in forced}
  assert names == {"jax", "flax", "optax", "chex", "rlax", "numpy"}
  extras = metadata.metadata("r2d2_jax").get_all("Provides-Extra")
  assert {"run", "envpool", "reverb", "dev"} <= set(extras)
