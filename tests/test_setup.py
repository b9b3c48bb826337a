"""The locks and the script that builds an environment from one."""

import ast
import configparser
from importlib import metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = [
  "requirements.txt",
  "requirements-modern.txt",
  "requirements-lint.txt",
]


def _pins(lock: str) -> dict[str, str]:
  """name -> version, of the lines of a lock that hold for this Python."""
  pins = {}
  for line in (ROOT / lock).read_text().splitlines():
    if line and not line.lstrip().startswith("#"):
      requirement = Requirement(line)
      if requirement.marker is None or requirement.marker.evaluate():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins[requirement.name.lower().replace("_", "-")] = specifier.version
  return pins


def _bounds() -> list[tuple[str, Requirement]]:
  """(extra, requirement) for every line of setup.cfg's dependencies."""
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  sections = {"": parser["options"]["install_requires"]}
  sections.update(parser["options.extras_require"])
  return [
    (extra, Requirement(line))
    for extra, lines in sections.items()
    for line in lines.split("\n")
    if line
  ]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_index(lock):
  lines = (ROOT / lock).read_text().splitlines()
  assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_full_lock_holds_the_versions_that_docs_explain():
  pins = _pins("requirements.txt")
  expected = {
    "jax": "0.7.1",
    "jaxlib": "0.7.1",
    "flax": "0.12.0",
    "rlax": "0.1.9",
    "envpool": "1.2.5",
    "dm-reverb": "0.14.0",
    "tensorflow-cpu": "2.15.1",
    "ml-dtypes": "0.5.4",
    "numpy": "1.26.4",
    "protobuf": "4.25.9",
  }
  assert {name: pins.get(name) for name in expected} == expected


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_no_nightly_build(lock):
  pins = _pins(lock)
  assert not {"distrax", "tfp-nightly", "tensorflow-probability"} & set(pins)
  assert not [pin for pin in pins.items() if ".dev" in pin[1]]


def test_modern_lock_holds_envpool_but_neither_tensorflow_nor_reverb():
  pins = set(_pins("requirements-modern.txt"))
  assert {"jax", "envpool", "pytest"} <= pins
  assert not {"tensorflow", "tensorflow-cpu", "dm-reverb"} & pins


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_modern_lock_has_every_package_once_for_each_python(python):
  names = []
  for line in (ROOT / "requirements-modern.txt").read_text().splitlines():
    if line and not line.lstrip().startswith("#"):
      requirement = Requirement(line)
      if requirement.marker is None or requirement.marker.evaluate(
        {"python_version": python, "python_full_version": python + ".1"}
      ):
        names.append(requirement.name)
  assert len(names) == len(set(names)) > 50
  classifier = "Programming Language :: Python :: " + python
  assert classifier in (ROOT / "setup.cfg").read_text()


def test_lock_meets_the_bounds_of_setup_cfg():
  pins = _pins("requirements.txt")
  for extra, requirement in _bounds():
    if extra in ("popgym", "hub"):  # in no lock: no test needs them
      continue
    name = requirement.name.lower().replace("_", "-")
    assert requirement.specifier.contains(pins[name]), requirement


def test_setup_cfg_lists_what_is_imported():
  distributions = metadata.packages_distributions()
  listed = {r.name.lower().replace("_", "-") for _, r in _bounds()}
  listed |= {
    "tensorflow-cpu",
    "protobuf",
  }  # beside Reverb; docs/install.md says why not
  own = {"r2d2_jax", "experiments"} | sys.stdlib_module_names
  own.add("torch")  # a child process of the benchmark's: requirements-bench.txt
  own.add("wandb")  # whoever asks for it installs it: log.wandb_project
  for path in [
    p for top in ("r2d2_jax", "experiments") for p in (ROOT / top).rglob("*.py")
  ]:
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
      for top in {name.partition(".")[0] for name in names} - own:
        providers = {
          d.lower().replace("_", "-") for d in distributions.get(top, [])
        }
        assert providers & listed, f"{path} imports {top}, not in setup.cfg"


def test_algorithm_world_and_replay_need_no_extra():
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  lines = parser["options"]["install_requires"].split("\n")
  allowed = {Requirement(line).name.replace("-", "_") for line in lines if line}
  assert not allowed & {"matplotlib", "rich", "tyro", "orbax_checkpoint"}
  allowed |= sys.stdlib_module_names | {"r2d2_jax"}
  # tests/test_architecture.py
  allowed |= {"envpool", "gymnasium", "reverb", "tensorflow"}
  package = ROOT / "r2d2_jax"
  allowed.add("google")  # protobuf, which Reverb brings
  paths = [package / "types.py", package / "factories.py"]
  for part in "config", "ops", "agent", "envs", "replay":
    paths += (package / part).rglob("*.py")
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
      tops = {name.partition(".")[0] for name in names}
      assert tops <= allowed, f"{path} imports {tops - allowed}"


def test_every_folder_of_modules_is_a_package():
  # setup.cfg finds packages by their __init__.py, and leaves out the others.
  for path in (ROOT / "r2d2_jax").rglob("*.py"):
    assert (path.parent / "__init__.py").exists(), path.parent


def _make_venv(directory, lock_text, *, min_disk_mb=1, **environment):
  """Runs the set-up in `directory`, with these variables on top."""
  (directory / "lock.txt").write_text(lock_text)
  merged = {**os.environ, "PYTHON": sys.executable, **environment}
  return subprocess.run(
    [str(ROOT / ".ci/make_venv"), "venv", "lock.txt", str(min_disk_mb)],
    cwd=directory,
    env=merged,
    capture_output=True,
    text=True,
    check=False,
  )


def _assert_one_line(result, words):
  assert result.returncode == 1
  assert result.stderr.count("\n") == 1 and result.stderr.startswith("set-up: ")
  assert words in result.stderr


def _fake_python(directory, body) -> str:
  python = directory / "python"
  python.write_text(f"#!/bin/sh\n{body}\n")
  python.chmod(0o755)
  return str(python)


def test_no_python(tmp_path):
  result = _make_venv(tmp_path, "", PYTHON="no-such-python")
  _assert_one_line(result, "is needed, 'no-such-python' is missing")
  assert not (tmp_path / "venv").exists()


def test_wrong_python(tmp_path):
  python = _fake_python(tmp_path, "echo 3.9")
  result = _make_venv(tmp_path, "", PYTHON=python)
  _assert_one_line(result, "Python 3.11 or 3.12 or 3.13 is needed")
  assert f"'{python}' is 3.9:" in result.stderr
  assert not (tmp_path / "venv").exists()


def test_reverb_needs_one_python_and_one_platform(tmp_path):
  python = _fake_python(tmp_path, "echo 3.12")
  result = _make_venv(tmp_path, "dm-reverb==0.14.0\n", PYTHON=python)
  _assert_one_line(result, "Python 3.11 is needed")
  uname = tmp_path / "uname"
  uname.write_text("#!/bin/sh\necho Darwin arm64\n")
  uname.chmod(0o755)
  path = f"{tmp_path}:{os.environ['PATH']}"
  result = _make_venv(tmp_path, "dm-reverb==0.14.0\n", PATH=path)
  _assert_one_line(
    result, "Reverb needs Linux x86_64, this is Darwin arm64: 'make"
  )
  assert "EnvPool" not in result.stderr
  # Without Reverb the same machine goes on, here to the missing Python.
  result = _make_venv(tmp_path, "", PATH=path, PYTHON="no-such-python")
  _assert_one_line(result, "'no-such-python' is missing")


def test_too_little_disk(tmp_path):
  result = _make_venv(tmp_path, "", min_disk_mb=10**9)
  _assert_one_line(result, "1000000000 MB of free disk are needed")
  assert not (tmp_path / "venv").exists()


def test_somebody_elses_directory_is_left_alone(tmp_path):
  (tmp_path / "venv").mkdir()
  (tmp_path / "venv/precious").touch()
  _assert_one_line(_make_venv(tmp_path, ""), "was not made by this set-up")
  assert (tmp_path / "venv/precious").exists()


def test_built_once_rebuilt_when_cut_off_or_changed(tmp_path):
  lock = tmp_path / "venv/installed-lock.txt"

  # No index behind this address: the build is cut off, not taken for whole.
  nowhere = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_RETRIES": "1",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_FIND_LINKS": "",
  }
  result = _make_venv(tmp_path, "toolz==1.2.0\n", **nowhere)
  _assert_one_line(result, "no package index can be reached")
  assert (tmp_path / "venv/bin/python").exists() and not lock.exists()
  mark = tmp_path / "venv/mark"  # a rebuild removes it
  mark.touch()
  assert _make_venv(tmp_path, "# empty\n").returncode == 0
  assert lock.read_text() == "# empty\n" and not mark.exists()

  # From here on a build would fail: there is no Python to build with.
  again = _make_venv(tmp_path, "# empty\n", PYTHON="no-such-python")
  assert again.returncode == 0 and not again.stdout
  changed = _make_venv(tmp_path, "# changed\n", PYTHON="no-such-python")
  _assert_one_line(changed, "is missing")
  shutil.rmtree(tmp_path / "venv/bin")
  broken = _make_venv(tmp_path, "# empty\n", PYTHON="no-such-python")
  _assert_one_line(broken, "is missing")


def test_make_help_lists_the_two_commands():
  result = subprocess.run(
    ["make", "-C", str(ROOT), "help"],
    capture_output=True,
    text=True,
    check=True,
  )
  assert re.search(r"^make train +\S", result.stdout, re.M)
  assert re.search(r"^make test +\S", result.stdout, re.M)
