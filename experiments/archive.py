"""Archive of runs: the settings, logs and evaluations of many runs in one file.

    python -m experiments.archive pack runs/start_state-small DIRECTORY
    python -m experiments.archive unpack DIRECTORY runs/start_state-small

DIRECTORY/runs.jsonl.gz is gzipped JSON, one line for each run:

    {"run": "recall/zero/seed0", "config.json": "...", "log.csv": "...", ...}

where "run" is the run's directory and the others are the texts of its files,
unchanged. Checkpoints and TensorBoard's events are left out. Every command that
needs no checkpoint can read what was unpacked: `plot`, `scoreboard`, and
`--report-only` of the studies, which can also read the archive itself.
"""

from collections.abc import Collection, Iterator
import gzip
import json
import os
import pathlib
import sys
from typing import Annotated, Literal
import zlib

import tyro

from r2d2_jax.cli.command import run_command
from r2d2_jax.config import ConfigError, FileError
from r2d2_jax.system.storage.origin import STARTS_FILE

FILE_NAME = "runs.jsonl.gz"
# Of a run's files; config.json is what makes a directory a run's.
_CONFIG = "config.json"
_KEPT = (_CONFIG, "log.csv", "evaluation.csv", STARTS_FILE)


def pack(source: pathlib.Path, path: pathlib.Path) -> int:
  """Writes the runs in a directory, or in those below it, into a new archive.

  The same runs give the same bytes (with the same zlib).

  Args:
    source: directory of runs.
    path: of the archive; its directory is created.

  Returns:
    The number of runs.

  Raises:
    ConfigError: there is no run, or the archive exists already.
    ValueError: a file is not UTF-8.
  """
  if path.exists():
    raise ConfigError(
      f"{path} exists already; expected a new file: move it away, or give"
      " another directory"
    )
  runs = sorted(_run_dirs(source))
  if not runs:
    raise ConfigError(
      f"{source} holds no run: expected {_CONFIG} in it or in directories"
      " below it"
    )
  lines = []
  for run in runs:
    texts = {"run": run.relative_to(source).as_posix()}
    for name in _KEPT:
      if (run / name).is_file():
        texts[name] = _read_text(run / name)
    lines.append(json.dumps(texts, ensure_ascii=False) + "\n")
  path.parent.mkdir(parents=True, exist_ok=True)
  # Never half of it, whenever the process is killed.
  new = path.with_name(f"{path.name}.partial")
  with (
    new.open("wb") as file,
    # Neither name nor time: the bytes depend on the content alone.
    gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as zipped,
  ):
    zipped.write("".join(lines).encode())
  new.replace(path)
  return len(runs)


def unpack(path: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
  """Writes the runs of an archive into directories of their own.

  Args:
    path: of the archive.
    target: directory in which they are put; it is created.

  Returns:
    The directories of the runs.

  Raises:
    ConfigError: there is no archive, or one of the directories exists already.
      Nothing was written.
    ValueError: it is no archive of runs, or a damaged one. Nothing was written.
  """
  runs = {target / name: files for name, files in _read(path).items()}
  for run in runs:
    if run.exists():
      raise ConfigError(
        f"{run} exists already, expected a new directory: move it away, or"
        " unpack into another one"
      )
  for run, files in runs.items():
    run.mkdir(parents=True)
    for name, data in files.items():
      (run / name).write_bytes(data)
  return list(runs)


def _run_dirs(source: pathlib.Path) -> Iterator[pathlib.Path]:
  for directory, below, files in os.walk(source):
    if _CONFIG in files:
      below.clear()  # a run's checkpoints are no runs
      yield pathlib.Path(directory)


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_bytes().decode()
  except UnicodeDecodeError as error:
    raise FileError(f"{path}: damaged ({error}); mend it first") from error


def _read(path: pathlib.Path) -> dict[pathlib.PurePosixPath, dict[str, bytes]]:
  """Run's directory, as the archive has it -> name and bytes of its files."""
  if not path.is_file():  # of a pipe one would wait for the other end
    raise ConfigError(
      f"expected an archive of runs at {path}, where no file is"
    )
  runs: dict[pathlib.PurePosixPath, dict[str, bytes]] = {}
  try:
    with gzip.open(path, "rb") as lines:
      for line in lines:
        files = json.loads(line)
        run = pathlib.PurePosixPath(files.pop("run"))
        if run in runs:
          raise ValueError(f"run {str(run)[:200]!r} is there twice")
        _check_names(run, files)
        runs[run] = {name: text.encode() for name, text in files.items()}
    if not runs:
      raise ValueError("it is empty")
  # What JSON of another shape, or of a thousand brackets, leads to.
  except (
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    ValueError,
    AttributeError,
    KeyError,
    TypeError,
    RecursionError,
  ) as error:
    raise FileError(
      f"{path}: no archive of runs, or damaged ({error})"
    ) from error
  return runs


def _check_names(run: pathlib.PurePosixPath, names: Collection[str]) -> None:
  """Refuses what would be written elsewhere than below the target."""
  if run.is_absolute() or ".." in run.parts or "\0" in str(run):
    raise ValueError(f"run {str(run)[:200]!r} is not below the archive")
  if _CONFIG not in names or not set(names) <= set(_KEPT):
    raise ValueError(
      f"run {str(run)[:200]!r} has the files {', '.join(names)[:200]},"
      f" expected {_CONFIG} and at most {', '.join(_KEPT[1:])}"
    )


def archive(
  action: Annotated[Literal["pack", "unpack"], tyro.conf.Positional],
  source: Annotated[
    pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")
  ],
  target: Annotated[
    pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")
  ],
  /,
) -> None:
  """Packs the logs of many runs into one file, or unpacks them again.

  'pack' writes settings, log and evaluations of all runs in SOURCE and below it
  into TARGET/runs.jsonl.gz; nothing in SOURCE is changed. 'unpack' writes the
  runs of SOURCE/runs.jsonl.gz into directories below TARGET.

  Args:
    action: which of the two.
    source: directory to read from.
    target: directory to write in; it is created.
  """
  if action == "pack":
    path = target / FILE_NAME
    print(f"wrote {path}: {pack(source, path)} runs")
  else:
    runs = unpack(source / FILE_NAME, target)
    print(f"wrote {len(runs)} runs into {target}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    archive, prog="python -m experiments.archive", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
