"""Directories that cannot be used: refused, and nothing in them is changed."""

import os
import pathlib
import random
import shutil
import subprocess

from experiments.drills.drill import (
  Ended,
  Failures,
  check,
  command,
  fingerprint,
  in_directory,
  is_one_message,
  small_run,
  train,
  train_each,
)
from r2d2_jax.system.storage.checkpoints import FORMAT, list_checkpoints
from r2d2_jax.system.storage.rundir import checkpoints_dir


def directories_that_cannot_be_used(directory: pathlib.Path) -> None:
  """Foreign, of another network, task, version, damaged, in use: refused."""
  run_dir = directory / "run"
  config = small_run(run_dir, {"run.total_steps": 2_000})
  check(train(config).returncode == 0, "a first run ends well")

  def refused(changed, expected: str) -> None:
    before = fingerprint(directory)
    result = train(changed)
    check(result.returncode == 2, "exit code 2", result)
    check(expected in result.stderr, expected, result.stderr)
    check(is_one_message(result.stderr), "one message", result.stderr)
    check(fingerprint(directory) == before, f"nothing changed ({expected})")

  refused(
    config.updated({"network.core_units": 16}),
    "another task or network",
  )
  refused(
    config.updated({"env.task": "recall-long"}),
    "another task or network",
  )
  foreign = directory / "photos"
  foreign.mkdir()
  (foreign / "checkpoints").mkdir()
  refused(small_run(foreign), "has checkpoints but no config.json")
  (directory / "file").write_text("a file")
  refused(small_run(directory / "file" / "run"), "cannot write in")
  refused(small_run(directory / "file"), "cannot write in")
  if os.geteuid():  # root may write everywhere
    locked = directory / "locked"
    locked.mkdir(mode=0o500)
    refused(small_run(locked), "cannot write in")
  record = list_checkpoints(checkpoints_dir(run_dir))[-1].path / "record.json"
  good = record.read_text()
  for damage, expected in (
    (good.replace(f'"format": {FORMAT}', '"format": 99'), "got 99"),
    (good[: len(good) // 2], f"cannot read {record}"),
    ("[]", f"cannot read {record}"),
  ):
    record.write_text(damage)
    refused(config, expected)
  record.write_text(good)
  longer = config.updated({"run.total_steps": 10**9})
  with subprocess.Popen(
    command(longer), stdout=subprocess.PIPE, text=True
  ) as process:
    try:
      for line in process.stdout or ():
        if "resuming" in line:
          break
      second = train(config)
      check(second.returncode == 2, "exit code 2", second)
      check("another process is training" in second.stderr, "", second.stderr)
    finally:
      process.kill()


# Where a run writes, or would. True: a directory.
_LINKED = {
  ".lock": False,
  "config.json": False,
  "config.json.partial": False,
  "log.csv": False,
  "log.csv.partial": False,
  "evaluation.csv": False,
  "evaluation.csv.partial": False,
  "learning_curve.png": False,
  "learning_curve.png.partial": False,
  "crash.txt": False,
  "checkpoints": True,
  "checkpoints/9-9.partial": True,
  "best": True,
  "tensorboard": True,
  "wandb": True,
  ".replay": True,
}


def links(directory: pathlib.Path, *, at_a_time: int = 2) -> str:
  """Links inside a run's directory: nothing is written where they lead.

  Returns:
    What was counted, in a line.
  """
  config = small_run(directory / "run", {"run.total_steps": 1_500})
  check(train(config).returncode == 0, "a first run ends well")
  longer = config.updated({"run.total_steps": 1_700, "log.tensorboard": True})
  configs, befores = [], []
  for number, (name, is_directory) in enumerate(_LINKED.items()):
    place = directory / f"{number}-{name.replace('/', '-')}"
    run_dir, outside = place / "run", place / "outside"
    shutil.copytree(directory / "run", run_dir)
    if (path := run_dir / name).exists():
      path.rename(outside)
    elif is_directory:
      outside.mkdir()
      (outside / "mine").write_text("mine")
    else:
      outside.write_text("mine")
    path.symlink_to(outside)
    configs.append(in_directory(longer, run_dir))
    befores.append(fingerprint(place))
  num_refused, failures = 0, Failures()
  for name, config, before, ended in zip(
    _LINKED,
    configs,
    befores,
    train_each(configs, at_a_time=at_a_time),
    strict=True,
  ):
    place = pathlib.Path(config.run.run_dir).parent
    after = fingerprint(place)
    num_refused += bool(ended.returncode)
    with failures.of(name):
      check(
        _only(before, "outside") == _only(after, "outside"),
        "nothing written where it leads",
        sorted(_only(after, "outside")),
      )
      if ended.returncode:
        _check_refused(ended, before, after, says="link")
    shutil.rmtree(place)
  failures.raise_any()
  return f"{len(_LINKED)} links, {num_refused} refused, none followed"


def _check_refused(
  ended: Ended, before: dict[str, bytes], after: dict[str, bytes], says: str
) -> None:
  """With code 2 and one message, before anything was written."""
  tail = f"exit code {ended.returncode}: {ended.stderr[-2000:]}"
  check(ended.returncode == 2, "exit code 2", tail)
  check(is_one_message(ended.stderr), "one message", tail)
  check(says in ended.stderr, says, tail)
  changed = sorted(
    name
    for name in before.keys() | after.keys()
    if before.get(name) != after.get(name)
  )
  check(not changed, "nothing changed", changed)


def _only(files: dict[str, bytes], name: str) -> dict[str, bytes]:
  """Those in a directory, or the file of that name."""
  return {
    path: data
    for path, data in files.items()
    if path == name or path.startswith(f"{name}/")
  }


def damaged_files(
  directory: pathlib.Path, *, tries: int = 1, at_a_time: int = 2, seed: int = 0
) -> str:
  """Each file of a run, damaged: refused in one message, or it does not matter.

  Args:
    directory: where to.
    tries: in how many of the ways each file is damaged; there are 5.
    at_a_time: trainings beside each other.
    seed: of the choice.

  Returns:
    What was counted, in a line.
  """
  choice = random.Random(seed)
  ways = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: choice.randbytes(max(64, len(data))),
    "missing": None,
  }
  counts, failures = {"went on": 0, "refused": 0}, Failures()
  for backend in "local", "reverb":
    place = directory / backend
    config = small_run(
      place / "run", {"run.total_steps": 1_500}, backend=backend
    )
    check(train(config).returncode == 0, "a first run ends well")
    longer = config.updated({"run.total_steps": 1_700})
    configs, names, befores = [], [], []
    for path in _files_of_a_run(place / "run", backend):
      for way in choice.sample(sorted(ways), min(tries, len(ways))):
        run_dir = place / str(len(configs))
        shutil.copytree(place / "run", run_dir)
        damaged = run_dir / path
        if ways[way] is None:
          damaged.unlink()
        else:
          damaged.write_bytes(ways[way](damaged.read_bytes()))
        names.append(f"{backend} {path} {way}")
        configs.append(in_directory(longer, run_dir))
        befores.append(fingerprint(run_dir))
    for name, config, before, ended in zip(
      names,
      configs,
      befores,
      train_each(configs, at_a_time=at_a_time),
      strict=True,
    ):
      run_dir = pathlib.Path(config.run.run_dir)
      counts["refused" if ended.returncode else "went on"] += 1
      with failures.of(name):
        tail = f"{ended.stderr[:500]} ... {ended.stderr[-2000:]}"
        check("Traceback" not in ended.stderr, "no traceback", tail)
        if ended.returncode:
          _check_refused(ended, before, fingerprint(run_dir), says="")
      shutil.rmtree(run_dir)
  failures.raise_any()
  return ", ".join(f"{count} {what}" for what, count in counts.items())


def _files_of_a_run(run_dir: pathlib.Path, backend: str) -> list[pathlib.Path]:
  """Relative paths; of one with Reverb what Reverb wrote: the rest is alike."""
  newest = list_checkpoints(checkpoints_dir(run_dir))[-1].path
  if backend == "reverb":
    found = (newest / "replay").rglob("*")
  else:
    found = [
      *run_dir.iterdir(),
      *newest.rglob("*"),
      *(run_dir / "best").rglob("*"),
    ]
  return sorted(
    path.relative_to(run_dir)
    for path in found
    if path.is_file() and path.name != ".lock"
  )
