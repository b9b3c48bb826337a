"""The Ray cluster: joined or started, and whether a run has room in it."""

from collections.abc import Iterator, Mapping
import contextlib
import logging
import os
import signal
import socket
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import ConfigError, first_line
from r2d2_jax.system.run.interrupts import SIGNALS

# Passed on to all processes; Ray's own do not inherit the command's environment
# where the cluster was there before.
_PASSED_ON = (
  "JAX_COMPILATION_CACHE_DIR",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  "JAX_DEFAULT_PRNG_IMPL",
  "PYTHONPATH",
)
_OBJECT_STORE_BYTES = 512 * 2**20
_CONNECT_SECONDS = 10.0


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

  passed = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
  on_cpu = passed | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
  threads = {"NPROC": str(max(1, int(c.actor_cpus)))}
  learner = passed | {"TF_CPP_MIN_LOG_LEVEL": "3"}
  if asked := os.environ.get("JAX_PLATFORMS"):
    learner["JAX_PLATFORMS"] = asked
  if flags := os.environ.get("XLA_FLAGS"):
    learner["XLA_FLAGS"] = flags
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
      learner,
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


@contextlib.contextmanager
def joined(cluster: ClusterConfig) -> Iterator[bool]:
  """Within it this process is the driver of a Ray cluster.

  Hands out whether Ray was started here, on this machine alone.

  Raises:
    ConfigError: there is none at the address, or one of another version.
  """
  address = cluster.address or os.environ.get("RAY_ADDRESS", "")
  own = not address or address == "local"
  os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
  options: dict[str, Any] = {
    "logging_level": logging.ERROR,
    "log_to_driver": False,
    "include_dashboard": False,
  }
  if own:
    # Ray's processes would otherwise give way to every other one.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # As many as the roles ask for, be there fewer: a laptop may run them all.
    needed = sum(p.resources.get("CPU", 0) for p in places(cluster))
    options |= {
      "address": "local",
      "num_cpus": max(int(needed + 0.999), os.cpu_count() or 1),
      "object_store_memory": _OBJECT_STORE_BYTES,
    }
  else:
    options = {"address": address} | {
      k: v for k, v in options.items() if k != "include_dashboard"
    }
    if node := os.environ.get("R2D2_JAX_NODE_IP"):
      options["_node_ip_address"] = node
  try:
    if not own:
      _check_reachable(address)
    with _deaf_children():
      ray.init(**options)
  # ConnectionError: nobody there; RuntimeError: versions, or no token.
  except (OSError, RuntimeError, ValueError) as error:
    where = "on this machine" if own else f"at {address}"
    raise ConfigError(
      f"cluster.address: expected a Ray cluster {where} of version"
      f" {ray.__version__}: {first_line(error)}; start one with `ray start"
      " --head`, or leave the address and RAY_ADDRESS empty for this machine"
      " alone"
    ) from error
  try:
    yield own
  finally:
    ray.shutdown()


def _check_reachable(address: str) -> None:
  """Raises OSError where nobody listens: Ray would try for minutes."""
  host, colon, port = address.rpartition(":")
  if colon and port.isdecimal() and "/" not in host:
    socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
  """Within it processes are started that signals to stop do not reach.

  Schedulers send them to all processes of a job, a terminal to its group: the
  run, which hears them, needs the others for its last save, and then ends them.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_room(
  cluster: ClusterConfig, memory_bytes: dict[str, float] | None = None
) -> None:
  """Refuses a run that the cluster's nodes cannot hold, even when they are
  idle.

  Args:
    cluster: of the run.
    memory_bytes: of one process, by role; None does not look at memory.

  Raises:
    ConfigError: says for which role there is no room, and what there is.
  """
  free = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
  total, nodes = _in_words(_sum(free)), len(free)
  wanted = [
    (
      place,
      place.resources | {"memory": (memory_bytes or {}).get(place.role, 0.0)},
    )
    for place in places(cluster)
  ]
  # The largest first: what does not fit then hardly fits otherwise.
  for place, needed in sorted(wanted, key=lambda x: -max(x[1].values())):
    node = max(
      (n for n in free if _fits(needed, n)),
      key=lambda n: n.get("CPU", 0),
      default=None,
    )
    if node is None:
      raise ConfigError(
        f"cluster: expected room for {_counts(cluster)}, which take"
        f" {_in_words(_sum([x for _, x in wanted]))}; there is none for"
        f" {place.role} {place.index} ({_in_words(needed)}) beside the others"
        f" on {nodes} node(s) with {total}; ask for fewer processes or less for"
        " each (cluster.actor_cpus and its like), or add nodes"
      )
    for name, x in needed.items():
      node[name] = node.get(name, 0) - x


@contextlib.contextmanager
def reserved(cluster: ClusterConfig) -> Iterator[Any]:
  """Within it all processes have their place, all at once.

  Raises:
    ConfigError: others hold what is needed, for too long.
  """
  group = placement_group(
    [p.resources for p in places(cluster)], strategy="SPREAD"
  )
  try:
    if not group.wait(cluster.start_seconds):
      raise ConfigError(
        f"cluster: expected room for {_counts(cluster)}, which take"
        f" {_in_words(_sum([p.resources for p in places(cluster)]))}; free"
        f" within {cluster.start_seconds:.0f} s were"
        f" {_in_words(ray.available_resources())}: other jobs hold the rest;"
        " wait for them, or ask for less"
      )
    yield group
  finally:
    with contextlib.suppress(Exception):  # the cluster may be gone
      remove_placement_group(group)


def _counts(cluster: ClusterConfig) -> str:
  c = cluster
  return (
    f"{c.actors} actor host(s), {c.replay_shards} replay shard(s),"
    f" {c.learner_hosts} learner host(s), {c.evaluators} evaluator(s)"
  )


def _fits(needed: dict[str, float], node: dict[str, float]) -> bool:
  return all(node.get(name, 0) >= x for name, x in needed.items())


def _sum(parts: list[dict[str, float]]) -> dict[str, float]:
  total: dict[str, float] = {}
  for part in parts:
    for name, x in part.items():
      total[name] = total.get(name, 0) + x
  return total


def _in_words(resources: Mapping[str, float]) -> str:
  words = [
    f"{x / 2**30:.1f} GiB" if name == "memory" else f"{x:g} {name}"
    for name, x in sorted(resources.items())
    if x
    and not name.startswith(("node:", "object_store"))
    and "_group_" not in name
  ]
  return ", ".join(words)
