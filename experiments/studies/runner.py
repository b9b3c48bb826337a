"""The runs of a study, each in a child process, some of them at a time."""

import collections
from collections.abc import Callable, Sequence
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

from experiments.studies.results import is_finished, last_log_row
from experiments.studies.study import Run
from r2d2_jax.config import to_dict

_POLL_SECONDS = 0.5
# Small runs beside each other, where nobody said how many: each has a process
# with JAX in it, some hundred megabytes.
_MOST_JOBS = 16


class Failure(NamedTuple):
  """A run that ended without being finished."""

  run: Run
  returncode: int


def places(jobs: int, *, lockstep: bool) -> list[tuple[int, ...]]:
  """The processors of each run, for runs beside each other.

  A run in lock-step keeps one busy, and always has one alone: XLA's sums depend
  on the number of its threads, and its table should not depend on the
  machine's.

  Args:
    jobs: how many; 0 leaves it to the kind of run: one for each processor in
      lock-step, one alone with threads.
    lockstep: whether they are in lock-step.
  """
  cores = sorted(os.sched_getaffinity(0))
  jobs = jobs or (min(len(cores), _MOST_JOBS) if lockstep else 1)
  shares = [tuple(cores[i % len(cores) :: jobs]) for i in range(jobs)]
  return [share[:1] for share in shares] if lockstep else shares


def start(run: Run, cores: tuple[int, ...]) -> subprocess.Popen:
  """Starts a run, or goes on with it; what it prints goes to `run.output`.

  Args:
    run: to make.
    cores: the processors that it may use.
  """
  run.directory.parent.mkdir(parents=True, exist_ok=True)
  # All seeds of an arm are one program: it is compiled once.
  settings = {
    "JAX_COMPILATION_CACHE_DIR": str((run.out / ".compiled").resolve())
  }
  if run.config.run.lockstep:
    # Many at a time would not share an accelerator, nor be the same on it.
    settings["JAX_PLATFORMS"] = "cpu"
  with run.output.open("ab") as output:
    return subprocess.Popen(
      [
        sys.executable,
        "-m",
        "experiments.studies.child",
        json.dumps(to_dict(run.config)),
        ",".join(map(str, cores)),
      ],
      env=settings | os.environ,
      stdin=subprocess.PIPE,
      stdout=output,
      stderr=subprocess.STDOUT,
      # Ctrl-C is for the study alone, which then stops its runs itself.
      start_new_session=True,
    )


def carry_out(
  runs: Sequence[Run],
  *,
  jobs: int,
  show: Callable[[list[Run]], None],
  ended: Callable[[Run, Failure | None], None],
) -> list[Failure]:
  """Makes those that are not finished; when one fails the others go on.

  Args:
    runs: in order.
    jobs: how many at a time, as for `places`.
    show: called often, with the runs that are going on.
    ended: called when a run has ended, with its failure if it failed.

  Returns:
    The failures.

  Raises:
    KeyboardInterrupt: Ctrl-C; the runs have been stopped and can be gone on
      with.
  """
  waiting = collections.deque(run for run in runs if not is_finished(run))
  going: dict[int, tuple[Run, subprocess.Popen]] = {}  # by place
  taken: list[tuple[int, ...]] = []
  failures = []
  try:
    while waiting or going:
      if not going:
        taken = _places_of(waiting[0], jobs)
      while waiting and len(going) < len(taken):
        if _places_of(waiting[0], jobs) != taken:
          break  # the other kind's turn comes when these have ended
        place = next(i for i in range(len(taken)) if i not in going)
        run = waiting.popleft()
        going[place] = run, start(run, taken[place])
      for place, (run, process) in list(going.items()):
        if process.poll() is None:
          continue
        del going[place]
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


def _places_of(run: Run, jobs: int) -> list[tuple[int, ...]]:
  return places(jobs, lockstep=run.config.run.lockstep)


def _stop(processes: list[subprocess.Popen]) -> None:
  """Ends runs that go on, after they have saved; Ctrl-C ends them at once."""
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
  """Of the whole study: steps to go, at each task's speed; NaN before any.

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
  beside = {run.task: len(_places_of(run, jobs)) for run in runs}
  return sum(
    steps * pace.get(task, usual) / beside[task]
    for task, steps in steps_to_go.items()
  )
