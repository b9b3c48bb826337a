"""Keeps the processes of a run at work; brings back who died.

One thread calls all processes and takes all reports. Who is dead is started
again in its place: an actor host with new games, a replay shard with what was
saved of it, the learner, all of its processes together, from the last
checkpoint."""

from collections.abc import Callable
import pathlib
import threading
import time

from r2d2_jax.cluster.facades import FarLearner
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.governor import Governor
from r2d2_jax.cluster.members import HostDied
from r2d2_jax.cluster.parameters import Newest
from r2d2_jax.cluster.starts import Starts
from r2d2_jax.cluster.work import Work
from r2d2_jax.config import first_line
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
  read_record,
  restore_learner,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir

_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 10.0


class Conductor:
  """See the module; `start` in the main thread, then `run` in its own."""

  def __init__(
    self,
    run_dir: pathlib.Path,
    *,
    fleet: Fleet,
    starts: Starts,
    work: Work,
    newest: Newest,
    governor: Governor,
    learner: FarLearner,
    say: Callable[[str], None],
  ):
    """See the class.

    Args:
      run_dir: of the run.
      fleet: calls the processes.
      starts: starts them.
      work: gives them work.
      newest: what the learner begins with.
      governor: is told who died.
      learner: the same.
      say: takes a line for the user.
    """
    self._run_dir = run_dir
    self._fleet = fleet
    self._starts = starts
    self._work = work
    self._newest = newest
    self._governor = governor
    self._learner = learner
    self._say = say
    # Set when the learner went back: the update from which on the run's logs
    # are to be cut. Whoever does it sets it to None.
    self.cut_updates: int | None = None

  def start(self, stop: Stop) -> None:
    """Starts all processes; returns when the shards are there.

    Raises:
      UserError, RunError, KeyboardInterrupt: it cannot be, or shall not.
    """
    for member in self._fleet.members:
      if member.place.role not in ("evaluator", "learner"):
        self._starts.begin(member)
    self._starts.begin_learners()
    while not self._starts.are_shards_there:
      self._look_after()
      stop.check()

  def run(self, stop: Stop) -> None:
    """Goes on until the end or a stop, and a little, for what is on its way."""
    self._starts.is_training = True
    while not stop.ended.is_set():
      self._work.hand_out()
      self._look_after()
    deadline = time.monotonic() + _DRAIN_SECONDS
    while self._fleet.num_calls and time.monotonic() < deadline:
      for died in self._fleet.poll(_POLL_SECONDS):
        self._say(f"warning: {died}; the run is ending")

  def _look_after(self) -> None:
    try:
      deaths = self._fleet.poll(_POLL_SECONDS)
    except ReplayError as error:
      if not self._starts.begin_empty(error):
        raise
      return
    for died in deaths:
      if died.member.handle is None:  # not one of a group that was buried since
        self._died(died)

  def _died(self, died: HostDied) -> None:
    member = died.member
    self._fleet.count_death(died)
    self._work.forget(member)
    role = member.place.role
    if role == "actor":
      self._governor.lost(member.place.index)
      self._say(f"{died}; it is started again, with new games")
      self._starts.begin(member)
    elif role == "replay":
      self._shard_died(died)
    elif role == "learner":
      self._learner_died(died)

  def _shard_died(self, died: HostDied) -> None:
    saved = list_checkpoints(checkpoints_dir(self._run_dir))
    self._starts.replay_dir = saved[-1].path / "replay" if saved else None
    has_saved = bool(self._starts.saved_shards())
    self._say(
      f"{died}; it is started again,"
      f" {f'with what {saved[-1].path} has' if has_saved else 'empty'}; its"
      " actors and the learner wait"
    )
    self._starts.begin(died.member)

  def _learner_died(self, died: HostDied) -> None:
    """The group is one: what is left of it ends, and all begin anew."""
    for member in self._fleet.of("learner"):
      if member.handle is not None:
        self._fleet.kill(member)
    self._work.forget_learners()
    counts, updates = None, 0
    saved = list_checkpoints(checkpoints_dir(self._run_dir))
    if saved:
      try:
        state = restore_learner(saved[-1], self._newest.first_state)
        counts, updates = read_record(saved[-1])["ratio"], saved[-1].num_updates
      except (CheckpointError, KeyError) as error:
        raise CheckpointError(f"{died}; {first_line(error)}") from error
      self._newest.put(state)
    else:
      self._newest.put(self._newest.first_state)
    self._governor.learner_lost(counts)
    self._learner.num_updates = updates
    self.cut_updates = updates
    where = saved[-1].path if saved else "the beginning: nothing was saved yet"
    self._say(
      f"{died}; the learner starts again from {where} (update {updates}), and"
      " the actors wait for it"
    )
    self._starts.begin_learners()


def in_thread(
  conductor: Conductor, stop: Stop, failures: list[BaseException]
) -> threading.Thread:
  """Starts `Conductor.run`; its error ends the run."""

  def body() -> None:
    try:
      conductor.run(stop)
    except BaseException as error:
      failures.append(error)
      stop.ended.set()

  thread = threading.Thread(target=body, name="conductor", daemon=True)
  thread.start()
  return thread
