"""Disks that are full: what was saved is not touched, and the run goes on."""

import pathlib
import resource
import signal
import subprocess

import numpy as np

from experiments.drills.drill import (
  DEADLINE_SECONDS,
  check,
  check_logs,
  command,
  fingerprint,
  is_one_message,
  small_run,
  started,
  train,
  wait_until,
)
from r2d2_jax.system.storage.checkpoints import (
  PARTIAL,
  list_checkpoints,
  read_record,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir


def full_disk(directory: pathlib.Path) -> None:
  """Saves fail: the run goes on and says so, then keeps the old checkpoint.

  Files are limited to 100 kB, which the operating system refuses to
  exceed as it does where a disk is full.
  """
  run_dir = directory / "full"
  config = small_run(run_dir, {"run.total_steps": 3_000})
  check(train(config).returncode == 0, "a first run ends well")
  before = fingerprint(checkpoints_dir(run_dir))
  longer = config.updated(
    {"run.total_steps": 60_000, "checkpoint.period_updates": 10}
  )
  limited = subprocess.run(
    command(longer),
    capture_output=True,
    text=True,
    check=False,
    timeout=DEADLINE_SECONDS,
    preexec_fn=lambda: resource.setrlimit(
      resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    ),
  )
  check(limited.returncode == 1, "exit code 1", limited)
  check(
    limited.stdout.count("warning: cannot save a checkpoint") >= 2,
    "the run goes on after a save that failed",
    limited.stdout,
  )
  check("cannot save" in limited.stderr, "an error at the end", limited.stderr)
  check(is_one_message(limited.stderr), "one message", limited.stderr)
  after = fingerprint(checkpoints_dir(run_dir))
  check(before == after, "the old checkpoint untouched")
  check(train(longer).returncode == 0, "with room again it goes on")


def full_disk_under_reverb(directory: pathlib.Path, *, marks: int = 10) -> str:
  """A disk that is full at one mark, has room, is full at the next one, ...

  Files may become so large and no larger, from nothing at all up to all but the
  end of a save's largest file, which is Reverb's.

  Returns:
    What was counted, in a line.
  """
  run_dir, log = directory / "reverb", directory / "reverb.txt"
  config = small_run(
    run_dir,
    {"run.total_steps": 10**9, "checkpoint.period_minutes": 0.01},
    backend="reverb",
  )

  def newest() -> int:
    saved = list_checkpoints(checkpoints_dir(run_dir))
    return saved[-1].steps if saved else -1

  def num_refused() -> int:
    return log.read_text().count("warning: cannot save a checkpoint")

  with started(config, log, piped=True) as process:
    wait_until(lambda: newest() > 0, "a save", process, log)
    for share in np.linspace(0.0, 0.95, marks):
      mark = int(share * _largest_file(run_dir))
      _limit_files(process, mark)
      # One may have been under way when the disk became full.
      count = num_refused() + 2
      wait_until(
        lambda count=count: num_refused() >= count,
        f"a warning at each save that finds {mark} bytes of room",
        process,
        log,
      )
      kept = list_checkpoints(checkpoints_dir(run_dir))
      check(bool(kept), f"checkpoints kept at {mark} bytes", kept)
      read_record(kept[-1])
      scratch = run_dir / ".replay"
      check(
        not scratch.exists() or len(list(scratch.iterdir())) <= 2,
        "no pieces of saves that heap up",
        list(scratch.iterdir()),
      )
      _limit_files(process, resource.RLIM_INFINITY)
      wait_until(
        lambda kept=kept: newest() > kept[-1].steps,
        "a save with room",
        process,
        log,
      )
    _limit_files(process, _largest_file(run_dir) // 2)
    process.send_signal(signal.SIGTERM)
    code = process.wait(DEADLINE_SECONDS)
  text = log.read_text()
  check(code == 1, "exit code 1 where the last save fails", f"{code}: {text}")
  end = text[text.rindex("error: ") :]
  check("cannot save a checkpoint" in end, "why, in one message", end)
  check("Traceback" not in text, "no traceback", text)
  check("Exception ignored" not in text, "nothing of Python's own", text)
  check(
    not list(checkpoints_dir(run_dir).glob(f"*{PARTIAL}")),
    "the space of half a checkpoint given back",
    list(checkpoints_dir(run_dir).iterdir()),
  )
  last = newest()
  again = train(config.updated({"run.total_steps": last + 500}))
  check(again.returncode == 0, "with room again it goes on", again.stderr)
  check(f"step {last}" in again.stdout, "from the last save", again.stdout)
  check("filled anew" not in again.stdout, "with its replay", again.stdout)
  check_logs(run_dir)
  return f"{marks} marks, {num_refused()} saves refused"


def _limit_files(process: subprocess.Popen, size_bytes: int) -> None:
  """How large a file of the process may become; it seems a full disk to it."""
  resource.prlimit(
    process.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY)
  )


def _largest_file(run_dir: pathlib.Path) -> int:
  """Of the newest checkpoint, in bytes; the run goes on, and may remove it."""
  while True:
    path = list_checkpoints(checkpoints_dir(run_dir))[-1].path
    try:
      return max(p.stat().st_size for p in path.rglob("*") if p.is_file())
    except (OSError, ValueError):
      continue
