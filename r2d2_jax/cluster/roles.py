"""What each process of a cluster does: what all share; replay and evaluator.

The fleet makes them in processes of their own and calls them; each call is a
piece of work of about `cluster.lease_seconds`, and what it returns is its
report. So nothing has to be told to stop: who is not called does nothing.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import socket
from typing import Any, NamedTuple

import numpy as np
import ray

from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import (
  shard_config,
)
from r2d2_jax.config import Config
from r2d2_jax.envs.world import EpisodeReport

# Packages of which every process must have the same version.
_SAME = ("jax", "jaxlib", "numpy", "flax", "optax")


class Greeting(NamedTuple):
  """Who a process is."""

  node: str  # name and address, for people
  host: str  # the node's address for the others
  pid: int
  log: str  # file that it prints into; "" where it could not open one
  versions: dict[str, str]
  sees_run_dir: bool


class Host:
  """A process of the cluster, before it has a task."""

  def greet(self, run_dir: str, name: str, mark: str) -> Greeting:
    """Says who it is; from now on it prints into a file of the run's directory.

    Args:
      run_dir: of the run, the same on every node.
      name: of the file, without ".log".
      mark: name of a file that the driver has put there.
    """
    log = pathlib.Path(run_dir) / "logs" / f"{name}.log"
    try:
      sees_run_dir = (pathlib.Path(run_dir) / mark).exists()
      descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
      for standard in (1, 2):
        os.dup2(descriptor, standard)
      os.close(descriptor)
      printed = str(log)
    except OSError:
      sees_run_dir, printed = False, ""
    address = ray.util.get_node_ip_address()
    return Greeting(
      f"{socket.gethostname()} {address}",
      address,
      os.getpid(),
      printed,
      versions(),
      sees_run_dir,
    )


def versions() -> dict[str, str]:
  """What must be the same in every process."""
  return {
    "r2d2_jax": _source(),
    "python": ".".join(platform.python_version_tuple()[:2]),
    **{name: importlib.metadata.version(name) for name in _SAME},
  }


def _source() -> str:
  """A fingerprint of this package's source."""
  package = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for path in sorted(package.rglob("*.py")):
    digest.update(str(path.relative_to(package)).encode())
    digest.update(path.read_bytes())
  return f"of source {digest.hexdigest()[:12]}"


def interface(config: Config):
  """Spec, agent and an example of its state, from the settings alone."""
  import jax

  from r2d2_jax.agent.agent import make_agent
  from r2d2_jax.envs.make import world_spec

  spec = world_spec(config.env)
  agent = make_agent(spec, config)
  return spec, agent, jax.device_get(agent.initial_core_state(1))


class ReplayHost(Host):
  """A replay shard: one Reverb server."""

  def start(
    self,
    config: Config,
    cluster: ClusterConfig,
    host: str,
    shard: int,
    restore_from: list[str],
    scratch: str,
  ) -> tuple[str, int]:
    """Starts the server.

    Args:
      config: of the run.
      cluster: of the cluster.
      host: this node's address for the others.
      shard: number of this one.
      restore_from: directories of all saved shards, in order; where there are
        more or fewer than now their items are dealt out. [] begins empty.
      scratch: where the server writes what is then moved to its place.

    Returns:
      Its address, and how many items it holds.

    Raises:
      ReplayError: what is in restore_from does not fit or is not whole.
    """
    from r2d2_jax.replay.reverb_parts import deal_out
    from r2d2_jax.replay.reverb_server import ReverbServer

    spec, _, core_state = interface(config)
    saved = [pathlib.Path(path) for path in restore_from]
    dealt = pathlib.Path(f"{scratch}.dealt")
    restored = None
    try:
      if len(saved) == cluster.replay_shards:
        restored = saved[shard]
      elif saved:
        restored = dealt
        shutil.rmtree(dealt, ignore_errors=True)
        deal_out(
          saved,
          dealt,
          part=shard,
          parts=cluster.replay_shards,
          config=config,
          spec=spec,
          core_state=core_state,
        )
      self._server = ReverbServer(
        shard_config(config, cluster),
        spec,
        core_state,
        restore_from=restored,
        scratch=pathlib.Path(scratch),
      )
    finally:
      shutil.rmtree(dealt, ignore_errors=True)
    return f"{host}:{self._server.port}", self.size()

  def size(self) -> int:
    """Items held."""
    return self._server.connection.info().current_size

  def save(self, directory: str) -> None:
    """Writes the shard into a directory, which it makes."""
    path = pathlib.Path(directory)
    path.mkdir()
    self._server.save(path)


class EvaluatorHost(Host):
  """Plays whole games with the parameters that it is given."""

  def evaluate(
    self, config: Config, params: Any, *, num_episodes: int, seed: int
  ) -> list[EpisodeReport]:
    """As `evaluation.evaluate`; the games, in order of their lanes."""
    import jax

    from r2d2_jax.system.evaluation import evaluate

    _, agent, _ = interface(config)
    return evaluate(
      jax.device_put(jax.tree.map(np.array, params)),
      agent=agent,
      config=config,
      num_episodes=num_episodes,
      seed=seed,
    ).episodes
