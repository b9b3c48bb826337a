"""What the commands have in common: arguments in, an exit code out."""

import os
import pathlib
import re
import signal
import sys
from typing import Any, Callable

import tyro

from r2d2_jax.config import ConfigError


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
  """Puts the home directory for `~`, after `--flag=` too, where shells do not."""
  return [
      re.sub(r"^(--[\w.-]+=)?~(?=/|$)", _home, argument)
      for argument in arguments
  ]


def _home(match: re.Match[str]) -> str:
  return (match[1] or "") + os.path.expanduser("~")


def exit_code(command: Callable[[], int | None]) -> int:
  """Calls a command; returns the exit code.

  Args:
    command: returns an exit code, or None for 0.

  Returns:
    Its own; 2 after an error that the user can mend, told in one message on
    stderr; 130 after Ctrl-C. Any other error is a fault of the program and is
    raised.
  """
  try:
    return command() or 0
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
  except Exception as error:  # pylint: disable=broad-exception-caught
    if not is_users(error):
      raise
    print(f"error: {error}", file=sys.stderr)
    return 2


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
      raise FileNotFoundError(0, f"a link to {path.readlink()}, which is not there")
  except OSError as error:
    raise ConfigError(
        f"{flag}: expected the name of a file, got {path}: {error.strerror}"
    ) from error
  if path.is_dir():  # as an empty name is
    raise ConfigError(
        f"{flag}: expected the name of a file, got directory {path}"
    )
  if not path.parent.is_dir():
    raise ConfigError(
        f"{flag}: expected a directory that exists, got {path.parent}; create it"
    )
  if suffixes and path.suffix.lower() not in suffixes:
    raise ConfigError(
        f"{flag}: expected a name ending in {' or '.join(suffixes)}, got"
        f" {str(path)!r}"
    )


def is_users(error: Exception) -> bool:
  """Whether an error is about what the user gave or has installed."""
  if isinstance(error, RuntimeError):
    # Imported here: it takes seconds, which --help should not.
    from r2d2_jax.system.checkpoints import CheckpointError  # pylint: disable=g-import-not-at-top

    return isinstance(error, CheckpointError)
  # ConfigError is a ValueError.
  return isinstance(error, (ValueError, ImportError, OSError))


def hear_both_signals() -> None:
  """Makes SIGTERM, a cluster's way of saying Ctrl-C, a KeyboardInterrupt too.

  And SIGINT itself: jobs that a shell starts in the background ignore it.
  """
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  signal.signal(signal.SIGINT, signal.default_int_handler)
