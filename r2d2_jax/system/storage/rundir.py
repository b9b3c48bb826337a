"""The run's directory: whose it is, and the configuration in it."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import itertools
import json
import pathlib
import tempfile

from r2d2_jax.config import (
  Config,
  ConfigError,
  from_dict,
  to_dict,
  validate,
)
from r2d2_jax.system.storage.files import (
  PARTIAL,
  open_to_write,
  read_text,
  replace_file,
)
from r2d2_jax.system.storage.origin import STARTS_FILE

_CONFIG_FILE = "config.json"
_LOCK_FILE = ".lock"
# Of an exported agent's folder, which is no run's.
EXPORT_FILE = "exported.json"
# Of a run that failed; that may be before it had a config.json.
CRASH_FILE = "crash.txt"
# What a run leaves behind, and what it needs on the way; a start that was cut
# off may leave some of the latter without a config.json.
_RESULTS = (
  "log.csv",
  "evaluation.csv",
  "checkpoints",
  "best",
  "tensorboard",
  "learning_curve.png",
)
_OTHERS = (
  _CONFIG_FILE,
  _LOCK_FILE,
  CRASH_FILE,
  STARTS_FILE,
  "wandb",
  "wandb_id",
  ".replay",
)


def checkpoints_dir(run_dir: pathlib.Path) -> pathlib.Path:
  """Where the newest checkpoints are."""
  return run_dir / "checkpoints"


def best_dir(run_dir: pathlib.Path) -> pathlib.Path:
  """Where the learner that evaluated best is."""
  return run_dir / "best"


def new_run_dir(name: str) -> pathlib.Path:
  """Creates a directory that no other run has: `name`, or `name-2`, ...

  Raises:
    ConfigError: it cannot be created.
  """
  for number in itertools.count(1):
    path = pathlib.Path(name if number == 1 else f"{name}-{number}")
    try:
      # Creating is claiming: of two processes only one succeeds.
      path.mkdir(parents=True)
      break
    except OSError as error:
      # FileExistsError may be about a parent.
      if not (path.exists() and isinstance(error, FileExistsError)):
        raise ConfigError(
          f"run.run_dir: cannot create {path}: {error.strerror}; give another"
          " directory"
        ) from error
  return path


@contextlib.contextmanager
def claimed_run_dir(run_dir: pathlib.Path, config: Config) -> Iterator[None]:
  """Creates the directory, or makes sure that this run may go on in it.

  As long as the `with` block lasts no other process can claim it. The claim
  ends with the process, however that ends. Files that are no run's may be in
  it, and it may be a link itself.

  Raises:
    ConfigError: it cannot be written, holds parts of a run without its
      config.json, a run of another task or network, one that is going on, or
      links where the run would write. Nothing in it was changed.
  """
  try:
    if run_dir.is_symlink() and not run_dir.exists():
      raise FileNotFoundError(
        errno.ENOENT,
        f"it is a link to {run_dir.readlink()}, which is not there",
      )
    run_dir.mkdir(parents=True, exist_ok=True)
    _refuse_links(run_dir)
    if (run_dir / EXPORT_FILE).exists():
      raise ConfigError(
        f"run.run_dir: {run_dir} holds an exported agent, which has neither"
        " optimiser nor replay to go on with; give another directory"
      )
    if (run_dir / _CONFIG_FILE).exists():
      before = read_config(run_dir)
      if (before.env.task, before.network) != (config.env.task, config.network):
        raise ConfigError(
          f"run.run_dir: {run_dir} holds a run of another task or network"
          f" ({before.env.task}); give another directory, or the settings in"
          f" its {_CONFIG_FILE}"
        )
    elif found := [name for name in _RESULTS if (run_dir / name).exists()]:
      raise ConfigError(
        "run.run_dir: expected a new directory, or that of an earlier run, got"
        f" {run_dir}, which has {', '.join(found)} but no {_CONFIG_FILE}; give"
        " another"
      )
    # As a trial: better now than when there is something to lose.
    with tempfile.TemporaryFile(dir=run_dir):
      pass
    lock = open_to_write(run_dir / _LOCK_FILE)
  except OSError as error:
    raise ConfigError(
      f"run.run_dir: cannot write in {run_dir}: {error.strerror or error};"
      " give another directory"
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:  # EWOULDBLOCK, EAGAIN
      raise ConfigError(
        f"run.run_dir: another process is training in {run_dir}; wait for"
        " it, stop it, or give another directory"
      ) from error
    except OSError as error:
      raise ConfigError(
        f"run.run_dir: cannot lock {run_dir / _LOCK_FILE}: {error.strerror};"
        " give a directory on a file system that has flock"
      ) from error
    yield


def _refuse_links(run_dir: pathlib.Path) -> None:
  """Whoever made the directory chose where they lead."""
  names = (*_RESULTS, *_OTHERS)
  for name in (*names, *(f"{name}{PARTIAL}" for name in names)):
    if (path := run_dir / name).is_symlink():
      raise ConfigError(
        f"run.run_dir: {path} is a link to {path.readlink()}; a run writes in"
        " its own directory only. Put there what it leads to, or make the whole"
        " directory a link"
      )


def write_config(run_dir: pathlib.Path, config: Config) -> None:
  """Writes config.json, the whole configuration; from now on it is a run's."""
  text = json.dumps(to_dict(config), indent=2) + "\n"
  replace_file(run_dir / _CONFIG_FILE, text.encode())


def read_config(run_dir: pathlib.Path) -> Config:
  """The configuration that a run was started with.

  Raises:
    ConfigError: the directory holds no run, or one whose settings cannot work:
      edited by hand, or of another version.
  """
  path = run_dir / _CONFIG_FILE
  try:
    config = from_dict(json.loads(read_text(path)))
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
