"""An actor host: lanes, a copy of the network, a writer to one shard."""

import time
from typing import Any, NamedTuple

from r2d2_jax.cluster.roles import Host, interface
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import (
  actor_config,
  actor_seed,
  probe_config,
  topology_of,
)
from r2d2_jax.config import Config
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.replay.checks import ReplayError


class ActorReport(NamedTuple):
  """What an actor host did with a lease."""

  calls: int
  steps: int
  seconds: float
  episodes: list[EpisodeReport]
  leg_seconds: dict[str, float]
  lost_items: int  # that a dead shard did not take, since the host began


class ActorHost(Host):
  """Lanes, the network's copy that acts in them, and a writer to one shard."""

  def start(
    self,
    config: Config,
    cluster: ClusterConfig,
    actor: int,
    *,
    address: str,
    starts: int,
    incarnation: int,
    parameters: tuple[Any, int],
  ) -> None:
    """Makes the lanes; they begin new games.

    Args:
      config: of the run.
      cluster: of the cluster.
      actor: number of this host.
      address: of its shard.
      starts: how often the run was started before.
      incarnation: how often this host has died.
      parameters: to act with, host arrays, and how many updates made them.
    """
    import jax

    from r2d2_jax.cluster.parameters import HeldParameters
    from r2d2_jax.envs.make import make_world
    from r2d2_jax.system.loops.actor import ActorLoop
    from r2d2_jax.system.metrics.probe import Probe

    spec, agent, self._core_state = interface(config)
    self._spec = spec
    self._config = actor_config(config, cluster)
    seed = actor_seed(config.run.seed, starts, actor, incarnation)
    self._parameters = HeldParameters(*parameters)
    self._env_steps = 0
    self._lost_items = 0
    self._replay = self._join(address)
    topology = topology_of(config, cluster)
    self._lanes = topology.lanes(actor)
    # The first host's lanes are of the whole ladder: one probe is enough.
    self._probe = None
    if actor == 0:
      self._probe = Probe(
        probe_config(config, cluster), spec, self._core_state, agent=agent
      )
    self._loop = ActorLoop(
      self._config,
      world=make_world(self._config.env, seed=seed),
      agent=agent,
      parameters=self._parameters,
      insert=self._insert,
      key=jax.random.key(seed),
      count_steps=lambda: self._env_steps,
      probe=self._probe,
      lanes=self._lanes,
      num_lanes=topology.num_lanes,
    )

  def connect(self, address: str) -> None:
    """Another server has taken the place of the shard.

    May be called while `act` waits for the old one: that then goes on.
    """
    old, self._replay = self._replay, self._join(address)
    old.close()

  def act(
    self,
    calls: int,
    *,
    env_steps: int,
    max_seconds: float,
    parameters: tuple[Any, int] | None = None,
  ) -> ActorReport:
    """Steps the lanes.

    Args:
      calls: how often, at most.
      env_steps: of the run so far, stored with the rows.
      max_seconds: after which no further call is begun.
      parameters: newer ones, and how many updates made them.
    """
    if parameters is not None:
      self._parameters.put(*parameters)
    self._env_steps = env_steps
    start = time.monotonic()
    done, steps, episodes = 0, 0, []
    while done < calls and time.monotonic() - start < max_seconds:
      stepped, ended = self._loop.step()
      done += 1
      steps += stepped
      self._env_steps += stepped
      episodes += [e._replace(env_id=int(self._lanes[e.env_id])) for e in ended]
    return ActorReport(
      done,
      steps,
      time.monotonic() - start,
      episodes,
      self._loop.timer.seconds(),
      self._lost_items,
    )

  def measure_dq(self) -> dict[str, float]:
    """As `Probe.measure`, with the parameters that act; of the first host only.

    May be called while `act` is at work.
    """
    assert self._probe is not None
    return self._probe.measure(self._parameters.latest().params)

  def _join(self, address: str):
    from r2d2_jax.replay.make import make_replay

    return make_replay(
      self._config, self._spec, self._core_state, address=address
    )

  def _insert(self, items, priorities) -> None:
    try:
      self._replay.insert(items, priorities)
    except ReplayError:
      # Its server died: these are lost with it. `connect` brings the next one.
      self._lost_items += len(items)
