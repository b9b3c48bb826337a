"""The Ray cluster: joined or started, and whether a run has room in it."""

from collections.abc import Iterator
import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from r2d2_jax.cluster.places import Place, in_words, places
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import ConfigError, first_line
from r2d2_jax.system.run.interrupts import SIGNALS

_OBJECT_STORE_BYTES = 512 * 2**20
_CONNECT_SECONDS = 10.0


def check_fits(place: Place) -> None:
  """Refuses what no node can hold, even when it is idle.

  Raises:
    ConfigError: says what it takes, and what the largest node has.
  """
  nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
  if not any(_fits(place.resources, node) for node in nodes):
    largest = max(
      nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default={}
    )
    raise ConfigError(
      f"cluster: expected a node with {in_words(place.resources)} for each"
      f" {place.role}; the largest of {len(nodes)} node(s) has"
      f" {in_words(largest)}; ask for less (--cpus, --gpus), or add nodes"
    )


def has_gpus() -> bool:
  """Whether any node of the cluster has."""
  return any(n["Resources"].get("GPU", 0) for n in ray.nodes() if n["Alive"])


@contextlib.contextmanager
def joined(address: str, cpus: float) -> Iterator[bool]:
  """Within it this process is the driver of a Ray cluster.

  Hands out whether Ray was started here, on this machine alone.

  Args:
    address: 'host:port' or 'auto'; empty takes RAY_ADDRESS, and starts Ray here
      where that is not set.
    cpus: that will be asked for; Ray here offers them, be there fewer: so a
      laptop may run all roles.

  Raises:
    ConfigError: there is none at the address, or one of another version.
  """
  address = address or os.environ.get("RAY_ADDRESS", "")
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
    options |= {
      "address": "local",
      "num_cpus": max(int(cpus + 0.999), os.cpu_count() or 1),
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
    with _own_handlers(), _deaf_children():
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
def _own_handlers() -> Iterator[None]:
  """Within it whoever takes a signal's handler gives it back."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.getsignal(number) for number in numbers}
  try:
    yield
  finally:
    for number, handler in before.items():
      if handler is not None:
        signal.signal(number, handler)


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
  total, nodes = in_words(_sum(free)), len(free)
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
        f" {in_words(_sum([x for _, x in wanted]))}; there is none for"
        f" {place.role} {place.index} ({in_words(needed)}) beside the others"
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
        f" {in_words(_sum([p.resources for p in places(cluster)]))}; free"
        f" within {cluster.start_seconds:.0f} s were"
        f" {in_words(ray.available_resources())}: other jobs hold the rest;"
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
