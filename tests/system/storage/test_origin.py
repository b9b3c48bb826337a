"""The record of a run's starts."""

import json
import pathlib
import subprocess

import pytest

from r2d2_jax.config import FileError
from r2d2_jax.system.storage import origin


@pytest.fixture(autouse=True)
def asked_anew():
  """The commit is asked once in a process."""
  origin._commit.cache_clear()
  yield
  origin._commit.cache_clear()


def _package_in(directory: pathlib.Path, monkeypatch) -> pathlib.Path:
  module = directory / "r2d2_jax" / "module.py"
  module.parent.mkdir(parents=True)
  module.write_text("")
  monkeypatch.setattr(origin, "_ROOT", directory)
  return module


def _git(directory, *arguments):
  names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
  return subprocess.run(
    ["git", "-C", directory, *names, *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def test_each_start_is_a_line(tmp_path, monkeypatch):
  monkeypatch.setattr("sys.argv", ["/home/me/train.py", "--preset", "smoke"])
  origin.record_start(tmp_path)
  monkeypatch.setattr("sys.argv", ["/home/me/train.py", "--run.seed", "3"])
  origin.record_start(tmp_path)
  first, second = origin.read_starts(tmp_path)
  assert first["command"] == "train.py --preset smoke"
  assert second["command"] == "train.py --run.seed 3"
  assert first["cores"] >= 1 and first["memory_gib"] > 0
  assert first["versions"]["numpy"][0].isdigit()


def test_a_long_command_is_cut(tmp_path, monkeypatch):
  monkeypatch.setattr("sys.argv", ["child.py", *["--a.setting"] * 100])
  command = origin.describe()["command"]
  assert command.startswith("child.py --a.setting") and len(command) <= 500
  assert command.endswith("--a.setting ...")


def test_a_run_of_before_has_none(tmp_path):
  assert origin.read_starts(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "[]\n", "1\n", "[" * 100_000])
def test_a_damaged_record_is_refused(text, tmp_path):
  (tmp_path / "starts.jsonl").write_text(text)
  with pytest.raises(FileError, match=r"starts\.jsonl cannot be read: "):
    origin.read_starts(tmp_path)


def test_the_commit_of_a_clone_and_whether_it_was_changed(
  tmp_path, monkeypatch
):
  module = _package_in(tmp_path, monkeypatch)
  _git(tmp_path, "init", "-q")
  _git(tmp_path, "add", ".")
  _git(tmp_path, "commit", "-q", "-m", "first")
  head = _git(tmp_path, "rev-parse", "HEAD")
  (tmp_path / "notes.txt").touch()  # not tracked
  told = origin.describe()
  assert (told["commit"], told["modified"]) == (head, False)
  origin._commit.cache_clear()
  module.write_text("x = 1\n")
  told = origin.describe()
  assert (told["commit"], told["modified"]) == (head, True)


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
  # Whatever clone it may be installed below.
  _git(tmp_path, "init", "-q")
  _package_in(tmp_path / "site-packages", monkeypatch)
  told = origin.describe()
  assert (told["commit"], told["modified"]) == (None, None)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
  _package_in(tmp_path, monkeypatch)
  (tmp_path / ".git").mkdir()
  monkeypatch.setenv("PATH", str(tmp_path))
  told = origin.describe()
  assert (told["commit"], told["modified"]) == (None, None)
  json.dumps(told)
