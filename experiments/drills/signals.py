"""Signals at random moments: what is at hand is saved, and the run ends."""

import pathlib
import random
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

from experiments.drills.drill import (
  check,
  check_logs,
  in_directory,
  rows,
  small_run,
  started,
  train,
  wait_until,
)
from r2d2_jax.system.run.interrupts import SIGNALS
from r2d2_jax.system.storage.checkpoints import (
  PARTIAL,
  list_checkpoints,
  read_record,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir

_NEVER_MINUTES = 1e6
# Behind its last words a process has no handlers any more.
_LAST_WORDS = "learning_curve.png"


class _End(NamedTuple):
  code: int
  text: str
  seconds: float  # from the signal on


def _signal_of(number: int) -> signal.Signals:
  return signal.Signals(SIGNALS[number % len(SIGNALS)])


def _send(
  process: subprocess.Popen,
  log: pathlib.Path,
  signals: list[tuple[float, signal.Signals]],
) -> _End:
  """Sends each signal after so many seconds; waits for the end."""
  for seconds, number in signals:
    time.sleep(seconds)
    process.send_signal(number)
  start = time.monotonic()
  try:
    code = process.wait(60)
  except subprocess.TimeoutExpired:
    check(False, f"{signals} ends it within a minute", log.read_text()[-3000:])
  return _End(code, log.read_text(), time.monotonic() - start)


def _check_end(end: _End, signals: list[tuple[float, signal.Signals]]) -> None:
  """130; or none of ours: it came before the first word or after the last."""
  outside = not end.text.strip() or _LAST_WORDS in end.text
  numbers = [-number for _, number in signals]
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


def _check_saved(run_dir: pathlib.Path) -> int:
  """The newest checkpoint is whole, and no half one is left; its steps."""
  directory = checkpoints_dir(run_dir)
  saved = list_checkpoints(directory)
  check(bool(saved), "a checkpoint", sorted(run_dir.rglob("*")))
  read_record(saved[-1])
  partial = list(directory.glob(f"*{PARTIAL}"))
  check(not partial, "no half a checkpoint", partial)
  check_logs(run_dir)
  return saved[-1].steps


def at_start_up(
  directory: pathlib.Path, *, tries: int = 4, seed: int = 0
) -> str:
  """While it imports, compiles, restores: it ends, and what was saved is there.

  Returns:
    What was counted, in a line.
  """
  moments = random.Random(seed)
  run_dir, log = directory / "start", directory / "start.txt"
  config = small_run(run_dir, {"run.total_steps": 1_500}, backend="reverb")
  check(train(config).returncode == 0, "a first run ends well")
  longer = config.updated({"run.total_steps": 10**9})
  begin = time.monotonic()
  with started(longer, log) as process:
    wait_until(lambda: "updates/s" in log.read_text(), "a start", process, log)
    start_seconds = time.monotonic() - begin
  steps, slowest, codes = _check_saved(run_dir), 0.0, []
  for i in range(tries):
    log = directory / f"start-{i}.txt"
    # Spread over the start, each somewhere in its part.
    moment = (i + moments.random()) / tries * start_seconds
    signals = [(moment, _signal_of(i))]
    with started(longer, log) as process:
      end = _send(process, log, signals)
    _check_end(end, signals)
    slowest = max(slowest, end.seconds)
    codes.append(end.code)
    now = _check_saved(run_dir)
    check(now >= steps, "no checkpoint is lost", (steps, now))
    steps = now
  again = train(config.updated({"run.total_steps": steps + 500}))
  check(again.returncode == 0, "it goes on", again.stderr)
  return (
    f"{tries} signals in {start_seconds:.0f} s of start-up, the slowest end"
    f" {slowest:.1f} s, codes {sorted(set(codes))}"
  )


def in_the_last_save(
  directory: pathlib.Path, *, tries: int = 4, seed: int = 0
) -> str:
  """In the only save there is; every other time a second signal close behind.

  Returns:
    What was counted, in a line.
  """
  moments = random.Random(seed)

  def wait_for_save(run_dir, process, log) -> None:
    wait_until(
      lambda: any(checkpoints_dir(run_dir).glob(f"*{PARTIAL}")),
      "a save",
      process,
      log,
      every_seconds=0.001,
    )

  def run(name: str, backend: str):
    return small_run(
      directory / name,
      {"run.total_steps": 1_500, "checkpoint.period_minutes": _NEVER_MINUTES},
      backend=backend,
    )

  save_seconds = {}
  for backend in ("local", "reverb")[: max(1, min(2, tries))]:
    run_dir, log = directory / backend, directory / f"{backend}.txt"
    with started(run(backend, backend), log) as process:
      wait_for_save(run_dir, process, log)
      begin = time.monotonic()
      saves = checkpoints_dir(run_dir)
      wait_until(
        lambda saves=saves: bool(list_checkpoints(saves)),
        "a save",
        process,
        log,
        every_seconds=0.001,
      )
      save_seconds[backend] = time.monotonic() - begin
  codes, num_evaluated = [], 0
  for i in range(tries):
    backend = list(save_seconds)[i // 2 % len(save_seconds)]
    config, log = run(f"save-{i}", backend), directory / f"save-{i}.txt"
    run_dir = directory / f"save-{i}"
    signals = [(moments.uniform(0, save_seconds[backend]), _signal_of(i))]
    if i % 2:
      signals.append((moments.uniform(0.2, 0.5), _signal_of(i + 1)))
    with started(config, log) as process:
      wait_for_save(run_dir, process, log)
      end = _send(process, log, signals)
    _check_end(end, signals)
    codes.append(end.code)
    num_evaluated += "evaluation: " in end.text
    check(_check_saved(run_dir) >= 1_500, "all of it saved", end.text)
  again = train(config)
  check(again.returncode == 0, "it goes on", again.stderr)
  seconds = ", ".join(f"{name} {x:.2f} s" for name, x in save_seconds.items())
  return f"{tries} saves ({seconds}), codes {sorted(set(codes))}"


def in_the_evaluation(
  directory: pathlib.Path, *, tries: int = 4, seed: int = 0
) -> str:
  """In the last evaluation: it is left out, whole, and done at the next start.

  Returns:
    What was counted, in a line.
  """
  moments = random.Random(seed)
  base = small_run(
    directory / "base", {"run.total_steps": 1_500, "evaluation.num_episodes": 0}
  )
  check(train(base).returncode == 0, "a first run ends well")
  num_games = 2_000
  config = base.updated({"evaluation.num_episodes": num_games})

  def copy(name: str):
    shutil.copytree(directory / "base", directory / name)
    return in_directory(config, directory / name), directory / f"{name}.txt"

  straight, log = copy("straight")
  with started(straight, log) as process:
    _wait_for_evaluation(process, log)
    begin = time.monotonic()
    wait_until(
      lambda: "evaluation: " in log.read_text(), "scores", process, log
    )
    evaluation_seconds = time.monotonic() - begin
    check(process.wait(60) == 0, "it ends well", log.read_text())
  num_left_out = 0
  for i in range(tries):
    here, log = copy(f"evaluation-{i}")
    run_dir = pathlib.Path(here.run.run_dir)
    signals = [(moments.uniform(0, evaluation_seconds), _signal_of(i))]
    with started(here, log) as process:
      _wait_for_evaluation(process, log)
      end = _send(process, log, signals)
    _check_end(end, signals)
    _check_saved(run_dir)
    games = len(rows(run_dir / "evaluation.csv"))
    check(games in (0, num_games), "all games or none written down", games)
    check(bool(games) == ("evaluation: " in end.text), "as it says", end.text)
    num_left_out += not games
  again = train(here)
  check(again.returncode == 0, "the next start ends well", again.stderr)
  games = len(rows(run_dir / "evaluation.csv"))
  check(games == num_games, "it has evaluated, once", games)
  return (
    f"{tries} signals in {evaluation_seconds:.1f} s of evaluation,"
    f" {num_left_out} left out"
  )


def _wait_for_evaluation(process, log: pathlib.Path) -> None:
  wait_until(
    lambda: "evaluating" in log.read_text(), "an evaluation", process, log
  )
