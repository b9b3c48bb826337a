"""Runs on several Ray nodes, which are all on this machine."""

import functools

import pytest

ray = pytest.importorskip("ray", reason="nodes are Ray's")
pytest.importorskip("reverb", reason="and a Reverb server")
from ray.cluster_utils import Cluster  # noqa: E402

from r2d2_jax.cluster.run import train_on_cluster  # noqa: E402
from r2d2_jax.cluster.settings import ClusterConfig  # noqa: E402
from r2d2_jax.config import ConfigError  # noqa: E402
from r2d2_jax.presets import smoke  # noqa: E402
from r2d2_jax.system.metrics.columns import COLUMNS  # noqa: E402
from r2d2_jax.system.storage.checkpoints import (  # noqa: E402
  list_checkpoints,
  read_record,
)
from r2d2_jax.system.storage.rundir import checkpoints_dir  # noqa: E402

pytestmark = [
  pytest.mark.ray,
  pytest.mark.reverb,
  pytest.mark.slow,
  pytest.mark.timeout(1200),
]

CONFIG = smoke().updated(
  {
    "replay.backend": "reverb",
    "evaluation.num_episodes": 0,
    "log.period_seconds": 0.5,
    "log.tensorboard": False,
    "run.total_steps": 30_000,
  }
)
# One of each role fits on each node.
ROLES = {"actor": 1, "replay": 1, "learner": 1}
SETTINGS = functools.partial(
  ClusterConfig,
  actors=2,
  evaluators=0,
  actor_resource="actor",
  replay_resource="replay",
  learner_resource="learner",
)


def add_node(cluster, number):
  return cluster.add_node(
    num_cpus=3,
    resources=ROLES,
    node_ip_address=f"127.0.0.{number}",
    object_store_memory=200_000_000,
  )


@pytest.fixture
def cluster(monkeypatch):
  """Two nodes, 127.0.0.2 and .3, which RAY_ADDRESS names."""
  nodes = Cluster()
  add_node(nodes, 2)
  add_node(nodes, 3)
  monkeypatch.setenv("RAY_ADDRESS", nodes.address)
  monkeypatch.setenv("R2D2_JAX_NODE_IP", "127.0.0.2")
  yield nodes
  nodes.shutdown()


def processes(run_dir):
  """(role and number, deaths so far, node), in the order of their starts."""
  lines = (run_dir / "logs" / "processes.csv").read_text().splitlines()
  parts = [line.split(",") for line in lines]
  return [(f"{p[1]} {p[2]}", int(p[3]), p[4].split()[-1]) for p in parts]


@pytest.mark.parametrize("shards, learners", [(1, 1), (2, 1), (2, 2)])
def test_roles_on_different_nodes(cluster, tmp_path, shards, learners):
  del cluster
  rows = []
  result = train_on_cluster(
    # Every lane explores alike, so every lane's return counts as one's that
    # exploits.
    CONFIG.updated({"agent.exploration": "linear"}),
    SETTINGS(replay_shards=shards, learner_hosts=learners),
    run_dir=tmp_path,
    on_row=rows.append,
  )
  assert 30_000 <= result.steps < 30_016
  assert result.state.num_updates > 0
  assert result.replay_ratio == pytest.approx(1.0, abs=0.05)
  assert set(rows[-1]) == set(COLUMNS)
  saved = list_checkpoints(checkpoints_dir(tmp_path))[-1]
  report = read_record(saved)["report"]
  assert report["returns"][-30:] == report["exploit_returns"]
  started = processes(tmp_path)
  assert {deaths for _, deaths, _ in started} == {0}
  where = {name: node for name, _, node in started}
  assert {where["actor 0"], where["actor 1"]} == {"127.0.0.2", "127.0.0.3"}
  for role, count in (("replay", shards), ("learner", learners)):
    nodes = {where[f"{role} {i}"] for i in range(count)}
    assert len(nodes) == count


def test_a_node_is_killed_and_another_takes_its_place(cluster, tmp_path):
  """Nothing goes on there: an actor host, a shard and half of the learner."""
  (second,) = [
    node
    for node in cluster.list_all_nodes()
    if node.node_ip_address == "127.0.0.3"
  ]
  killed_at = []

  def kill(row):
    if row["updates"] > 20 and not killed_at:
      killed_at.append(row["steps"])
      cluster.remove_node(second, allow_graceful=False)
      add_node(cluster, 4)

  result = train_on_cluster(
    CONFIG,
    SETTINGS(replay_shards=2, learner_hosts=2),
    run_dir=tmp_path,
    on_row=kill,
  )
  assert killed_at
  assert 30_000 <= result.steps < 30_016
  started = processes(tmp_path)
  again = {name: node for name, deaths, node in started if deaths}
  # Both learner hosts are new, one of them where the old one was.
  assert sorted(again) == sorted(
    {"learner 0", "learner 1"}
    | {n for n, deaths, node in started if node == "127.0.0.3" and not deaths}
  )
  assert "127.0.0.3" not in again.values()
  assert "127.0.0.4" in again.values()


def test_no_room_is_one_message(cluster, tmp_path):
  del cluster
  with pytest.raises(ConfigError, match="there is none for actor 2") as error:
    train_on_cluster(
      CONFIG.updated({"env.num_envs": 15}),
      SETTINGS(actors=3),
      run_dir=tmp_path,
    )
  assert "on 2 node(s)" in str(error.value)
