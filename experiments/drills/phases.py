"""Signals that come to runs at random moments of one of their phases.

Moments are told in the seconds of work that a process has done, not in those of
the clock, which say little on a machine that others use.
"""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import random
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

import psutil

from experiments.drills.drill import (
  DEADLINE_SECONDS,
  Failures,
  check,
  check_logs,
  each_of,
  in_directory,
  started,
  train,
  wait_until,
)
from r2d2_jax.config import Config
from r2d2_jax.system.run.interrupts import SIGNALS
from r2d2_jax.system.storage.checkpoints import (
  PARTIAL,
  list_checkpoints,
  read_record,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir

# Behind its last words a process has no handlers any more.
_LAST_WORDS = "learning_curve.png"


class Phase(NamedTuple):
  """A part of a run, in which signals come."""

  # A run that comes to it, in a directory of this name.
  run: Callable[[str], Config]
  # Asked of the run's directory and what it has printed.
  has_begun: Callable[[pathlib.Path, str], bool]
  has_ended: Callable[[pathlib.Path, str], bool]
  check_left: Callable[[pathlib.Path, str], None]
  # Seconds of the clock between a signal and another one; None: there is none.
  gap_seconds: Callable[[int, random.Random], float | None]


class End(NamedTuple):
  code: int
  text: str
  seconds: float  # from the signal on


def _signal_of(number: int) -> signal.Signals:
  return signal.Signals(SIGNALS[number % len(SIGNALS)])


def _work_seconds(process: subprocess.Popen) -> float:
  """What a process has computed so far, in all of its threads."""
  try:
    times = psutil.Process(process.pid).cpu_times()
  except psutil.Error:  # it has ended
    return float("inf")
  return times.user + times.system


@contextlib.contextmanager
def _come_to(
  phase: Phase, config: Config, log: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """A training that has just come to a phase."""
  run_dir = pathlib.Path(config.run.run_dir)
  with started(config, log) as process:
    wait_until(
      lambda: phase.has_begun(run_dir, log.read_text()),
      "it comes to the phase",
      process,
      log,
      every_seconds=0.005,
    )
    yield process


def signal_in(
  directory: pathlib.Path,
  phase: Phase,
  *,
  tries: int,
  at_a_time: int,
  seed: int,
) -> tuple[float, list[End]]:
  """Runs come to a phase, and a signal to each, at any moment of it.

  Returns:
    How much work the phase is, in seconds; how each run ended.
  """
  config, log = phase.run("straight"), directory / "straight.txt"
  run_dir = pathlib.Path(config.run.run_dir)
  with _come_to(phase, config, log) as process:
    begin = _work_seconds(process)
    wait_until(
      lambda: phase.has_ended(run_dir, log.read_text()),
      "an end of the phase",
      process,
      log,
      every_seconds=0.005,
    )
    phase_seconds = _work_seconds(process) - begin
  failures, ends = Failures(), []

  def one(number: int) -> None:
    # Spread over the phase, each somewhere in its part.
    moments = random.Random(f"{seed} {number}")
    moment = (number + moments.random()) / tries * phase_seconds
    name = f"signal-{number}"
    config, log = phase.run(name), directory / f"{name}.txt"
    run_dir = pathlib.Path(config.run.run_dir)
    with failures.of(f"{name} after {moment:.2f} s of work"):
      with _come_to(phase, config, log) as process:
        moment += _work_seconds(process)
        wait_until(
          lambda: _work_seconds(process) >= moment,
          "the moment",
          process,
          log,
          every_seconds=0.005,
        )
        signals = [_signal_of(number)]
        process.send_signal(signals[0])
        if gap := phase.gap_seconds(number, moments):
          time.sleep(gap)
          signals.append(_signal_of(number + 1))
          process.send_signal(signals[1])
        end = _wait_for_end(process, log)
      _check_end(end, signals)
      _check_saved(run_dir)
      phase.check_left(run_dir, end.text)
      ends.append(end)

  each_of(one, range(tries), at_a_time)
  failures.raise_any()
  again = train(phase.run(f"signal-{tries - 1}"))
  check(again.returncode == 0, "the next start ends well", again.stderr)
  return phase_seconds, ends


def _wait_for_end(process: subprocess.Popen, log: pathlib.Path) -> End:
  start = time.monotonic()
  try:
    code = process.wait(DEADLINE_SECONDS)
  except subprocess.TimeoutExpired:
    check(False, "a signal ends it", log.read_text()[-3000:])
  return End(code, log.read_text(), time.monotonic() - start)


def _check_end(end: End, signals: list[signal.Signals]) -> None:
  """130; or another, where it came before the first word or behind the last."""
  outside = not end.text.strip() or _LAST_WORDS in end.text
  numbers = [-number for number in signals]
  # Python ends in a traceback where Ctrl-C interrupts the first of its imports.
  is_early = "Traceback" in end.text and "KeyboardInterrupt" in end.text
  is_early = is_early and "world: " not in end.text
  check(
    end.code == 130
    or (outside or is_early)
    and end.code in numbers
    or _LAST_WORDS in end.text
    and end.code == 0,
    f"exit code 130 after {signals}",
    f"{end.code}: {end.text[-3000:]}",
  )
  check("Traceback" not in end.text or is_early, "no traceback", end.text)


def _check_saved(run_dir: pathlib.Path) -> None:
  """The newest checkpoint is whole, and no half one is left."""
  directory = checkpoints_dir(run_dir)
  saved = list_checkpoints(directory)
  check(bool(saved), "a checkpoint", sorted(run_dir.rglob("*")))
  read_record(saved[-1])
  partial = list(directory.glob(f"*{PARTIAL}"))
  check(not partial, "no half a checkpoint", partial)
  check_logs(run_dir)


def steps_of(run_dir: pathlib.Path) -> int:
  return list_checkpoints(checkpoints_dir(run_dir))[-1].steps


def told(
  what: str, work_seconds: float, ends: list[End], found: str = ""
) -> str:
  codes = sorted({end.code for end in ends})
  slowest = max(end.seconds for end in ends)
  return (
    f"{len(ends)} signals in {work_seconds:.2f} s of work of {what}, the"
    f" slowest end {slowest:.1f} s, codes {codes}{found}"
  )


def copies_of(base: Config, config: Config) -> Callable[[str], Config]:
  """Gives the run `config` in a copy of base's directory, beside it."""
  source = pathlib.Path(base.run.run_dir)

  def run(name: str) -> Config:
    run_dir = source.with_name(name)
    if not run_dir.exists():
      shutil.copytree(source, run_dir)
    return in_directory(config, run_dir)

  return run
