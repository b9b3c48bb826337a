"""Many runs over a cluster: `python -m experiments.sweep --games atari57 ...`.

    python -m experiments.sweep --games atari57 --seeds 3 --preset gpu
    python -m experiments.sweep --tasks Catch-v0 recall --preset smoke

Settings are those of experiments.train, for all runs. The same command goes on
with what is left; --list prints the runs, --only INDEX does one of them here,
without Ray (docs/cluster.md).
"""

import dataclasses
import math
import pathlib
import sys

import tyro

from r2d2_jax.cli.base_settings import take_base
from r2d2_jax.cli.command import check_number, exit_code, program
from r2d2_jax.cli.train import launch
from r2d2_jax.cluster.sweep.jobs import Job, make_jobs, tasks_of
from r2d2_jax.config import Config, ConfigError, MissingPackageError
from r2d2_jax.family import FAMILY
from r2d2_jax.presets import PRESETS

_PRESETS = PRESETS | FAMILY


@dataclasses.dataclass(frozen=True)
class _Settings(Config):
  """All settings of the runs, and those of the sweep."""

  games: tuple[str, ...] = ()
  """Some of the 57 Atari games; atari57 is all of them."""
  tasks: tuple[str, ...] = ()
  """Other tasks, as env.task names them."""
  seeds: int = 1
  """Runs of each task, with seeds from run.seed on."""
  sweep_dir: str = ""
  """Directory of the runs' directories; left out, runs/sweep-PRESET. On several
  machines they must share it."""
  cpus: float = 2.0
  """CPUs that a run reserves; its environments get as many threads."""
  gpus: float = -1.0
  """GPUs that a run reserves, 0.5 for two runs on one; left out, 1 where the
  cluster has any."""
  address: str = ""
  """'host:port' of a Ray cluster to join, or 'auto' for the one of this node;
  empty takes RAY_ADDRESS, and starts Ray on this machine alone where that is
  not set."""
  only: int = -1
  """Number of the one run to do here, without Ray: for a job array."""


def parse_command_line(arguments: list[str]) -> tuple[list[Job], _Settings]:
  """The runs that a command line asks for, and its own settings.

  Raises:
    ConfigError: an unknown preset or game, a file that is no configuration,
      settings that cannot work.
    SystemExit: code 0 after --help, code 2 after a malformed argument.
  """
  base = take_base(arguments, _PRESETS)
  names = [f.name for f in dataclasses.fields(Config)]
  settings = tyro.cli(
    _Settings,
    args=base.arguments,
    default=_Settings(**{name: getattr(base.config, name) for name in names}),
    prog=program("sweep"),
    description=(
      "Trains one run of each task with each seed, as many at a time as the"
      " cluster has room for. Settings are those of experiments.train, over"
      f" those of {base.name}: --preset NAME takes one of"
      f" {', '.join(_PRESETS)}, --config FILE a run's config.json. The same"
      " command goes on with what is left. --list prints the runs and stops."
    ),
  )
  config = Config(**{name: getattr(settings, name) for name in names})
  if config.env.task != base.config.env.task:
    raise ConfigError(
      f"env.task: expected --games or --tasks in a sweep, got --env.task"
      f" {config.env.task}"
    )
  if config.run.run_dir:
    raise ConfigError(
      "run.run_dir: expected --sweep-dir in a sweep, for one directory of each"
      f" run; got --run.run-dir {config.run.run_dir}"
    )
  check_number("--seeds", settings.seeds, 1)
  if not 0 < settings.cpus < math.inf:
    raise ConfigError(f"--cpus: expected more than 0, got {settings.cpus:g}")
  if settings.gpus != -1:
    check_number("--gpus", settings.gpus, 0)
    if settings.gpus > 1 and settings.gpus % 1:
      raise ConfigError(
        f"--gpus: expected a whole number, or a part of one, got"
        f" {settings.gpus:g}"
      )
  jobs = make_jobs(
    config,
    tasks_of(settings.games, settings.tasks),
    seeds=settings.seeds,
    sweep_dir=pathlib.Path(settings.sweep_dir or f"runs/sweep-{base.name}"),
  )
  if settings.only != -1 and not 0 <= settings.only < len(jobs):
    raise ConfigError(
      f"--only: expected a number from 0 to {len(jobs) - 1}, got"
      f" {settings.only}; --list shows which run is which"
    )
  return jobs, settings


def _check_tasks(jobs: list[Job]) -> None:
  """A slip is told now, not when its turn has come.

  Raises:
    ConfigError: an unknown task, or one that does not suit the settings.
    MissingPackageError: what the tasks need is not installed.
  """
  from r2d2_jax.envs.make import world_spec

  for env in {job.task: job.config.env for job in jobs}.values():
    world_spec(env)


def _sweep(jobs: list[Job], settings: _Settings) -> int:
  try:
    import ray  # noqa: F401
  except ImportError as error:
    raise MissingPackageError(
      f"a sweep needs Ray, which cannot be imported here ({error}): pip install"
      " 'r2d2_jax[cluster]'; --only INDEX does one of its runs without it"
    ) from error
  import jax

  # Whoever looks on computes nothing: the accelerators are the runs'.
  jax.config.update("jax_platforms", "cpu")
  from rich.console import Console

  from r2d2_jax.cli.scoreboard import scoreboard
  from r2d2_jax.cluster.sweep.run import run_sweep
  from r2d2_jax.cluster.sweep.table import OPEN, counts

  sweep_dir = jobs[0].run_dir.parent
  print(f"{len(jobs)} runs in {sweep_dir}", flush=True)
  lines = run_sweep(
    jobs,
    sweep_dir=sweep_dir,
    cpus=settings.cpus,
    gpus=None if settings.gpus == -1 else settings.gpus,
    address=settings.address,
    console=Console(),
  )
  print(counts(lines), flush=True)
  failed = [line for line in lines if line.state == "failed"]
  for line in failed:
    print(
      f"error: {line.job.run_dir}: {line.words} (log"
      f" {sweep_dir}/logs/run-{line.job.index}.log)",
      file=sys.stderr,
    )
  try:
    scoreboard((sweep_dir,))
  except ConfigError as error:  # none was evaluated
    print(f"no scoreboard: {error}", flush=True)
  if any(line.state in (*OPEN, "saved") for line in lines):
    print("interrupted; the same command goes on", flush=True)
    return 130
  return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code.

  0: all runs are done. 1: some failed. 130: interrupted, and saved; the same
  command goes on. 2: the settings do not allow it, and nothing was started.
  """
  given = sys.argv[1:] if arguments is None else arguments
  settings_given = [argument for argument in given if argument != "--list"]

  def run() -> int:
    jobs, settings = parse_command_line(settings_given)
    if settings_given != given:
      for job in jobs:
        print(f"{job.index} {job.task} {job.seed} {job.run_dir}")
      return 0
    if settings.only != -1:
      return launch(jobs[settings.only].config)
    _check_tasks(jobs)
    return _sweep(jobs, settings)

  return exit_code(run)


if __name__ == "__main__":
  sys.exit(main())
