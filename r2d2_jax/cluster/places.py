"""What each process takes of a node, and what it finds in its environment."""

from collections.abc import Mapping
import os
from typing import NamedTuple

from r2d2_jax.cluster.settings import ClusterConfig

# Passed on to all processes; Ray's own do not inherit the command's environment
# where the cluster was there before.
_PASSED_ON = (
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  "JAX_DEFAULT_PRNG_IMPL",
  "PYTHONPATH",
)
# No key: whoever sees the cluster's state sees these.
_OF_WANDB = ("WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_MODE")
_GPU_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


class Place(NamedTuple):
  """What a process of one role takes, and what it finds around it."""

  role: str  # "replay", "learner", "actor", "evaluator"
  index: int
  resources: dict[str, float]
  environ: dict[str, str]


def places(cluster: ClusterConfig) -> list[Place]:
  """All processes of a run, in the order in which they are placed."""
  c = cluster

  def needs(cpus: float, resource: str = "", gpus: int = 0) -> dict[str, float]:
    wanted = {"CPU": float(cpus), "GPU": float(gpus)}
    if resource:
      wanted[resource] = 1.0
    return {name: x for name, x in wanted.items() if x}

  passed = _passed_on(_PASSED_ON)
  on_cpu = passed | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
  threads = {"NPROC": str(max(1, int(c.actor_cpus)))}
  roles = [
    (
      "replay",
      c.replay_shards,
      needs(c.replay_cpus, c.replay_resource),
      on_cpu,
    ),
    (
      "learner",
      c.learner_hosts,
      needs(c.learner_cpus, c.learner_resource, c.learner_gpus),
      _learner_environ(),
    ),
    (
      "actor",
      c.actors,
      needs(c.actor_cpus, c.actor_resource),
      on_cpu | threads,
    ),
    ("evaluator", c.evaluators, needs(c.evaluator_cpus), on_cpu),
  ]
  return [
    Place(role, i, resources, environ)
    for role, count, resources, environ in roles
    for i in range(count)
  ]


def _passed_on(names: tuple[str, ...]) -> dict[str, str]:
  return {name: os.environ[name] for name in names if name in os.environ}


def _learner_environ() -> dict[str, str]:
  """Of a process that may use an accelerator."""
  return _passed_on((*_PASSED_ON, "JAX_PLATFORMS", "XLA_FLAGS")) | {
    "TF_CPP_MIN_LOG_LEVEL": "3"
  }


def needed_cpus(cluster: ClusterConfig) -> float:
  """Of all processes together."""
  return sum(p.resources.get("CPU", 0) for p in places(cluster))


def run_place(index: int, *, cpus: float, gpus: float) -> Place:
  """That of a whole run in one process, one of many (`sweep`)."""
  environ = _learner_environ() | {"NPROC": str(max(1, int(cpus)))}
  environ |= _passed_on(_OF_WANDB)
  if 0 < gpus < 1:
    # JAX takes three quarters of a GPU for itself, unless it is told.
    environ[_GPU_SHARE] = os.environ.get(_GPU_SHARE, f"{0.9 * gpus:.3f}")
  resources = {"CPU": float(cpus), "GPU": float(gpus)}
  return Place("run", index, {k: x for k, x in resources.items() if x}, environ)


def in_words(resources: Mapping[str, float]) -> str:
  """'2 CPU, 1 GPU'; without what Ray counts for itself."""
  words = [
    f"{x / 2**30:.1f} GiB" if name == "memory" else f"{x:g} {name}"
    for name, x in sorted(resources.items())
    if x
    and not name.startswith(("node:", "object_store"))
    and "_group_" not in name
  ]
  return ", ".join(words)
