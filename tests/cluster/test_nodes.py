"""Places of processes, and whether nodes have room for them."""

import pytest

from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import ConfigError

ray = pytest.importorskip("ray", reason="nodes are Ray's")
from r2d2_jax.cluster import nodes  # noqa: E402

pytestmark = pytest.mark.ray


def node(**resources):
  return {"Alive": True, "Resources": resources}


@pytest.fixture
def cluster_of(monkeypatch):
  return lambda *found: monkeypatch.setattr(ray, "nodes", lambda: list(found))


def test_places_in_order():
  found = nodes.places(
    ClusterConfig(actors=2, actor_cpus=4, actor_resource="fast", learner_gpus=1)
  )
  assert [(p.role, p.index) for p in found] == [
    ("replay", 0),
    ("learner", 0),
    ("actor", 0),
    ("actor", 1),
    ("evaluator", 0),
  ]
  assert found[1].resources == {"CPU": 1.0, "GPU": 1.0}
  assert found[2].resources == {"CPU": 4.0, "fast": 1.0}
  assert found[2].environ["NPROC"] == "4"


def test_only_learners_may_use_an_accelerator(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  found = nodes.places(ClusterConfig(actors=1))
  asked = {p.role: p.environ["JAX_PLATFORMS"] for p in found}
  assert asked == {
    "replay": "cpu", "learner": "cuda", "actor": "cpu", "evaluator": "cpu",
  }  # fmt: skip


def test_what_fits_passes(cluster_of):
  cluster_of(node(CPU=3.0, memory=2**30), node(CPU=2.0, memory=2**30))
  nodes.check_room(ClusterConfig(actors=2))
  nodes.check_room(ClusterConfig(actors=2), {"actor": 2.0**28})


@pytest.mark.parametrize(
  "settings, memory, missing",
  [
    ({"actors": 3}, {}, "none for evaluator 0"),
    ({"actors": 1, "learner_cpus": 4}, {}, "none for learner 0 (4 CPU)"),
    ({"actors": 1, "learner_gpus": 1}, {}, "none for learner 0 (1 CPU, 1 GPU)"),
    (
      {"actors": 1, "replay_resource": "big"},
      {},
      "none for replay 0 (1 CPU, 1 big)",
    ),
    ({"actors": 1}, {"replay": 2.0**31}, "replay 0 (1 CPU, 2.0 GiB)"),
  ],
)
def test_what_does_not_fit_is_named(cluster_of, settings, memory, missing):
  cluster_of(node(CPU=3.0, memory=2**30), node(CPU=2.0, memory=2**30))
  with pytest.raises(ConfigError) as error:
    nodes.check_room(ClusterConfig(**settings), memory)
  assert missing in str(error.value)
  assert "on 2 node(s) with 5 CPU" in str(error.value)
  assert "\n" not in str(error.value)


def test_a_dead_node_has_no_room(cluster_of):
  cluster_of(node(CPU=8.0) | {"Alive": False}, node(CPU=2.0))
  with pytest.raises(ConfigError, match=r"on 1 node\(s\) with 2 CPU"):
    nodes.check_room(ClusterConfig(actors=2))
