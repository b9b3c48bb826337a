"""Starts the processes of a run and tells them of each other.

A process is made and greeted; then it gets its task, once those that it needs
are there: actor hosts their shard, learner hosts all shards and one another.
Who comes back in the place of a dead one is made known to the others."""

from collections.abc import Callable
import pathlib

from r2d2_jax.cluster.facades import FarReplay, shard_name
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.members import Member
from r2d2_jax.cluster.parameters import Newest
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import shard_config, topology_of
from r2d2_jax.config import Config, first_line
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.meta import META_FILE

_RESTORE_BYTES_PER_SECOND = 1e6  # a hundredth of what is usual


class Starts:
  """See the module; for the thread that polls the fleet."""

  def __init__(
    self,
    config: Config,
    cluster: ClusterConfig,
    *,
    fleet: Fleet,
    newest: Newest,
    replay: FarReplay,
    run_dir: pathlib.Path,
    starts: int,
    replay_dir: pathlib.Path | None,
    say: Callable[[str], None],
  ):
    """See the class.

    Args:
      config: of the run.
      cluster: of the cluster.
      fleet: calls the processes.
      newest: what learner and actor hosts begin with.
      replay: is told how many items a shard begins with.
      run_dir: of the run.
      starts: how often the run was started before.
      replay_dir: a saved replay; None begins empty.
      say: takes a line for the user.
    """
    self._config = config
    self._cluster = cluster
    self._topology = topology_of(config, cluster)
    self._fleet = fleet
    self._newest = newest
    self._replay = replay
    self._run_dir = run_dir
    self._starts = starts
    self._say = say
    self._addresses = [""] * self._topology.shards
    self._greeted_learners = 0
    self._least = shard_config(config, cluster).replay.min_sequences
    self.replay_dir = replay_dir
    self.is_training = False  # whether a short shard makes the learner wait

  @property
  def are_shards_there(self) -> bool:
    """Whether each shard has an address."""
    return all(self._addresses)

  def begin(self, member: Member) -> None:
    """Makes a process; all else follows from its greeting."""
    if member.place.role == "replay":
      self._addresses[member.place.index] = ""
    self._fleet.create(member)
    self._fleet.greet(member, lambda greeting: self._greeted(member))

  def begin_learners(self) -> None:
    """The same for all learner hosts, which meet before they start."""
    self._greeted_learners = 0
    for member in self._fleet.of("learner"):
      self.begin(member)

  def begin_empty(self, error: ReplayError) -> bool:
    """Starts the shard that cannot go on from what was saved; if there is one.

    Returns:
      Whether there is: else the error is another's.
    """
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
          return True
    return False

  def _greeted(self, member: Member) -> None:
    role = member.place.role
    if role == "replay":
      self._start_shard(member)
    elif role == "learner":
      self._greeted_learners += 1
      self._start_learners()
    elif role == "actor":
      self._start_actor(member)

  # Shards.

  def _start_shard(self, member: Member, *, empty: bool = False) -> None:
    shard = member.place.index
    saved = [] if empty else self.saved_shards()
    assert member.greeting is not None

    def done(started: tuple[str, int]) -> None:
      self._addresses[shard], self._replay.sizes[shard] = started
      member.is_ready = True
      self._shard_is_there(shard, started[1])

    self._fleet.call(
      member,
      "start",
      done,
      self._cluster.start_seconds + _restore_seconds(saved),
      self._config,
      self._cluster,
      member.greeting.host,
      shard,
      [str(path.absolute()) for path in saved],
      str((self._run_dir / f".replay-{shard}").absolute()),
    )

  def saved_shards(self) -> list[pathlib.Path]:
    """Their directories, in order; [] where nothing was saved.

    A run in one process has saved one, in the directory itself.
    """
    if self.replay_dir is None:
      return []
    if (self.replay_dir / META_FILE).exists():
      return [self.replay_dir]
    count = sum(1 for _ in self.replay_dir.glob(shard_name("*")))
    return [self.replay_dir / shard_name(i) for i in range(count)]

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
    elif not any(
      self._fleet.is_called(m, what)
      for m in learners
      for what in ("free_port", "join", "start")
    ):
      self._start_learners()
    if self.is_training and size < self._least:
      self._say(
        f"replay shard {shard} holds {size} items: the learner waits until"
        f" there are {self._least}"
      )

  def _connect(self, member: Member, *place: int | str) -> None:
    """Tells an actor host its shard's address, or a learner which shard's."""
    self._fleet.call(
      member,
      "connect",
      lambda answer: None,
      self._cluster.patience_seconds,
      *place,
    )

  # Actor hosts.

  def _start_actor(self, member: Member) -> None:
    actor = member.place.index
    shard = self._topology.shard_of(actor)
    address = self._addresses[shard]
    if not address:  # it will be told
      return

    def done(answer: None) -> None:
      member.is_ready = True
      latest = self._addresses[shard]
      if latest != address:
        self._connect(member, latest)

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
      parameters=self._newest.first_for(actor),
    )

  # Learner hosts.

  def _start_learners(self) -> None:
    """If all of them have greeted, and the shards are there."""
    members = self._fleet.of("learner")
    if self._greeted_learners < len(members) or not self.are_shards_there:
      return
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
      state=self._newest.state,
    )


def _restore_seconds(saved: list[pathlib.Path]) -> float:
  """What reading them may take."""
  return sum(
    path.stat().st_size / _RESTORE_BYTES_PER_SECOND
    for directory in saved
    for path in directory.rglob("*")
  )
