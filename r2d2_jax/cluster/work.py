"""Hands out work: leases to actor hosts, grants to the learner, parameters.

What is handed out comes back as a report, which the governor counts
(`governor.py` says how much each may do)."""

import collections
from collections.abc import Callable
import time
from typing import Any, NamedTuple

from r2d2_jax.cluster.actor_host import ActorReport
from r2d2_jax.cluster.facades import FarActors, FarLearner, FarReplay
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.governor import Governor
from r2d2_jax.cluster.learner_host import LearnerReport
from r2d2_jax.cluster.members import Member
from r2d2_jax.cluster.parameters import Newest
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import shard_config, topology_of
from r2d2_jax.config import Config
from r2d2_jax.system.metrics.report import RunReport

_SIZES_SECONDS = 1.0
# The same while shards are filled, which then are to stop being filled.
_FILLING_SECONDS = 0.1
# A piece of work that takes so many leases' time ends before it is done.
_LONGEST = 4


class _Grant(NamedTuple):
  """A grant on its way, and what the hosts have reported of it."""

  updates: int
  reports: list[LearnerReport]


class Work:
  """See the module; for the thread that polls the fleet."""

  def __init__(
    self,
    config: Config,
    cluster: ClusterConfig,
    *,
    fleet: Fleet,
    newest: Newest,
    governor: Governor,
    learner: FarLearner,
    replay: FarReplay,
    actors: FarActors,
    report: RunReport,
    say: Callable[[str], None],
  ):
    """See the class.

    Args:
      config: of the run.
      cluster: of the cluster.
      fleet: calls the processes.
      newest: takes and gives parameters.
      governor: says how much each may do.
      learner: is told what the learner hosts report.
      replay: the same of shards.
      actors: the same of actor hosts.
      report: takes the episodes.
      say: takes a line for the user.
    """
    self._cluster = cluster
    self._topology = topology_of(config, cluster)
    self._fleet = fleet
    self._newest = newest
    self._governor = governor
    self._learner = learner
    self._replay = replay
    self._actors = actors
    self._report = report
    self._say = say
    self._least = shard_config(config, cluster).replay.min_sequences
    self._warm: set[Member] = set()  # those that have compiled
    self._grants: collections.deque[_Grant] = collections.deque()
    self._ready = [0] * self._topology.learners  # batches that wait there
    self._published_at = 0.0
    self._sizes_at = 0.0
    self._fault = ""

  def hand_out(self) -> None:
    """All that there is to do now."""
    self._give_leases()
    self._give_grants()
    self._ask_sizes()

  def forget(self, member: Member) -> None:
    """It is dead; the next one in its place has to compile."""
    self._warm.discard(member)

  def forget_learners(self) -> None:
    """All learner hosts are, and their grants with them."""
    for member in self._fleet.of("learner"):
      self._warm.discard(member)
    self._grants.clear()
    self._ready = [0] * self._topology.learners

  def _patience(self, member: Member) -> float:
    """The first call compiles."""
    if member in self._warm:
      return self._cluster.patience_seconds
    return self._cluster.start_seconds

  # Actor hosts.

  def _give_leases(self) -> None:
    for member in self._fleet.of("actor"):
      actor = member.place.index
      shard = self._fleet.of("replay")[self._topology.shard_of(actor)]
      if (
        not self._governor.is_filled
        and self._replay.sizes[shard.place.index] >= 2 * self._least
      ):
        continue  # another shard is still to be filled
      # Who would wait for a dead shard is left alone.
      while (
        member.is_ready
        and shard.is_ready
        and (lease := self._governor.lease(actor))
      ):

        def done(report: ActorReport, lease=lease, member=member) -> None:
          self._warm.add(member)
          self._governor.report(
            lease,
            calls=report.calls,
            steps=report.steps,
            seconds=report.seconds,
          )
          self._actors.timer.put(lease.actor, report.leg_seconds)
          for episode in report.episodes:
            self._report.count_episode(episode)

        self._fleet.call(
          member,
          "act",
          done,
          self._patience(member),
          lease.calls,
          env_steps=self._governor.env_steps,
          max_seconds=_LONGEST * self._cluster.lease_seconds,
          parameters=self._newest.news_for(actor),
        )

  # Learner hosts.

  def _give_grants(self) -> None:
    members = self._fleet.of("learner")
    if not all(m.is_ready for m in members):
      return
    if len(members) == 1:
      while updates := self._governor.grant():
        self._train(updates)
      return
    # All processes of a group make the same updates: no more than each has
    # batches for.
    while True:
      out = sum(grant.updates for grant in self._grants)
      at_hand = min(self._ready) - out
      updates = self._governor.grant(at_hand) if at_hand > 0 else 0
      if not updates:
        break
      self._train(updates)
    if not self._grants and self._governor.is_filled and min(self._ready) <= 0:
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
        self._learner.timer.put(index, report.leg_seconds)
        if is_published and report.updates:
          self._newest.parameters = parameters
        grant.reports.append(report)
        if len(grant.reports) == self._topology.learners:
          self._trained(grant)

      self._fleet.call(
        member,
        "train",
        done,
        self._patience(member),
        updates,
        env_steps=self._governor.env_steps,
        max_seconds=_LONGEST * self._cluster.lease_seconds,
        publish=publish and is_first,
      )

  def _trained(self, grant: _Grant) -> None:
    self._grants.remove(grant)
    reports = grant.reports
    if grant.updates:
      self._governor.trained(
        updates=reports[0].updates,
        rows=sum(r.rows for r in reports),
        seconds=max(r.seconds for r in reports),
      )
    self._learner.num_updates = reports[0].num_updates
    fault = next((r.fault for r in reports if r.fault), "")
    if fault and fault != self._fault:
      self._say(f"the learner waits for the replay: {fault}")
    self._fault = fault

  # Shards.

  def _ask_sizes(self) -> None:
    now = time.monotonic()
    shards = self._fleet.of("replay")
    period = _SIZES_SECONDS if self._governor.is_filled else _FILLING_SECONDS
    if now - self._sizes_at >= period:
      self._sizes_at = now
      for member in shards:
        if member.is_ready and not self._fleet.is_called(member, "size"):
          self._fleet.call(
            member,
            "size",
            lambda size, shard=member.place.index: self._sized(shard, size),
            self._cluster.patience_seconds,
          )
    if all(member.is_ready for member in shards):
      # Once filled, a shard only loses items when it begins anew.
      self._governor.set_filled(min(self._replay.sizes) >= self._least)

  def _sized(self, shard: int, size: int) -> None:
    self._replay.sizes[shard] = size
