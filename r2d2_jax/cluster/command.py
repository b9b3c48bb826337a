"""Trains on a cluster: `python -m experiments.cluster --preset paper ...`.

Every setting of the training, and those of section cluster, can be given over
those of a preset:

    python -m experiments.cluster --preset paper --env.task MsPacman \\
        --cluster.actors 16 --cluster.lanes-per-actor 16

A second start with the same --run.run-dir goes on from the last checkpoint;
--config FILE repeats the run of a config.json; --plan prints what each process
takes and stops.
"""

import dataclasses
import datetime
import json
import pathlib
import sys
import warnings

import tyro

from r2d2_jax.cli.base_settings import take_base
from r2d2_jax.cli.command import exit_code, program
from r2d2_jax.cli.train import as_name
from r2d2_jax.cluster.settings import (
  CLUSTER_FILE,
  ClusterConfig,
  check_values,
)
from r2d2_jax.cluster.topology import check_cluster, with_lanes
from r2d2_jax.config import (
  Config,
  ConfigError,
  MissingPackageError,
  validate,
)
from r2d2_jax.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class _Settings(Config):
  """All settings of a run on a cluster."""

  cluster: ClusterConfig = ClusterConfig()


def parse_command_line(arguments: list[str]) -> tuple[Config, ClusterConfig]:
  """What a command line asks for, checked.

  Args:
    arguments: without the program's name; --preset NAME or --config FILE may
      stand anywhere.

  Raises:
    ConfigError: an unknown preset, a file that is no configuration, settings
      that cannot work.
    SystemExit: code 0 after --help, code 2 after a malformed argument.
  """
  base = take_base(arguments, PRESETS)
  cluster = _cluster_beside(base.file) if base.file else ClusterConfig()
  config = base.config.updated({"replay.backend": "reverb"})
  sections = {
    f.name: getattr(config, f.name) for f in dataclasses.fields(Config)
  }
  settings = tyro.cli(
    _Settings,
    args=base.arguments,
    default=_Settings(**sections, cluster=cluster),
    prog=program("cluster"),
    description=(
      "Trains R2D2 on many processes, on this machine or on a Ray cluster."
      " Settings are those of experiments.train, and section cluster. --preset"
      f" NAME is one of {', '.join(PRESETS)}; --config FILE repeats the run of"
      " a config.json. --plan prints what each process would take and stops."
    ),
  )
  config = Config(
    **{f.name: getattr(settings, f.name) for f in dataclasses.fields(Config)}
  )
  cluster = settings.cluster
  check_values(cluster)
  config = with_lanes(config, cluster)
  if not config.run.run_dir:
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    task = as_name(config.env.task)
    name = f"runs/{task}-cluster-seed{config.run.seed}-{date}"
    config = config.updated({"run.run_dir": name})
  validate(config)
  check_cluster(config, cluster)
  return config, cluster


def _cluster_beside(path: pathlib.Path) -> ClusterConfig:
  """The roles of an earlier run; those of none where it had no cluster."""
  beside = path.with_name(CLUSTER_FILE)
  try:
    if not beside.exists():
      return ClusterConfig()
    return ClusterConfig(**json.loads(beside.read_text()))
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise ConfigError(
      f"--config: expected settings of a cluster in {beside}: {error}"
    ) from error


def _train(config: Config, cluster: ClusterConfig) -> int:
  warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
  try:
    import ray  # noqa: F401
  except ImportError as error:
    raise MissingPackageError(
      "training on a cluster needs Ray, which cannot be imported here"
      f" ({error}): pip install 'r2d2_jax[cluster]'"
    ) from error
  import jax

  # The coordinator computes next to nothing: the accelerators are the
  # learners'.
  jax.config.update("jax_platforms", "cpu")
  from rich.console import Console

  from r2d2_jax.cluster.run import train_on_cluster
  from r2d2_jax.system.train import RunError

  print(f"run directory: {config.run.run_dir}", flush=True)
  try:
    result = train_on_cluster(
      config, cluster, run_dir=config.run.run_dir, console=Console()
    )
  except RunError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 130 if result.interrupted else 0


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code, as `train` does."""
  given = sys.argv[1:] if arguments is None else arguments
  settings = [argument for argument in given if argument != "--plan"]

  def run() -> int:
    config, cluster = parse_command_line(settings)
    if settings == given:
      return _train(config, cluster)
    from r2d2_jax.cluster.plan import show_plan

    show_plan(config, cluster)
    return 0

  return exit_code(run)


if __name__ == "__main__":
  sys.exit(main())
