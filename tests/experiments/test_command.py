"""What all commands share: help without jax, one line for an error, exit codes."""

import pathlib
import subprocess
import sys

import pytest

from experiments.command import run_command
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
