"""Which processes a run on many machines has, and what each of them holds.

N lanes are dealt to A actor hosts one by one, host a getting a, a + A, a + 2A,
...: so every host has lanes from the whole ladder of exploration, and a shard
of the replay, which takes the items of every S-th host, sees all of it."""

import dataclasses
from typing import NamedTuple

import numpy as np

from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import Config, ConfigError


class Topology(NamedTuple):
  """The processes of a run; pure arithmetic."""

  num_lanes: int  # N, of all actor hosts together
  actors: int  # A
  shards: int  # S
  learners: int  # H

  def lanes(self, actor: int) -> np.ndarray:
    """The lanes of an actor host, by their numbers in the whole run: int32."""
    return np.arange(actor, self.num_lanes, self.actors, dtype=np.int32)

  def shard_of(self, actor: int) -> int:
    """The replay shard that takes this host's items."""
    return actor % self.shards

  def shards_of(self, learner: int) -> list[int]:
    """The replay shards that this learner host samples, in order.

    Every shard gives the same share of the global batch, 1 / S, whatever S and
    H: with more shards than hosts a host has S / H of them, with fewer H / S
    hosts share one."""
    if self.shards >= self.learners:
      return list(range(learner, self.shards, self.learners))
    return [learner % self.shards]

  def actors_of(self, shard: int) -> list[int]:
    """The actor hosts that write into this shard."""
    return list(range(shard, self.actors, self.shards))


def topology_of(config: Config, cluster: ClusterConfig) -> Topology:
  """The processes that the settings ask for; both were checked."""
  return Topology(
    config.env.num_envs,
    cluster.actors,
    cluster.replay_shards,
    cluster.learner_hosts,
  )


def with_lanes(config: Config, cluster: ClusterConfig) -> Config:
  """The run's settings with `env.num_envs` as the cluster's make it.

  Raises:
    ConfigError: env.num_envs lanes cannot be dealt evenly.
  """
  if cluster.lanes_per_actor:
    return config.updated(
      {"env.num_envs": cluster.actors * cluster.lanes_per_actor}
    )
  if config.env.num_envs % cluster.actors:
    raise ConfigError(
      f"cluster.actors: expected a divisor of env.num_envs"
      f" ({config.env.num_envs}), got {cluster.actors}; or say with"
      " cluster.lanes_per_actor how many lanes each has"
    )
  return config


def actor_config(config: Config, cluster: ClusterConfig) -> Config:
  """The settings of one actor host: its own lanes, threads and batch."""
  actors = cluster.actors
  return config.updated(
    {
      "env.num_envs": config.env.num_envs // actors,
      "env.batch_size": config.env.batch_size // actors,
      "env.num_threads": min(
        config.env.num_threads or max(1, int(cluster.actor_cpus)),
        config.env.num_envs // actors,
      ),
    }
  )


def probe_config(config: Config, cluster: ClusterConfig) -> Config:
  """The settings of the probe of one actor host: its share of the capacity.

  So the probe keeps its items as long as the replay keeps those of this host.
  """
  capacity = config.replay.capacity_sequences // cluster.actors
  return actor_config(config, cluster).updated(
    {"replay.capacity_sequences": capacity}
  )


def shard_config(config: Config, cluster: ClusterConfig) -> Config:
  """The settings of one replay shard: its part of the capacity."""
  shards = cluster.replay_shards
  return config.updated(
    {
      "replay.capacity_sequences": config.replay.capacity_sequences // shards,
      "replay.min_sequences": -(-config.replay.min_sequences // shards),
      # Several shards may come to lie on one node.
      "replay.port": 0,
    }
  )


def actor_seed(seed: int, starts: int, actor: int, incarnation: int) -> int:
  """The seed of an actor host's worlds and exploration.

  Another one for every host and for every life of it, so that no two lanes and
  no two lives play the same games; the same settings give the same seeds.

  Args:
    seed: of the run.
    starts: how often the run was started before.
    actor: number of the host.
    incarnation: how often this host died in this start.
  """
  entropy = (seed, starts, actor, incarnation)
  return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def check_cluster(config: Config, cluster: ClusterConfig) -> None:
  """Refuses settings of a cluster that cannot work.

  Args:
    config: of the run, validated, from `with_lanes`.
    cluster: of the cluster; its single values were checked.

  Raises:
    ConfigError: one line for each setting at fault.
  """
  faults = []

  def need(ok: bool, name: str, expected: str, got: object, hint: str) -> None:
    if not ok:
      faults.append(f"{name}: expected {expected}, got {got!r}; {hint}")

  batch, shards = config.agent.batch_size, cluster.replay_shards
  hosts = cluster.learner_hosts
  need(
    not config.run.lockstep,
    "run.lockstep",
    "false on a cluster",
    True,
    "processes side by side cannot be repeated; train in one process",
  )
  need(
    config.replay.backend == "reverb",
    "replay.backend",
    "'reverb' on a cluster",
    config.replay.backend,
    "the local replay is of one process",
  )
  need(
    config.replay.initial_priority == "actor",
    "replay.initial_priority",
    "'actor' on a cluster",
    config.replay.initial_priority,
    "an actor host does not know the largest priority of the learner",
  )
  need(
    config.replay.order == "priority",
    "replay.order",
    "'priority' on a cluster",
    config.replay.order,
    "a queue's actors wait for its learner in one process; train there",
  )
  need(
    cluster.actors >= shards,
    "cluster.replay_shards",
    f"at most cluster.actors ({cluster.actors})",
    shards,
    "a shard holds the items of its own actor hosts",
  )
  need(
    shards % hosts == 0 or hosts % shards == 0,
    "cluster.replay_shards",
    f"a multiple or a divisor of cluster.learner_hosts ({hosts})",
    shards,
    "every shard gives the same share of a batch",
  )
  parts = max(shards, hosts)
  need(
    batch % parts == 0,
    "agent.batch_size",
    f"a multiple of {parts}, the larger of cluster.replay_shards and"
    " cluster.learner_hosts",
    batch,
    "every host and every shard gives as many items",
  )
  need(
    config.replay.capacity_sequences // shards
    >= max(-(-config.replay.min_sequences // shards), batch // parts),
    "replay.capacity_sequences",
    f"room in each of {shards} shards for its part of replay.min_sequences",
    config.replay.capacity_sequences,
    "raise it",
  )
  need(
    config.env.batch_size % cluster.actors == 0,
    "env.batch_size",
    f"0, or a multiple of cluster.actors ({cluster.actors})",
    config.env.batch_size,
    "each host steps its part of it",
  )
  if faults:
    raise ConfigError("\n".join(faults))


def settings_of(cluster: ClusterConfig) -> dict[str, object]:
  """The cluster's settings as a plain dict, for JSON."""
  return dataclasses.asdict(cluster)
