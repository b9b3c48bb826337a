"""Trains R2D2 on one task: `python -m experiments.train --preset laptop`.

Every setting can be given on the command line, over those of a preset:

    python -m experiments.train --preset laptop --env.task Breakout \\
        --run.total-steps 2000000 --agent.n-step 3

A second start with the same --run.run-dir goes on from the last checkpoint;
--config FILE repeats the run of a config.json, with a directory of its own;
--plan prints what a run would take and stops.
"""

import contextlib
import datetime
import os
import pathlib
import re
import sys
import warnings

import tyro

from r2d2_jax.cli.base_settings import take_base
from r2d2_jax.cli.command import exit_code, program
from r2d2_jax.config import (
  Config,
  ConfigError,
  UserError,
  renamed,
  unknown_setting,
  validate,
)
from r2d2_jax.family import FAMILY
from r2d2_jax.presets import PRESETS
from r2d2_jax.system.run.interrupts import StopRequest, heard_signals

_PRESETS = PRESETS | FAMILY

# jax, EnvPool and Reverb take seconds to import: only after the command line
# has been understood.


def parse_command_line(arguments: list[str]) -> Config:
  """The configuration that a command line asks for, checked.

  Args:
    arguments: without the program's name; `--preset NAME` or `--config FILE`
      may stand anywhere.

  Returns:
    It; where no run.run_dir is given, with the name of a new one.

  Raises:
    ConfigError: an unknown preset, a file that is no configuration, or settings
      that cannot work.
    SystemExit: code 0 after --help, code 2 after a malformed argument.
  """
  return _parse(arguments)[0]


def _parse(arguments: list[str]) -> tuple[Config, bool]:
  """The configuration, and whether its run.run_dir was chosen here."""
  base = take_base(arguments, _PRESETS)
  _refuse_old_names(base.arguments)
  summaries = "\n".join(
    f"- {name}: {(make.__doc__ or '').split(chr(10))[0]}"
    for name, make in _PRESETS.items()
  )
  config = tyro.cli(
    Config,
    args=base.arguments,
    default=base.config,
    prog=program("train"),
    description=(
      "Trains R2D2 on one task. Any setting below can be given; the"
      f" defaults shown are those of {base.name}. Presets, chosen with --preset"
      f" NAME:\n\n{summaries}\n\n--config FILE takes the settings of a run's"
      " config.json in place of a preset's. --plan prints what the run would"
      " take and stops. A second start with the same --run.run-dir goes on"
      " from the last checkpoint."
    ),
  )
  is_new = not config.run.run_dir
  if is_new:
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    task, seed = as_name(config.env.task), config.run.seed
    name = as_name(base.name) if base.file is None else "again"
    config = _in_directory(config, f"runs/{task}-{name}-seed{seed}-{date}")
  validate(config)
  return config, is_new


def _in_directory(config: Config, run_dir: str) -> Config:
  return config.updated({"run.run_dir": run_dir})


def as_name(task: str) -> str:
  """A task as a part of a directory's name."""
  return re.sub(r"[^\w.-]", "_", task)[:80]


def _refuse_old_names(arguments: list[str]) -> None:
  """Raises ConfigError with the new name of a setting that had another."""
  for argument in arguments:
    if argument.startswith("--run."):
      name = argument[2:].partition("=")[0].replace("-", "_")
      if renamed(name := name.replace("run.no_", "run.")):
        raise ConfigError(unknown_setting(name))


def launch(config: Config, *, must_be_new: bool = False) -> int:
  """Trains; returns the exit code.

  0: done. 130: interrupted, and saved if there was anything to save. 1: the run
  had to stop, and the message says where it goes on from. 2: the settings or
  the run's directory don't allow it; nothing was changed.

  Args:
    config: run.run_dir names the directory.
    must_be_new: where that one is taken, take its name with a number behind it.
  """
  return exit_code(lambda: _train(config, must_be_new))


def _train(config: Config, must_be_new: bool) -> int:
  # Imports that are interrupted in the middle fail in whatever way they like.
  with heard_signals() as stop, stop.deferred():
    return _train_deferred(config, must_be_new, stop)


def _train_deferred(
  config: Config, must_be_new: bool, stop: StopRequest
) -> int:
  # A sentence for people, not a place in the source.
  warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
  from rich.console import Console

  from r2d2_jax.system.storage.rundir import new_run_dir
  from r2d2_jax.system.train import RunError, train

  stop.check()
  if must_be_new:
    config = _in_directory(config, str(new_run_dir(config.run.run_dir)))
  print(f"run directory: {config.run.run_dir}", flush=True)

  try:
    result = train(
      config, run_dir=pathlib.Path(config.run.run_dir), console=Console()
    )
  except RunError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except UserError:
    if must_be_new:  # it was refused before it left anything there
      with contextlib.suppress(OSError):
        os.removedirs(config.run.run_dir)
    raise
  return 130 if result.interrupted else 0


def _show_plan(config: Config) -> None:
  """Prints it, and checks it; starts nothing."""
  from rich.console import Console

  from r2d2_jax.system.planning.preflight import check_run_fits

  run_dir = pathlib.Path(config.run.run_dir)
  check_run_fits(config, run_dir, console=Console())


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  given = sys.argv[1:] if arguments is None else arguments
  settings = [argument for argument in given if argument != "--plan"]

  def run() -> int:
    config, is_new = _parse(settings)
    if settings == given:
      return launch(config, must_be_new=is_new)
    _show_plan(config)
    return 0

  return exit_code(run)


if __name__ == "__main__":
  sys.exit(main())
