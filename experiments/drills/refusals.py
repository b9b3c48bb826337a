"""Disks and directories that cannot be used: nothing that was saved is touched."""

import os
import pathlib
import resource
import subprocess

from experiments.drills.drill import check, command, small_run, train
from r2d2_jax.system.storage.checkpoints import FORMAT, list_checkpoints
from r2d2_jax.system.storage.rundir import checkpoints_dir


def full_disk(directory: pathlib.Path) -> None:
  """Saves fail: the run goes on and says so, then stops with the old checkpoint.

  Files are limited to 100 kB, which the operating system refuses to
  exceed as it does where a disk is full.
  """
  run_dir = directory / "full"
  config = small_run(run_dir, {"run.total_steps": 3_000})
  check(train(config).returncode == 0, "a first run ends well")
  before = _fingerprint(checkpoints_dir(run_dir))
  longer = config.updated({"run.total_steps": 60_000, "checkpoint.period_updates": 10})
  limited = subprocess.run(
      command(longer),
      capture_output=True, text=True, check=False, timeout=300,
      preexec_fn=lambda: resource.setrlimit(
          resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
      ),
  )  # fmt: skip
  check(limited.returncode == 1, "exit code 1", limited)
  check(
      limited.stdout.count("warning: cannot save a checkpoint") >= 2,
      "the run goes on after a save that failed",
      limited.stdout,
  )
  check("cannot save" in limited.stderr, "an error at the end", limited.stderr)
  check(_one_message(limited.stderr), "one message", limited.stderr)
  after = _fingerprint(checkpoints_dir(run_dir))
  check(before == after, "the old checkpoint untouched")
  check(train(longer).returncode == 0, "with room again it goes on")


def directories_that_cannot_be_used(directory: pathlib.Path) -> None:
  """Foreign, of another network, task, version, damaged, in use: refused."""
  run_dir = directory / "run"
  config = small_run(run_dir, {"run.total_steps": 2_000})
  check(train(config).returncode == 0, "a first run ends well")

  def refused(changed, expected: str) -> None:
    before = _fingerprint(directory)
    result = train(changed)
    check(result.returncode == 2, "exit code 2", result)
    check(expected in result.stderr, expected, result.stderr)
    check(_one_message(result.stderr), "one message", result.stderr)
    check(_fingerprint(directory) == before, f"nothing changed ({expected})")

  refused(
      config.updated({"network.core_units": 16}),
      "another task or network",
  )
  refused(
      config.updated({"env.task": "Catch-v0"}),
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
      for line in process.stdout:
        if "resuming" in line:
          break
      second = train(config)
      check(second.returncode == 2, "exit code 2", second)
      check("another process is training" in second.stderr, "", second.stderr)
    finally:
      process.kill()


def _fingerprint(directory: pathlib.Path) -> dict[str, bytes]:
  """All files and what is in them, but for the lock."""
  return {
      str(path): path.read_bytes()
      for path in sorted(directory.rglob("*"))
      if path.is_file() and path.name != ".lock"
  }


def _one_message(stderr: str) -> bool:
  return stderr.count("error: ") == 1 and "Traceback" not in stderr
