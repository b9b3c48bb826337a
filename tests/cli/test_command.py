"""What all commands share: help without jax, errors of one line, exit codes."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from r2d2_jax.cli.command import check_new_file, exit_code, run_command
from r2d2_jax.config import ConfigError, FileError, MissingPackageError
from r2d2_jax.system.storage.checkpoints import CheckpointError
from tests.help import help_of

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  "module, words",
  [
    ("evaluate", ["--checkpoint", "--episodes", "--epsilon", "--seed"]),
    ("scoreboard", ["--csv", "--plots"]),
    ("plot", ["--out", "--column", "--title"]),
  ],
)
def test_help_imports_no_jax(module, words):
  shown = help_of(f"experiments.{module}", "matplotlib")
  for word in words:
    assert word in shown


def _run(error):
  def function():
    if error is not None:
      raise error

  return run_command(function, prog="x", arguments=[])


@pytest.mark.parametrize(
  "error",
  [
    ConfigError("do this"),
    FileError("do this"),
    MissingPackageError("do this"),
    CheckpointError("do this"),
  ],
)
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
  assert found == [
    ((*paths, pathlib.Path("b~/c")), pathlib.Path("/home/me/d.png"), "~5 %")
  ]


def test_a_link_to_nowhere_is_no_name_for_a_file(tmp_path):
  (tmp_path / "a.png").symlink_to(tmp_path / "nowhere" / "b.png")
  with pytest.raises(
    ConfigError, match="--out: .*a.png: a link to .*not there"
  ):
    check_new_file("--out", tmp_path / "a.png", ".png")
  with pytest.raises(ConfigError, match="--out: .*: File name too long"):
    check_new_file("--out", tmp_path / ("x" * 300 + ".png"), ".png")


@pytest.mark.parametrize(
  "fault", [RuntimeError, TypeError, ValueError, ImportError, FileNotFoundError]
)
def test_what_a_program_does_wrong_keeps_its_traceback(fault, capsys):
  with pytest.raises(fault):
    _run(fault("x"))
  assert capsys.readouterr().err == ""


def test_other_ends(capsys):
  assert _run(None) == 0
  assert _run(KeyboardInterrupt()) == 130
  assert capsys.readouterr().err == "interrupted\n"
  with pytest.raises(SystemExit) as exit_:
    run_command(lambda: None, prog="x", arguments=["--no-such-flag"])
  assert exit_.value.code == 2


@pytest.mark.parametrize(
  "number",
  [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1],
)
def test_each_signal_that_asks_to_stop_ends_a_command(number, capsys):
  before = signal.getsignal(number)
  assert exit_code(lambda: os.kill(os.getpid(), number)) == 130
  assert capsys.readouterr().err == "interrupted\n"
  assert signal.getsignal(number) == before


def test_a_command_runs_in_a_thread_that_is_not_the_main_one(capsys):
  codes = []
  thread = threading.Thread(
    target=lambda: codes.append(exit_code(lambda: print("done")))
  )
  thread.start()
  thread.join()
  assert codes == [0]
  assert capsys.readouterr().out == "done\n"


class _Broken(io.StringIO):
  """A disk that is full."""

  def write(self, text):
    raise OSError(28, "No space left on device")


def test_output_that_cannot_be_written_is_told_once_and_ends_nothing(
  monkeypatch, capsys
):
  done = []

  def command():
    for i in range(3):
      print(i, flush=True)
      done.append(i)

  monkeypatch.setattr(sys, "stdout", _Broken())
  assert exit_code(command) == 0
  assert done == [0, 1, 2]
  assert capsys.readouterr().err == (
    "warning: output cannot be written ([Errno 28] No space left on device);"
    " going on\n"
  )


def test_an_error_that_cannot_be_told_still_has_its_exit_code(monkeypatch):
  monkeypatch.setattr(sys, "stdout", _Broken())
  monkeypatch.setattr(sys, "stderr", _Broken())
  assert _run(ConfigError("do this")) == 2
  monkeypatch.setattr(sys, "stderr", None)  # closed when the process began
  monkeypatch.setattr(sys, "stdout", None)
  assert _run(ConfigError("do this")) == 2


def test_what_cannot_be_encoded_is_written_with_backslashes(monkeypatch):
  out = io.TextIOWrapper(io.BytesIO(), "ascii")
  monkeypatch.setattr(sys, "stdout", out)
  assert exit_code(lambda: print("größe")) == 0
  assert out.buffer.getvalue() == b"gr\\xf6\\xdfe\n"


def test_a_pipe_whose_reader_is_gone_leaves_the_exit_code():
  code = (
    "import sys\n"
    "from r2d2_jax.cli.command import exit_code\n"
    "def command():\n"
    "  sys.stdin.read()\n"  # until the reader is gone
    "  for i in range(9): print('x' * 9999)\n"
    "  return 7\n"
    "sys.exit(exit_code(command))\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    cwd=ROOT,
    text=True,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.close()
  process.stdin.close()
  said = process.stderr.read()
  process.stderr.close()
  assert process.wait(timeout=60) == 7
  assert said == (
    "warning: output cannot be written ([Errno 32] Broken pipe); going on\n"
  )
