"""Gives leases to actors and grants to the learner; brings back who died.

One thread calls all processes and takes all reports. Who is dead is started
again in its place: an actor host with new games, a replay shard with what was
saved of it, the learner, all of its processes together, from the last
checkpoint."""

import collections
from collections.abc import Callable
import pathlib
import threading
import time
from typing import Any, NamedTuple

import ray

from r2d2_jax.cluster.actor_host import ActorReport
from r2d2_jax.cluster.facades import (
  FarActors,
  FarLearner,
  FarReplay,
  shard_name,
)
from r2d2_jax.cluster.fleet import Fleet, HostDied, Member
from r2d2_jax.cluster.governor import Governor
from r2d2_jax.cluster.learner_host import LearnerReport
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import Topology, shard_config
from r2d2_jax.config import Config, first_line
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
  read_record,
  restore_learner,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir
from r2d2_jax.types import LearnerState

_POLL_SECONDS = 0.05
_SIZES_SECONDS = 1.0
# A piece of work that takes so many leases' time ends before it is done.
_LONGEST = 4
_DRAIN_SECONDS = 10.0


class _Grant(NamedTuple):
  """A grant on its way, and what the hosts have reported of it."""

  updates: int
  reports: list[LearnerReport]


class Conductor:
  """See the module; `start` in the main thread, then `run` in its own."""

  def __init__(
    self,
    config: Config,
    cluster: ClusterConfig,
    topology: Topology,
    *,
    fleet: Fleet,
    run_dir: pathlib.Path,
    state: LearnerState,
    starts: int,
    replay_dir: pathlib.Path | None,
    say: Callable[[str], None],
  ):
    """See the class.

    Args:
      config: of the run.
      cluster: of the cluster.
      topology: who has what.
      fleet: calls the processes.
      run_dir: of the run.
      state: of the learner, to begin with; host arrays.
      starts: how often the run was started before.
      replay_dir: a saved replay; None begins empty.
      say: takes a line for the user.
    """
    self._config = config
    self._cluster = cluster
    self._topology = topology
    self._fleet = fleet
    self._run_dir = run_dir
    self._starts = starts
    self._replay_dir = replay_dir
    self._say = say
    self._state = state
    self._parameters: Any = None  # reference to the newest
    self._state_ref: Any = None
    self._set_state(state)
    self._addresses: list[str] = [""] * topology.shards
    self._given: dict[int, Any] = {}  # actor -> parameters that it has
    self._warm: set[Member] = set()  # those that have compiled
    self._grants: collections.deque[_Grant] = collections.deque()
    self._ready = [0] * topology.learners
    self._joined = 0
    self._published_at = 0.0
    self._sizes_at = 0.0
    self._fault = ""
    self._least = shard_config(config, cluster).replay.min_sequences
    self.cut_updates: int | None = None
    self.learner: FarLearner
    self.replay: FarReplay
    self.actors: FarActors
    self.governor: Governor
    self.report: RunReport

  def connect(
    self,
    *,
    learner: FarLearner,
    replay: FarReplay,
    actors: FarActors,
    governor: Governor,
    report: RunReport,
  ) -> None:
    """Gives it the run's counts."""
    self.learner, self.replay, self.actors = learner, replay, actors
    self.governor, self.report = governor, report

  def start(self, stop: Stop) -> None:
    """Starts all processes; returns when the shards are there.

    Raises:
      UserError, RunError, KeyboardInterrupt: it cannot be, or shall not.
    """
    for member in self._fleet.members:
      if member.place.role != "evaluator":
        self._begin(member)
    while not all(self._addresses):
      self._look_after()
      stop.check()

  def run(self, stop: Stop) -> None:
    """Goes on until the end or a stop, and a little, for what is on its way."""
    while not stop.ended.is_set():
      self._give_leases()
      self._give_grants()
      self._ask_sizes()
      self._look_after()
    deadline = time.monotonic() + _DRAIN_SECONDS
    while self._fleet.num_calls and time.monotonic() < deadline:
      for died in self._fleet.poll(_POLL_SECONDS):
        self._say(f"warning: {died}; the run is ending")

  # Starting.

  def _begin(self, member: Member) -> None:
    self._fleet.create(member)
    self._fleet.greet(member, lambda greeting: self._greeted(member))

  def _greeted(self, member: Member) -> None:
    role = member.place.role
    if role == "replay":
      self._start_shard(member)
    elif role == "learner":
      self._joined += 1
      if self._joined == self._topology.learners:
        self._start_learners()
    elif role == "actor":
      self._start_actor(member)

  def _start_shard(self, member: Member, *, empty: bool = False) -> None:
    shard = member.place.index
    saved = self._replay_dir and self._replay_dir / shard_name(shard)
    if empty or (saved and not saved.exists()):
      saved = None
    assert member.greeting is not None

    def done(started: tuple[str, int] | str) -> None:
      if isinstance(started, str):
        self._say(f"replay shard {shard} is filled anew: {started}")
        self._start_shard(member, empty=True)
        return
      self._addresses[shard], self.replay.sizes[shard] = started
      member.is_ready = True
      self._shard_is_there(shard, started[1])

    self._fleet.call(
      member,
      "start",
      done,
      self._cluster.start_seconds,
      self._config,
      self._cluster,
      member.greeting.host,
      str(saved.absolute()) if saved else None,
      str((self._run_dir / f".replay-{shard}").absolute()),
    )

  def _shard_is_there(self, shard: int, size: int) -> None:
    """Tells those that had its predecessor, and those that waited for one."""
    address = self._addresses[shard]
    for member in self._fleet.of("actor"):
      if self._topology.shard_of(member.place.index) == shard:
        if member.is_ready:
          self._connect(member, address)
        elif member.greeting and not self._fleet.is_called(member, "start"):
          self._start_actor(member)
    learners = self._fleet.of("learner")
    if all(m.is_ready for m in learners):
      for member in learners:
        self._connect(member, shard, address)
    elif self._joined == self._topology.learners and not any(
      self._fleet.is_called(m, what)
      for m in learners
      for what in ("free_port", "join", "start")
    ):
      self._start_learners()
    if self.was_started and size < self._least:
      self._say(
        f"replay shard {shard} holds {size} items: the learner waits until"
        f" there are {self._least}"
      )

  was_started = False

  def _connect(self, member: Member, *place: int | str) -> None:
    """Tells an actor host its shard's address, or a learner which shard's."""
    self._fleet.call(
      member,
      "connect",
      lambda answer: None,
      self._cluster.patience_seconds,
      *place,
    )

  def _start_actor(self, member: Member) -> None:
    actor = member.place.index
    address = self._addresses[self._topology.shard_of(actor)]
    if not address:  # it will be told
      return

    def done(answer: None) -> None:
      member.is_ready = True
      latest = self._addresses[self._topology.shard_of(actor)]
      if latest != address:
        self._connect(member, latest)

    self._given[actor] = self._parameters
    self._fleet.call(
      member,
      "start",
      done,
      self._cluster.start_seconds,
      self._config,
      self._cluster,
      actor,
      address=address,
      starts=self._starts,
      incarnation=member.incarnation,
      parameters=self._parameters,
    )

  def _start_learners(self) -> None:
    """All of them have greeted."""
    if not all(self._addresses):
      return
    members = self._fleet.of("learner")
    if len(members) == 1:
      self._start_learner(members[0])
      return
    waiting = set(members)
    seconds = self._cluster.start_seconds

    def joined(member: Member) -> None:
      waiting.discard(member)
      if not waiting:
        for each in members:
          self._start_learner(each)

    def meet(port: int) -> None:
      greeting = members[0].greeting
      assert greeting is not None
      for i, member in enumerate(members):
        self._fleet.call(
          member,
          "join",
          lambda answer, member=member: joined(member),
          seconds,
          f"{greeting.host}:{port}",
          len(members),
          i,
          self._cluster.patience_seconds,
        )

    self._fleet.call(members[0], "free_port", meet, seconds)

  def _start_learner(self, member: Member) -> None:
    def done(devices: str) -> None:
      member.is_ready = True
      self._say(f"{member.words}: {devices}")

    self._fleet.call(
      member,
      "start",
      done,
      self._cluster.start_seconds,
      self._config,
      self._cluster,
      member.place.index,
      addresses=self._addresses,
      state=self._state_ref,
    )

  # Work.

  def _give_leases(self) -> None:
    for member in self._fleet.of("actor"):
      actor = member.place.index
      shard = self._fleet.of("replay")[self._topology.shard_of(actor)]
      if (
        not self.governor.is_filled
        and self.replay.sizes[shard.place.index] >= 2 * self._least
      ):
        continue  # another shard is still to be filled
      # Who would wait for a dead shard is left alone.
      while (
        member.is_ready
        and shard.is_ready
        and (lease := self.governor.lease(actor))
      ):
        new = self._given.get(actor) is not self._parameters
        self._given[actor] = self._parameters

        def done(report: ActorReport, lease=lease, member=member) -> None:
          self._warm.add(member)
          self.governor.report(
            lease,
            calls=report.calls,
            steps=report.steps,
            seconds=report.seconds,
          )
          self.actors.timer.put(lease.actor, report.leg_seconds)
          for episode in report.episodes:
            self.report.count_episode(episode)

        self._fleet.call(
          member,
          "act",
          done,
          self._patience(member),
          lease.calls,
          env_steps=self.governor.env_steps,
          max_seconds=_LONGEST * self._cluster.lease_seconds,
          parameters=self._parameters if new else None,
        )

  def _give_grants(self) -> None:
    members = self._fleet.of("learner")
    if not all(m.is_ready for m in members):
      return
    if len(members) == 1:
      while updates := self.governor.grant():
        self._train(updates)
      return
    # All processes of a group make the same updates: no more than each has
    # batches for.
    while True:
      out = sum(grant.updates for grant in self._grants)
      at_hand = min(self._ready) - out
      updates = self.governor.grant(at_hand) if at_hand > 0 else 0
      if not updates:
        break
      self._train(updates)
    if not self._grants and self.governor.is_filled and min(self._ready) <= 0:
      self._train(0)  # asks how many there are

  def _train(self, updates: int) -> None:
    grant = _Grant(updates, [])
    self._grants.append(grant)
    now = time.monotonic()
    publish = (
      updates > 0 and now - self._published_at >= self._cluster.publish_seconds
    )
    if publish:
      self._published_at = now
    for member in self._fleet.of("learner"):
      index = member.place.index
      is_first = index == 0

      def done(
        report: LearnerReport,
        parameters: Any,
        member=member,
        index=index,
        is_published=publish and is_first,
      ) -> None:
        self._warm.add(member)
        self._ready[index] = report.num_ready
        self.learner.timer.put(index, report.leg_seconds)
        if is_published and report.updates:
          self._parameters = parameters
        grant.reports.append(report)
        if len(grant.reports) == self._topology.learners:
          self._trained(grant)

      self._fleet.call(
        member,
        "train",
        done,
        self._patience(member),
        updates,
        env_steps=self.governor.env_steps,
        max_seconds=_LONGEST * self._cluster.lease_seconds,
        publish=publish and is_first,
      )

  def _trained(self, grant: _Grant) -> None:
    self._grants.remove(grant)
    reports = grant.reports
    if grant.updates:
      self.governor.trained(
        updates=reports[0].updates,
        rows=sum(r.rows for r in reports),
        seconds=max(r.seconds for r in reports),
      )
    self.learner.num_updates = reports[0].num_updates
    fault = next((r.fault for r in reports if r.fault), "")
    if fault and fault != self._fault:
      self._say(f"the learner waits for the replay: {fault}")
    self._fault = fault

  def _ask_sizes(self) -> None:
    now = time.monotonic()
    if now - self._sizes_at >= _SIZES_SECONDS:
      self._sizes_at = now
      for member in self._fleet.of("replay"):
        if member.is_ready and not self._fleet.is_called(member, "size"):
          self._fleet.call(
            member,
            "size",
            lambda size, shard=member.place.index: self._sized(shard, size),
            self._cluster.patience_seconds,
          )
    shards = self._fleet.of("replay")
    if all(member.is_ready for member in shards):
      # Once filled, a shard only loses items when it begins anew.
      self.governor.set_filled(min(self.replay.sizes) >= self._least)

  def _sized(self, shard: int, size: int) -> None:
    self.replay.sizes[shard] = size

  def _patience(self, member: Member) -> float:
    """The first call compiles."""
    if member in self._warm:
      return self._cluster.patience_seconds
    return self._cluster.start_seconds

  # Deaths.

  def _look_after(self) -> None:
    try:
      deaths = self._fleet.poll(_POLL_SECONDS)
    except ReplayError as error:
      deaths = self._refused(error)
    for died in deaths:
      if died.member.handle is None:  # not one of a group that was buried since
        self._died(died)

  def _refused(self, error: ReplayError) -> list[HostDied]:
    """A shard that cannot go on from what was saved begins empty."""
    for member in self._fleet.of("replay"):
      if member.handle is not None and not member.is_ready:
        if not self._fleet.is_called(member, "greet") and not (
          self._fleet.is_called(member, "start")
        ):
          self._say(
            f"replay shard {member.place.index} is filled anew:"
            f" {first_line(error)}"
          )
          self._start_shard(member, empty=True)
          return []
    raise error

  def _died(self, died: HostDied) -> None:
    member = died.member
    self._fleet.count_death(died)
    self._warm.discard(member)
    role = member.place.role
    if role == "actor":
      self.governor.lost(member.place.index)
      self._say(f"{died}; it is started again, with new games")
      self._begin(member)
    elif role == "replay":
      shard = member.place.index
      saved = list_checkpoints(checkpoints_dir(self._run_dir))
      self._replay_dir = saved[-1].path / "replay" if saved else None
      has_saved = (
        self._replay_dir and (self._replay_dir / shard_name(shard)).exists()
      )
      self._addresses[shard] = ""
      self._say(
        f"{died}; it is started again,"
        f" {f'with what {saved[-1].path} has' if has_saved else 'empty'}; its"
        " actors and the learner wait"
      )
      self._begin(member)
    elif role == "learner":
      self._learner_died(died)

  def _learner_died(self, died: HostDied) -> None:
    """The group is one: what is left of it ends, and all begin anew."""
    for member in self._fleet.of("learner"):
      if member.handle is not None:
        self._fleet.kill(member)
      self._warm.discard(member)
    self._grants.clear()
    self._joined = 0
    self._ready = [0] * self._topology.learners
    counts, updates = None, 0
    saved = list_checkpoints(checkpoints_dir(self._run_dir))
    if saved:
      try:
        state = restore_learner(saved[-1], self._state)
        counts, updates = read_record(saved[-1])["ratio"], saved[-1].num_updates
      except (CheckpointError, KeyError) as error:
        raise CheckpointError(f"{died}; {first_line(error)}") from error
      self._set_state(state)
    else:
      self._set_state(self._first_state)
    self.governor.learner_lost(counts)
    self.learner.num_updates = updates
    self.cut_updates = updates
    where = saved[-1].path if saved else "the beginning: nothing was saved yet"
    self._say(
      f"{died}; the learner starts again from {where} (update {updates}), and"
      " the actors wait for it"
    )
    for member in self._fleet.of("learner"):
      self._begin(member)

  def _set_state(self, state: LearnerState) -> None:
    import jax

    state = jax.device_get(state)
    if not hasattr(self, "_first_state"):
      self._first_state = state
    self._state = state
    self._state_ref = ray.put(state)
    self._parameters = ray.put((state.params, int(state.num_updates)))


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
