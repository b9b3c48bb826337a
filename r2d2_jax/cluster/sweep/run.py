"""Runs many runs over the resources of a Ray cluster, each in its own process.

Ray decides where a run finds its CPUs and GPUs, and which one has to wait. A
run is `train` in its own directory: what was finished before is skipped, what
was interrupted goes on, and a process that dies is started again from its
run's last checkpoint. One run that fails does not stop the others.
"""

from collections.abc import Callable, Sequence
import functools
import math
import os
import pathlib
import threading
import time

from rich.console import Console

from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.members import HostDied, Member
from r2d2_jax.cluster.nodes import check_fits, has_gpus, joined
from r2d2_jax.cluster.places import run_place
from r2d2_jax.cluster.sweep.host import Outcome
from r2d2_jax.cluster.sweep.jobs import Job
from r2d2_jax.cluster.sweep.table import OPEN, Line, sweep_display
from r2d2_jax.config import UserError
from r2d2_jax.system.run.finished import why_finished
from r2d2_jax.system.run.interrupts import heard_signals
from r2d2_jax.system.run.output import unfailing
from r2d2_jax.system.run.stop import Stop

_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 1.0
# Processes that wait for room at a time. One that waits tells an autoscaler
# that there is work; all of them would be hundreds.
_WAITING = 4
# How often a run's process may die, and its run go on from a checkpoint.
_MAX_DEATHS = 3
# What a process may take for a word, while another thread of it compiles.
_PATIENCE_SECONDS = 600.0


def run_sweep(
  jobs: Sequence[Job],
  *,
  sweep_dir: pathlib.Path,
  cpus: float,
  gpus: float | None = None,
  address: str = "",
  stop: threading.Event | None = None,
  console: Console | None = None,
) -> list[Line]:
  """Trains all of them; returns when they are over, or saved after a signal.

  Args:
    jobs: from `make_jobs`.
    sweep_dir: for the processes' logs; on a file system that all nodes share.
    cpus: that each run reserves; its environments get as many threads.
    gpus: the same, also in parts; None is 1 where the cluster has any.
    address: of a Ray cluster, see `nodes.joined`.
    stop: when set, everything is saved and ends, as after Ctrl-C.
    console: where the table is drawn.

  Returns:
    How each of them ended, in the order of the jobs.

  Raises:
    ConfigError: Ray cannot be reached, or no node has room for a run.
    KeyboardInterrupt: a second signal.
  """
  console = console or Console(quiet=True)
  sweep_dir.mkdir(parents=True, exist_ok=True)
  lines = [Line(job) for job in jobs]
  for line in lines:
    _skip_if_finished(line)
  os.environ.setdefault("WANDB_RUN_GROUP", sweep_dir.absolute().name)
  with heard_signals() as request, request.deferred(), unfailing(console):
    if all(line.state not in OPEN for line in lines):
      return lines
    stopping = Stop(request, stop)
    with joined(address, cpus):
      stopping.check()
      if gpus is None:
        gpus = float(has_gpus())
      places = [run_place(job.index, cpus=cpus, gpus=gpus) for job in jobs]
      check_fits(places[0])
      fleet = Fleet(
        places, sweep_dir, start_seconds=math.inf, max_restarts=len(jobs)
      )
      try:
        with sweep_display(console) as show:
          sweep = _Sweep(
            lines,
            fleet,
            num_threads=max(1, int(cpus)),
            say=functools.partial(
              console.print, highlight=False, markup=False, soft_wrap=True
            ),
          )
          while sweep.turn(stopping.asked):
            show(lines)
          show(lines)
      finally:
        fleet.end()
  return lines


def _skip_if_finished(line: Line) -> None:
  """One that cannot be read is tried, and then says why it cannot."""
  try:
    finished = why_finished(line.job.config, line.job.run_dir)
  except UserError:
    return
  if finished:
    line.state = "skipped"
    line.steps = finished.resumed.checkpoint.steps
    if finished.evaluation:
      line.score = float(finished.evaluation.returns.mean())


class _Sweep:
  """The runs of a sweep, and the processes that do them."""

  def __init__(
    self,
    lines: list[Line],
    fleet: Fleet,
    *,
    num_threads: int,
    say: Callable[[str], None],
  ):
    self._lines = lines
    self._fleet = fleet
    self._num_threads = num_threads
    self._say = say
    self._asked_at = 0.0
    self._told: set[Member] = set()  # those that were told to stop

  def turn(self, shall_stop: bool) -> bool:
    """Starts what may start, hears what there is to hear.

    Returns:
      Whether there is more to come.
    """
    if shall_stop:
      self._stop_all()
    else:
      self._start_some()
    self._ask()
    for died in self._fleet.poll(_POLL_SECONDS):
      self._died(died)
    return any(line.state in ("starts", "trains") for line in self._lines) or (
      not shall_stop and any(line.state in OPEN for line in self._lines)
    )

  def _start_some(self) -> None:
    waiting = sum(line.state == "starts" for line in self._lines)
    for line in self._lines:
      if waiting >= _WAITING:
        return
      if line.state == "waits":
        waiting += 1
        line.state = "starts"
        self._start(line)

  def _start(self, line: Line) -> None:
    member = self._fleet.members[line.job.index]
    self._fleet.create(member)
    self._fleet.greet(member, lambda greeting: self._greeted(line, member))

  def _greeted(self, line: Line, member: Member) -> None:
    line.state = "trains"
    config = line.job.config
    if not config.env.num_threads:
      threads = min(self._num_threads, config.env.num_envs)
      config = config.updated({"env.num_threads": threads})
    self._fleet.call(
      member,
      "run",
      lambda outcome: self._ended(line, member, outcome),
      math.inf,
      config,
    )

  def _ended(self, line: Line, member: Member, outcome: Outcome) -> None:
    self._fleet.kill(member)
    line.state = outcome.state
    line.words = outcome.words
    line.steps = outcome.steps or line.steps
    if outcome.score == outcome.score:
      line.score = outcome.score
    if line.state == "failed":
      self._say(f"{line.job.name} failed: {line.words}")

  def _ask(self) -> None:
    """How far they are."""
    now = time.monotonic()
    if now - self._asked_at < _PROGRESS_SECONDS:
      return
    self._asked_at = now
    for line in self._lines:
      member = self._fleet.members[line.job.index]
      if line.state == "trains" and not self._fleet.is_called(
        member, "progress"
      ):
        self._fleet.call(member, "progress", line.note, _PATIENCE_SECONDS)

  def _stop_all(self) -> None:
    for line in self._lines:
      member = self._fleet.members[line.job.index]
      if line.state == "starts":
        self._fleet.kill(member)
        line.state = "waits"
      elif line.state == "trains" and member not in self._told:
        self._told.add(member)
        self._fleet.call(member, "stop", lambda answer: None, _PATIENCE_SECONDS)

  def _died(self, died: HostDied) -> None:
    line = self._lines[died.member.place.index]
    line.deaths += 1
    if line.deaths <= _MAX_DEATHS and died.member not in self._told:
      line.state = "waits"
      self._say(f"{line.job.name}: {died}; it is started again, and goes on")
    else:
      line.state, line.words = "failed", str(died)
      self._say(f"{line.job.name} failed: {died}")
