"""The run's directory: whose it is, and the configuration in it."""

import contextlib
import fcntl
import json
import pathlib
import tempfile
from typing import Iterator

from r2d2_jax.config import (
    Config,
    ConfigError,
    from_dict,
    to_dict,
    validate,
)

_CONFIG_FILE = "config.json"
_LOCK_FILE = ".lock"


def checkpoints_dir(run_dir: pathlib.Path) -> pathlib.Path:
  """Where the newest checkpoints are."""
  return run_dir / "checkpoints"


def best_dir(run_dir: pathlib.Path) -> pathlib.Path:
  """Where the learner that evaluated best is."""
  return run_dir / "best"


@contextlib.contextmanager
def claimed_run_dir(run_dir: pathlib.Path, config: Config) -> Iterator[None]:
  """Creates the directory, or makes sure that this run may go on in it.

  As long as the `with` block lasts no other process can claim it. The claim ends
  with the process, however that ends.

  Raises:
    ConfigError: it cannot be written, holds something else, a run of another
      task or network, or one that is going on. Nothing in it was changed.
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
    elif any(p.name != _LOCK_FILE for p in run_dir.iterdir()):
      raise ConfigError(
          "run.run_dir: expected a new or empty directory, or that of an"
          f" earlier run, got {run_dir} with other files in it; give another"
      )
    # As a trial: better now than when there is something to lose.
    with tempfile.TemporaryFile(dir=run_dir):
      pass
    lock = (run_dir / _LOCK_FILE).open("w")
  except OSError as error:
    raise ConfigError(
        f"run.run_dir: cannot write in {run_dir}: {error.strerror}; give"
        " another directory"
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise ConfigError(
          f"run.run_dir: another process is training in {run_dir}; wait for"
          " it, stop it, or give another directory"
      ) from error
    yield


def write_config(run_dir: pathlib.Path, config: Config) -> None:
  """Writes config.json, the whole configuration; from now on it is a run's."""
  text = json.dumps(to_dict(config), indent=2)
  # Never half of it, whenever the process is killed.
  new = run_dir / f"{_CONFIG_FILE}.partial"
  new.write_text(text + "\n")
  new.replace(run_dir / _CONFIG_FILE)


def read_config(run_dir: pathlib.Path) -> Config:
  """The configuration that a run was started with.

  Raises:
    ConfigError: the directory holds no run, or one whose settings cannot work:
      edited by hand, or of another version.
  """
  path = run_dir / _CONFIG_FILE
  try:
    config = from_dict(json.loads(path.read_text()))
    validate(config)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise ConfigError(
        f"{run_dir} holds no run: expected {path}; give the directory that"
        " training printed"
    ) from error
  # RecursionError: JSON of a thousand brackets.
  except (OSError, ValueError, RecursionError) as error:
    raise ConfigError(f"{path} cannot be read: {error}") from error
  return config
