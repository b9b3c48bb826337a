"""A run on a cluster whose processes are killed one after the other."""

from collections.abc import Sequence
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from experiments.drills.drill import check, check_logs, rows, wait_until

_SECONDS = 300.0


def cluster(directory: pathlib.Path) -> str:
  """kill -9 of each role, a paused one, Ctrl-C, kill -9 of the driver.

  One run on this machine goes through all of it; then it is gone on with, with
  another number of actor hosts.

  Returns:
    How long each role took to be back, in a line.
  """
  run_dir = directory / "run"
  log = directory / "output.txt"
  command = _command(run_dir, "--cluster.actors=2")
  took = {}
  with log.open("w") as output:
    process = _start(command, output)
    try:
      until = lambda question, promise: wait_until(
        question, promise, process, log, every_seconds=0.2,
        timeout_seconds=_SECONDS,
      )  # fmt: skip
      until(lambda: _updates(run_dir) > 20, "a run that learns")
      until(lambda: _has_saved(run_dir), "a checkpoint")
      for role, said in (
        ("actor", "it is started again, with new games"),
        ("replay", "it is started again, with what"),
        ("learner", "the learner starts again from"),
      ):
        took[role] = _kill(role, said, run_dir, log, until)
      actor = _pid(run_dir, "actor")
      os.kill(actor, signal.SIGSTOP)
      time.sleep(20.0)
      os.kill(actor, signal.SIGCONT)
      _goes_on(run_dir, until, "after an actor host stood still for 20 s")
      pids = _pids(run_dir)
      os.killpg(process.pid, signal.SIGINT)
      code = process.wait(timeout=_SECONDS)
    finally:
      process.kill()
      process.wait()
  text = log.read_text()
  check(code == 130 and "interrupted; saved" in text, "exit code 130", text)
  _check_gone(pids, "after Ctrl-C")
  check_logs(run_dir)
  steps = _steps(run_dir)

  with log.open("w") as output:
    process = _start(_command(run_dir, "--cluster.actors=4"), output)
    try:
      until = lambda question, promise: wait_until(
        question, promise, process, log, every_seconds=0.2,
        timeout_seconds=_SECONDS,
      )  # fmt: skip
      until(lambda: _steps(run_dir) > steps, "more steps on other actor hosts")
      pids = _pids(run_dir)
    finally:
      process.kill()
      process.wait()
  check("resuming from" in log.read_text(), "it says where from")
  _check_gone(pids, "after kill -9 of the driver")
  check_logs(run_dir)
  return ", ".join(f"{role} back in {s:.0f} s" for role, s in took.items())


def _command(run_dir: pathlib.Path, *arguments: str) -> list[str]:
  return [
      sys.executable, "-m", "experiments.cluster", "--preset=smoke",
      f"--run.run-dir={run_dir}", "--run.total-steps=100000000",
      "--log.period-seconds=0.5", "--checkpoint.period-minutes=0.1",
      "--log.no-tensorboard", "--evaluation.period-steps=0",
      "--evaluation.num-episodes=2", "--cluster.evaluators=0", *arguments,
  ]  # fmt: skip


def _start(command: Sequence[str], output) -> subprocess.Popen:
  return subprocess.Popen(
    command,
    stdout=output,
    stderr=subprocess.STDOUT,
    # A group of its own, as a terminal's job is.
    start_new_session=True,
  )


def _kill(role, said, run_dir, log, until) -> float:
  """kill -9; returns the seconds until the run goes on."""
  start = time.monotonic()
  pid = _pid(run_dir, role)
  before = log.read_text().count(said)
  os.kill(pid, signal.SIGKILL)
  until(
    lambda: log.read_text().count(said) > before,
    f"a message about the dead {role}",
  )
  message = log.read_text()
  check(
    bool(re.search(rf"{role} \d+ \(node .*, pid {pid}, log .*\)", message)),
    "the role, its node, its process and its log named",
    message[-2000:],
  )
  until(lambda: _pid(run_dir, role) != pid, f"another {role}")
  _goes_on(run_dir, until, f"after the death of a {role}")
  return time.monotonic() - start


def _goes_on(run_dir, until, when: str) -> None:
  steps, updates = _steps(run_dir), _updates(run_dir)
  until(lambda: _steps(run_dir) > steps + 200, f"steps {when}")
  # After a learner's death the count goes back first.
  seen = [updates]

  def learns() -> bool:
    seen.append(_updates(run_dir))
    return seen[-1] > min(seen) + 5

  until(learns, f"updates {when}")


def _pids(run_dir: pathlib.Path) -> dict[str, int]:
  """Of the newest process in each place."""
  text = (run_dir / "logs" / "processes.csv").read_text()
  found = {}
  for line in text.splitlines():
    _, role, index, _, _, pid = line.split(",")
    found[f"{role} {index}"] = int(pid)
  return found


def _pid(run_dir: pathlib.Path, role: str) -> int:
  return _pids(run_dir)[f"{role} 0"]


def _check_gone(pids: dict[str, int], when: str) -> None:
  deadline = time.monotonic() + 30.0
  while left := [name for name, pid in pids.items() if _is_alive(pid)]:
    check(time.monotonic() < deadline, f"no process left {when}", left)
    time.sleep(0.2)


def _is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


def _last(run_dir: pathlib.Path, column: str) -> int:
  log = rows(run_dir / "log.csv")
  return int(log[-1][column]) if log else 0


def _steps(run_dir: pathlib.Path) -> int:
  return _last(run_dir, "steps")


def _updates(run_dir: pathlib.Path) -> int:
  return _last(run_dir, "updates")


def _has_saved(run_dir: pathlib.Path) -> bool:
  return any((run_dir / "checkpoints").glob("*-*[0-9]"))
