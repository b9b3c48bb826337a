"""What the commands have in common: arguments in, an exit code out."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
import re
import signal
import sys
from typing import Any

import tyro

from r2d2_jax.config import ConfigError, FileError, UserError
from r2d2_jax.system.run.interrupts import heard_signals
from r2d2_jax.system.run.output import UnfailingStream


def program(name: str) -> str:
  """What a command is called here: in a clone, or from an installed package."""
  if pathlib.Path(sys.argv[0]).name == "r2d2-jax":
    return f"r2d2-jax {name}"
  return f"python -m experiments.{name}"


def run_command(
  function: Callable[..., Any], *, prog: str, arguments: list[str] | None
) -> int:
  """Calls a function with what the command line says; returns the exit code.

  Args:
    function: its annotations and docstring define the command line.
    prog: what the help calls the program.
    arguments: without the program's name; None takes those of this process.

  Returns:
    As `exit_code`.

  Raises:
    SystemExit: code 0 after --help, code 2 after a malformed argument.
  """
  arguments = with_home(sys.argv[1:] if arguments is None else arguments)
  return exit_code(lambda: tyro.cli(function, args=arguments, prog=prog))


def with_home(arguments: list[str]) -> list[str]:
  """Puts the home directory for `~`, after `--flag=` too, as shells don't."""
  return [
    re.sub(r"^(--[\w.-]+=)?~(?=/|$)", _home, argument) for argument in arguments
  ]


def _home(match: re.Match[str]) -> str:
  return (match[1] or "") + os.path.expanduser("~")


def exit_code(command: Callable[[], int | None]) -> int:
  """Calls a command; returns the exit code.

  Signals that ask to stop are heard (`heard_signals`), Ctrl-C also where a
  shell has started it in the background. Output that cannot be written ends
  nothing.

  Args:
    command: returns an exit code, or None for 0.

  Returns:
    Its own; 2 after an error that the user can mend, told in one message on
    stderr; 130 after a signal. Any other error is a fault of the program and is
    raised.
  """
  # Jobs that a shell starts in the background ignore SIGINT.
  with heard_signals(even_ignored=(signal.SIGINT,)), _unfailing_output():
    try:
      return command() or 0
    except KeyboardInterrupt:
      print("interrupted", file=sys.stderr)
      return 130
    except UserError as error:
      print(f"error: {error}", file=sys.stderr)
      return 2


@contextlib.contextmanager
def _unfailing_output() -> Iterator[None]:
  """Within it stdout and stderr are `UnfailingStream`s."""
  before = sys.stdout, sys.stderr
  error = UnfailingStream(sys.stderr) if sys.stderr is not None else None
  # None: closed when the process began.
  if sys.stdout is not None:
    sys.stdout = UnfailingStream(sys.stdout, error)
  sys.stderr = error
  try:
    yield
  finally:
    for stream in (sys.stdout, sys.stderr):
      if isinstance(stream, UnfailingStream):
        stream.finish()
    sys.stdout, sys.stderr = before


def check_number(
  flag: str, value: float, low: int, high: int = 2**31 - 1
) -> None:
  """Raises ConfigError where a flag's number is outside [low, high]."""
  if not low <= value <= high:
    raise ConfigError(
      f"{flag}: expected a number between {low} and {high}, got {value}"
    )


def check_new_file(flag: str, path: pathlib.Path, *suffixes: str) -> None:
  """Refuses, before hours of work, the name of a file that cannot be written.

  Raises:
    ConfigError: its directory is missing, it is a directory itself, a link to
      nowhere or too long a name, or it ends in none of the suffixes ('.png').
  """
  try:
    if path.is_symlink() and not path.exists():
      raise FileNotFoundError(
        0, f"a link to {path.readlink()}, which is not there"
      )
    is_directory, has_parent = path.is_dir(), path.parent.is_dir()
  except OSError as error:
    raise ConfigError(
      f"{flag}: expected the name of a file, got {path}: {error.strerror}"
    ) from error
  if is_directory:  # as an empty name is
    raise ConfigError(
      f"{flag}: expected the name of a file, got directory {path}"
    )
  if not has_parent:
    raise ConfigError(
      f"{flag}: expected a directory that exists, got {path.parent}; create it"
    )
  if suffixes and path.suffix.lower() not in suffixes:
    raise ConfigError(
      f"{flag}: expected a name ending in {' or '.join(suffixes)}, got"
      f" {str(path)!r}"
    )


@contextlib.contextmanager
def writing(flag: str, path: pathlib.Path) -> Iterator[None]:
  """Within it an OSError is about what a flag names.

  Raises:
    FileError: instead of the OSError.
  """
  try:
    yield
  except OSError as error:
    raise FileError(
      f"{flag}: {path} cannot be written: {error.strerror or error}; give"
      " another name, or make room"
    ) from error
