"""What the drills have in common: trainings, and checks that can fail."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import csv
import json
import multiprocessing
from multiprocessing.process import BaseProcess
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple, TypeVar

from experiments.drills.child import END
from experiments.drills.child import main as child_main
from r2d2_jax.config import Config, to_dict
from r2d2_jax.presets import smoke
from r2d2_jax.system.run.interrupts import SIGNALS

KILLED = -signal.SIGKILL
# For what takes seconds: a machine that many share may need minutes.
DEADLINE_SECONDS = 1200.0
# Columns that tell of the wall clock: never the same twice.
_CLOCK = ("minutes", "per_second", "share_", "bottleneck")


_Case = TypeVar("_Case")
_Result = TypeVar("_Result")


class DrillFailed(Exception):
  """The program did not do what it promises."""


class Failures:
  """Broken promises of several cases, told together."""

  def __init__(self):
    """None so far."""
    self._found: list[str] = []

  @contextlib.contextmanager
  def of(self, case: str) -> Iterator[None]:
    """Within it a DrillFailed is kept for later."""
    try:
      yield
    except DrillFailed as error:
      self._found.append(f"{case}: {error}")

  def raise_any(self) -> None:
    """Raises DrillFailed with all that was found."""
    if self._found:
      raise DrillFailed("\n".join(self._found))


class Ended(NamedTuple):
  """How a training ended."""

  returncode: int
  stdout: str
  stderr: str


def check(ok: bool, promise: str, found: object = "") -> None:
  """Raises DrillFailed where a promise is broken."""
  if not ok:
    raise DrillFailed(f"expected: {promise}; found: {found}")


def small_run(
  run_dir: pathlib.Path,
  settings: Mapping[str, Any] | None = None,
  *,
  backend: str = "local",
) -> Config:
  """The smoke preset in a directory, with some settings changed."""
  return smoke().updated(
    {
      "replay.backend": backend,
      "run.run_dir": str(run_dir),
      "log.period_seconds": 0.5,
      "log.tensorboard": False,
      "evaluation.num_episodes": 2,
      **(settings or {}),
    }
  )


def in_directory(config: Config, run_dir: pathlib.Path) -> Config:
  """The same run in another directory."""
  return config.updated({"run.run_dir": str(run_dir)})


def command(*configs: Config, **options) -> list[str]:
  """The command line of `experiments.drills.child`; its options by name."""
  settings = [json.dumps(to_dict(config)) for config in configs]
  flags = [
    f"--{name}" if value is True else f"--{name}={value}"
    for name, value in options.items()
  ]
  return [sys.executable, "-m", "experiments.drills.child", *settings, *flags]


def train(
  config: Config,
  *,
  timeout_seconds: float = DEADLINE_SECONDS,
  environ: Mapping[str, str] | None = None,
  **options,
) -> subprocess.CompletedProcess[str]:
  """Runs it to its end, however it ends; environ adds to the environment."""
  return subprocess.run(
    command(config, **options),
    capture_output=True,
    text=True,
    check=False,
    timeout=timeout_seconds,
    env=os.environ | dict(environ or {}),
  )


def train_each(configs: Sequence[Config], *, at_a_time: int = 1) -> list[Ended]:
  """Runs them in so many processes, in each one after the other.

  A process that trains several imports only once.
  """
  share = [configs[i::at_a_time] for i in range(at_a_time)]
  parts = each_of(_train_in_turn, [part for part in share if part], at_a_time)
  ended = {}
  for i, part in enumerate(parts):
    ended |= {i + at_a_time * j: one for j, one in enumerate(part)}
  return [ended[i] for i in range(len(configs))]


def _train_in_turn(configs: Sequence[Config]) -> list[Ended]:
  done = subprocess.run(
    command(*configs, each=True),
    capture_output=True,
    text=True,
    check=False,
    timeout=DEADLINE_SECONDS + 60 * len(configs),
  )
  # What comes after the last mark is nobody's.
  out, err = (text.split(END)[:-1] for text in (done.stdout, done.stderr))
  check(
    len(out) == len(err) == len(configs),
    f"{len(configs)} trainings that end in one process",
    f"{len(out)}, exit code {done.returncode}: {done.stderr[-2000:]}",
  )
  ended = []
  for stdout, stderr in zip(out, err, strict=True):
    text, _, code = stdout.rpartition("\n")
    ended.append(Ended(int(code), text, stderr))
  return ended


def each_of(
  do: Callable[[_Case], _Result], cases: Sequence[_Case], at_a_time: int
) -> list[_Result]:
  """What it gives for each case; so many at a time, for it mostly waits."""
  with futures.ThreadPoolExecutor(at_a_time) as pool:
    return list(pool.map(do, cases))


@contextlib.contextmanager
def started(
  config: Config, log: pathlib.Path, *, piped: bool = False, **options
) -> Iterator[subprocess.Popen]:
  """A training that is killed, if it still goes on, at the end of the block.

  Args:
    config: of the run.
    log: gets all that it prints.
    piped: through a pipe, so that a limit on its files is none on its output.
    **options: of `experiments.drills.child`.
  """
  with contextlib.ExitStack() as stack:
    output = stack.enter_context(log.open("w"))
    if piped:
      # Popen's own `with` waits for its end.
      cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
      output = stack.enter_context(cat).stdin
    process = subprocess.Popen(
      command(config, **options), stdout=output, stderr=subprocess.STDOUT
    )
    try:
      yield process
    finally:
      process.kill()
      process.wait()


@contextlib.contextmanager
def forked(
  config: Config, log: pathlib.Path, **options
) -> Iterator[BaseProcess]:
  """As `started`, from a process that has imported all: it takes half the time.

  Forked before JAX, Reverb or anything else has started a thread. It leaves
  without the interpreter's last steps: for what is killed anyway.
  """
  import matplotlib.pyplot  # noqa: F401
  import reverb  # noqa: F401

  import r2d2_jax.system.train  # noqa: F401

  log.write_text("")
  process = multiprocessing.get_context("fork").Process(
    target=_train_forked, args=(config, log), kwargs=options
  )
  process.start()
  try:
    yield process
  finally:
    process.kill()
    process.join()


def _train_forked(config: Config, log: pathlib.Path, **options) -> None:
  with log.open("w") as output:
    for descriptor in (1, 2):
      os.dup2(output.fileno(), descriptor)
  sys.exit(child_main((json.dumps(to_dict(config)),), **options))


def let_trainings_hear() -> None:
  """Signals reach those started from here, though the drills be under nohup.

  What a process ignores is ignored by those that it starts; what it hears, and
  does nothing about, is not.
  """
  for number in SIGNALS:
    if signal.getsignal(number) == signal.SIG_IGN:
      signal.signal(number, lambda *_: None)


def exit_code(
  process: subprocess.Popen | BaseProcess,
) -> int | None:
  """Minus the signal's number where one ended it; None while it goes on."""
  if isinstance(process, subprocess.Popen):
    return process.poll()
  return process.exitcode


def wait_until(
  question: Callable[[], bool],
  promise: str,
  process: subprocess.Popen | BaseProcess,
  log: pathlib.Path,
  *,
  every_seconds: float = 0.02,
  timeout_seconds: float = DEADLINE_SECONDS,
) -> None:
  """Waits while the process goes on; its end or a long time fails the drill."""
  deadline = time.monotonic() + timeout_seconds
  while not question():
    code = exit_code(process)
    if code is not None and question():
      return
    check(
      code is None and time.monotonic() < deadline,
      promise,
      f"exit code {code}: {log.read_text()[-3000:]}",
    )
    time.sleep(every_seconds)


def rows(path: pathlib.Path, *, clock: bool = True) -> list[dict[str, str]]:
  """A log's rows; without the columns of the wall clock if asked.

  Half a row, as a kill leaves it, is left out.
  """
  text = path.read_text() if path.exists() else ""
  lines = text[: text.rfind("\n") + 1].splitlines()
  return [
    {
      name: value
      for name, value in row.items()
      if clock or not any(c in name for c in _CLOCK)
    }
    for row in csv.DictReader(lines)
  ]


def check_logs(run_dir: pathlib.Path) -> int:
  """Checks that the logs tell of one life, however many there were.

  Minutes rise from row to row; steps and updates never fall, and one of them
  rises, or else the row brings the score of the last evaluation; no game is
  written down twice.

  Returns:
    How many rows the log has.
  """
  log = rows(run_dir / "log.csv")
  counts = [
    (float(row["minutes"]), int(row["steps"]), int(row["updates"]))
    for row in log
  ]
  for before, after, row in zip(counts[:-1], counts[1:], log[1:], strict=True):
    has_score = row.get("eval_return", "nan") != "nan"
    check(
      after[0] > before[0]
      and (after[1:] != before[1:] or has_score)
      and after[1] >= before[1]
      and after[2] >= before[2],
      "minutes, and steps or updates, that rise from row to row in log.csv",
      f"{before} and then {after}",
    )
  games = [
    (row["updates"], row["steps"], row["game"])
    for row in rows(run_dir / "evaluation.csv")
  ]
  check(len(games) == len(set(games)), "no game twice in evaluation.csv", games)
  return len(counts)


def fingerprint(directory: pathlib.Path) -> dict[str, bytes]:
  """All files and what is in them, but for the lock."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


def is_one_message(stderr: str) -> bool:
  """Whether a refusal or an end was told in one message without a traceback."""
  return stderr.count("error: ") == 1 and "Traceback" not in stderr
