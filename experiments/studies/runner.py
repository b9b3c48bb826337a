"""The runs of a study, each in a child process, some of them at a time."""

import collections
import json
import subprocess
import sys
import time
from typing import Callable, NamedTuple, Sequence

from experiments.studies.results import is_finished, last_log_row
from experiments.studies.study import Run
from r2d2_jax.config import to_dict

_POLL_SECONDS = 0.5


class Failure(NamedTuple):
  """A run that ended without being finished."""

  run: Run
  returncode: int


def start(run: Run) -> subprocess.Popen:
  """Starts a run, or goes on with it; what it prints goes to `run.output`."""
  run.directory.parent.mkdir(parents=True, exist_ok=True)
  with run.output.open("ab") as output:
    return subprocess.Popen(
        [
            sys.executable, "-m", "experiments.studies.child",
            json.dumps(to_dict(run.config)),
        ],
        stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
        # Ctrl-C is for the study alone, which then stops its runs itself.
        start_new_session=True,
    )  # fmt: skip


def carry_out(
    runs: Sequence[Run],
    *,
    jobs: int,
    show: Callable[[list[Run]], None],
    ended: Callable[[Run, Failure | None], None],
) -> list[Failure]:
  """Makes those that are not finished; a failure of one is not that of the others.

  Args:
    runs: in order.
    jobs: how many at a time.
    show: called often, with the runs that are going on.
    ended: called when a run has ended, with its failure if it failed.

  Returns:
    The failures.

  Raises:
    KeyboardInterrupt: Ctrl-C; the runs have been stopped and can be gone on with.
  """
  waiting = collections.deque(run for run in runs if not is_finished(run))
  going: dict[str, tuple[Run, subprocess.Popen]] = {}
  failures = []
  try:
    while waiting or going:
      while waiting and len(going) < jobs:
        run = waiting.popleft()
        going[run.title] = run, start(run)
      for run, process in list(going.values()):
        if process.poll() is None:
          continue
        del going[run.title]
        process.stdin.close()
        failure = None
        if not is_finished(run):
          failure = Failure(run, process.returncode)
          failures.append(failure)
        ended(run, failure)
      show([run for run, _ in going.values()])
      if going:
        time.sleep(_POLL_SECONDS)
  finally:
    _stop([process for _, process in going.values()])
  return failures


def _stop(processes: list[subprocess.Popen]) -> None:
  """Ends runs that are going on, after they have saved; Ctrl-C ends them at once."""
  try:
    for process in processes:
      process.stdin.close()
    for process in processes:
      process.wait()
  finally:
    for process in processes:
      process.kill()
      process.wait()


def minutes_left(runs: Sequence[Run], jobs: int) -> float:
  """Of the whole study: steps to go, at each task's speed so far; NaN before any.

  Compilation and evaluation are not in it. Tasks of which nothing is known yet
  are as slow as the mean of the others.
  """
  steps_to_go: dict[str, float] = collections.defaultdict(float)
  steps_done: dict[str, float] = collections.defaultdict(float)
  minutes_done: dict[str, float] = collections.defaultdict(float)
  for run in runs:
    steps, minutes = last_log_row(run)
    steps_to_go[run.task] += max(0.0, run.config.run.total_steps - steps)
    steps_done[run.task] += steps
    minutes_done[run.task] += minutes
  pace = {
      task: minutes_done[task] / steps
      for task, steps in steps_done.items()
      if steps
  }
  if not pace:
    return float("nan")
  usual = sum(pace.values()) / len(pace)
  return sum(
      steps * pace.get(task, usual) for task, steps in steps_to_go.items()
  ) / jobs
