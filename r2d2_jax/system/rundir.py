"""The run's directory: whose it is, and the configuration in it."""

import json
import pathlib
import tempfile

from r2d2_jax.config import Config, ConfigError, from_dict, to_dict

_CONFIG_FILE = "config.json"


def claim_run_dir(run_dir: pathlib.Path, config: Config) -> None:
  """Creates the directory, or makes sure that this run may go on in it.

  Raises:
    ConfigError: it cannot be written, holds something else, or a run of another
      task or network. Nothing in it was changed.
  """
  try:
    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / _CONFIG_FILE).exists():
      before = read_config(run_dir)
      if (before.env.task, before.network) != (config.env.task, config.network):
        raise ConfigError(
            f"run.run_dir: {run_dir} holds a run of another task or network"
            f" ({before.env.task}); give another directory, or the settings in"
            f" its {_CONFIG_FILE}"
        )
    elif any(run_dir.iterdir()):
      raise ConfigError(
          "run.run_dir: expected a new or empty directory, or that of an"
          f" earlier run, got {run_dir} with other files in it; give another"
      )
    # As a trial: better now than when there is something to lose.
    with tempfile.TemporaryFile(dir=run_dir):
      pass
  except OSError as error:
    raise ConfigError(
        f"run.run_dir: cannot write in {run_dir}: {error.strerror}; give"
        " another directory"
    ) from error


def write_config(run_dir: pathlib.Path, config: Config) -> None:
  """Writes config.json, the whole configuration; from now on it is a run's."""
  text = json.dumps(to_dict(config), indent=2)
  (run_dir / _CONFIG_FILE).write_text(text + "\n")


def read_config(run_dir: pathlib.Path) -> Config:
  """The configuration that a run was started with.

  Raises:
    ConfigError: the directory holds no run, or one of another version.
  """
  path = run_dir / _CONFIG_FILE
  try:
    return from_dict(json.loads(path.read_text()))
  except FileNotFoundError as error:
    raise ConfigError(
        f"{run_dir} holds no run: expected {path}; give the directory that"
        " training printed"
    ) from error
  except (ValueError, TypeError) as error:
    raise ConfigError(f"{path} cannot be read: {error}") from error
