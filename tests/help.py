"""What a command's --help shows, and that it imports nothing slow for it."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def help_of(module: str, *heavy: str) -> str:
  """`main(["--help"])`'s output, in an interpreter of its own.

  It ends with exit code 0, and without jax, reverb, envpool and what else is
  named in `heavy` having been imported.
  """
  code = (
    f"import sys, {module} as command\n"
    "try: command.main(['--help'])\n"
    "except SystemExit as e: assert e.code == 0\n"
    f"heavy = { {'jax', 'reverb', 'envpool', *heavy}!r} & set(sys.modules)\n"
    "assert not heavy, heavy\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout
