"""What all commands share: help without jax, one line for an error, exit codes."""

import pathlib
import subprocess
import sys

import pytest

from experiments.command import check_new_file, run_command
from r2d2_jax.config import ConfigError
from r2d2_jax.system.checkpoints import CheckpointError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("module, words", [
    ("evaluate", ["--checkpoint", "--episodes", "--epsilon", "--seed"]),
    ("scoreboard", ["--csv", "--plots"]),
    ("plot", ["--out", "--column", "--title"]),
])
def test_help_imports_no_jax(module, words):
  code = (
      f"import sys, experiments.{module} as command\n"
      "try: command.main(['--help'])\n"
      "except SystemExit as e: assert e.code == 0\n"
      "heavy = {'jax', 'reverb', 'envpool', 'matplotlib'} & set(sys.modules)\n"
      "assert not heavy, heavy\n"
  )
  result = subprocess.run(
      [sys.executable, "-c", code],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  for word in words:
    assert word in result.stdout


def _run(error):
  def function():
    if error is not None:
      raise error

  return run_command(function, prog="x", arguments=[])


@pytest.mark.parametrize("error", [
    ConfigError("do this"), ValueError("do this"), ImportError("do this"),
    CheckpointError("do this"), FileNotFoundError("do this"),
])
def test_what_the_user_can_mend_is_one_line(error, capsys):
  assert _run(error) == 2
  assert capsys.readouterr().err == "error: do this\n"


def test_the_home_directory_is_put_in_for_every_command(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")

  def function(*paths: pathlib.Path, out: pathlib.Path, title: str) -> None:
    found.append((paths, out, title))

  found = []
  arguments = ["--paths", "~/a", "~", "b~/c", "--out=~/d.png", "--title=~5 %"]
  assert run_command(function, prog="x", arguments=arguments) == 0
  paths = (pathlib.Path("/home/me/a"), pathlib.Path("/home/me"))
  assert found == [(
      (*paths, pathlib.Path("b~/c")), pathlib.Path("/home/me/d.png"), "~5 %"
  )]  # fmt: skip


def test_a_link_to_nowhere_is_no_name_for_a_file(tmp_path):
  (tmp_path / "a.png").symlink_to(tmp_path / "nowhere" / "b.png")
  with pytest.raises(ConfigError, match="--out: .*a.png: a link to .*not there"):
    check_new_file("--out", tmp_path / "a.png", ".png")
  with pytest.raises(ConfigError, match="--out: .*: File name too long"):
    check_new_file("--out", tmp_path / ("x" * 300 + ".png"), ".png")


def test_other_ends(capsys):
  assert _run(None) == 0
  assert _run(KeyboardInterrupt()) == 130
  assert capsys.readouterr().err == "interrupted\n"
  for fault in (RuntimeError("x"), TypeError("x")):
    with pytest.raises(type(fault)):
      _run(fault)
  with pytest.raises(SystemExit) as exit_:
    run_command(lambda: None, prog="x", arguments=["--no-such-flag"])
  assert exit_.value.code == 2
