"""What the commands have in common: arguments in, an exit code out."""

import sys
from typing import Any, Callable

import tyro


def run_command(
    function: Callable[..., Any], *, prog: str, arguments: list[str] | None
) -> int:
  """Calls a function with what the command line says; returns the exit code.

  Args:
    function: its annotations and docstring define the command line.
    prog: what the help calls the program.
    arguments: without the program's name; None takes those of this process.

  Returns:
    0; 2 after an error that the user can mend, told in one message on stderr;
    130 after Ctrl-C. Any other error is a fault of the program and is raised.

  Raises:
    SystemExit: code 0 after --help, code 2 after a malformed argument.
  """
  try:
    tyro.cli(function, args=arguments, prog=prog)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
  except Exception as error:  # pylint: disable=broad-exception-caught
    if not is_users(error):
      raise
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def is_users(error: Exception) -> bool:
  """Whether an error is about what the user gave or has installed."""
  if isinstance(error, RuntimeError):
    # Imported here: it takes seconds, which --help should not.
    from r2d2_jax.system.checkpoints import CheckpointError  # pylint: disable=g-import-not-at-top

    return isinstance(error, CheckpointError)
  # ConfigError is a ValueError.
  return isinstance(error, (ValueError, ImportError, OSError))
