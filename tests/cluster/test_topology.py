"""Who has which lanes and shards, and which settings are refused."""

import numpy as np
import pytest

from r2d2_jax.cluster.settings import ClusterConfig, check_values
from r2d2_jax.cluster.topology import (
  Topology,
  actor_config,
  actor_seed,
  check_cluster,
  probe_config,
  shard_config,
  topology_of,
  with_lanes,
)
from r2d2_jax.config import ConfigError, validate
from r2d2_jax.presets import smoke

CONFIG = smoke().updated({"replay.backend": "reverb"})


def test_lanes_are_dealt_one_by_one():
  topology = Topology(num_lanes=10, actors=3, shards=1, learners=1)
  assert topology.lanes(0).tolist() == [0, 3, 6, 9]
  assert topology.lanes(1).tolist() == [1, 4, 7]
  assert topology.lanes(2).tolist() == [2, 5, 8]


@pytest.mark.parametrize("actors, shards", [(1, 1), (4, 2), (5, 3)])
def test_each_lane_and_host_has_one_place(actors, shards):
  topology = Topology(5 * actors, actors, shards, 1)
  lanes = np.concatenate([topology.lanes(a) for a in range(actors)])
  assert sorted(lanes) == list(range(5 * actors))
  hosts = [a for s in range(shards) for a in topology.actors_of(s)]
  assert sorted(hosts) == list(range(actors))
  for shard in range(shards):
    for actor in topology.actors_of(shard):
      assert topology.shard_of(actor) == shard


@pytest.mark.parametrize(
  "shards, learners, expected",
  [
    (1, 1, [[0]]),
    (4, 2, [[0, 2], [1, 3]]),
    (1, 2, [[0], [0]]),
    (2, 4, [[0], [1], [0], [1]]),
  ],
)
def test_every_shard_gives_the_same_share(shards, learners, expected):
  topology = Topology(8, 8, shards, learners)
  sampled = [topology.shards_of(p) for p in range(learners)]
  assert sampled == expected
  share = np.zeros(shards)
  for of_host in sampled:
    for shard in of_host:
      share[shard] += 1 / learners / len(of_host)
  np.testing.assert_allclose(share, 1 / shards)


def test_lanes_come_from_the_cluster_or_are_dealt_out():
  own = with_lanes(CONFIG, ClusterConfig(actors=3, lanes_per_actor=7))
  assert own.env.num_envs == 21
  assert with_lanes(CONFIG, ClusterConfig(actors=4)).env.num_envs == 16
  with pytest.raises(ConfigError, match="cluster.actors: expected a divisor"):
    with_lanes(CONFIG, ClusterConfig(actors=3))


def test_hosts_and_shards_have_their_part():
  cluster = ClusterConfig(actors=4, replay_shards=2, actor_cpus=2)
  config = with_lanes(CONFIG.updated({"env.batch_size": 8}), cluster)
  host = actor_config(config, cluster)
  assert (host.env.num_envs, host.env.batch_size) == (4, 2)
  assert host.env.num_threads == 2
  assert probe_config(config, cluster).replay.capacity_sequences == 500
  assert probe_config(config, cluster).env == host.env
  shard = shard_config(config, cluster)
  assert shard.replay.capacity_sequences == 1_000
  assert shard.replay.min_sequences == 50
  validate(host)
  assert topology_of(config, cluster) == Topology(16, 4, 2, 1)


def test_seeds_differ_by_host_and_life_and_are_the_same_again():
  seeds = {
    actor_seed(*x)
    for x in [
      (0, 0, 0, 0),
      (1, 0, 0, 0),
      (0, 1, 0, 0),
      (0, 0, 1, 0),
      (0, 0, 0, 1),
    ]
  }
  assert len(seeds) == 5
  assert all(0 <= seed < 2**31 for seed in seeds)
  assert actor_seed(3, 0, 1, 0) == actor_seed(3, 0, 1, 0)


@pytest.mark.parametrize(
  "name, value",
  [
    ("actors", 0),
    ("actors", True),
    ("actors", 1.5),
    ("learner_hosts", 0),
    ("evaluators", 2),
    ("address", "a\nb"),
    ("actor_cpus", 0),
    ("lease_seconds", float("nan")),
    ("max_restarts", -1),
  ],
)
def test_values_out_of_bounds_are_refused(name, value):
  with pytest.raises(
    ConfigError, match=rf"^cluster\.{name}: expected "
  ) as error:
    check_values(ClusterConfig(**{name: value}))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "name, settings, cluster",
  [
    ("run.lockstep", {"run.lockstep": True}, {}),
    ("replay.backend", {"replay.backend": "local"}, {}),
    ("replay.initial_priority", {"replay.initial_priority": "max"}, {}),
    ("replay.order", {"replay.order": "fifo"}, {}),
    ("cluster.replay_shards", {}, {"actors": 2, "replay_shards": 4}),
    (
      "cluster.replay_shards",
      {"agent.batch_size": 12},
      {"replay_shards": 3, "learner_hosts": 2},
    ),
    ("agent.batch_size", {"agent.batch_size": 15}, {"replay_shards": 2}),
    (
      "replay.capacity_sequences",
      {"replay.capacity_sequences": 101, "replay.min_sequences": 101},
      {"replay_shards": 2},
    ),
    ("env.batch_size", {"env.batch_size": 6}, {}),
  ],
)
def test_settings_that_cannot_work_are_refused(name, settings, cluster):
  with pytest.raises(ConfigError, match=f"^{name}: expected ") as error:
    check_cluster(CONFIG.updated(settings), ClusterConfig(**cluster))
  assert "\n" not in str(error.value)


def test_settings_that_work_pass():
  cluster = ClusterConfig(replay_shards=2, learner_hosts=2)
  check_values(cluster)
  check_cluster(with_lanes(CONFIG, cluster), cluster)
