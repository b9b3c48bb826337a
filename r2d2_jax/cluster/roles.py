"""What each process of a cluster does: plain classes around the project's
loops.

The fleet makes them in processes of their own and calls them; each call is a
piece of work of about `cluster.lease_seconds`, and what it returns is its
report. So nothing has to be told to stop: who is not called does nothing.
"""

import importlib.metadata
import os
import pathlib
import platform
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import ray

import r2d2_jax
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import (
  actor_config,
  actor_seed,
  shard_config,
  topology_of,
)
from r2d2_jax.config import Config
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.replay.checks import ReplayError

# Packages of which every process must have the same version.
_SAME = ("jax", "jaxlib", "numpy", "flax", "optax")
# How long the learner waits for a batch before it reports that there is none.
_BATCH_SECONDS = 1.0


class Greeting(NamedTuple):
  """Who a process is."""

  node: str
  host: str  # the node's address for the others
  pid: int
  log: str  # file that it prints into; "" where it could not open one
  versions: dict[str, str]
  sees_run_dir: bool


class ActorReport(NamedTuple):
  """What an actor host did with a lease."""

  calls: int
  steps: int
  seconds: float
  episodes: list[EpisodeReport]
  leg_seconds: dict[str, float]
  lost_items: int  # that a dead shard did not take, since the host began


class LearnerReport(NamedTuple):
  """What a learner host did with a grant."""

  updates: int
  rows: int  # that this host trained on
  seconds: float
  num_updates: int  # of the learner, now
  num_ready: int  # batches that wait
  leg_seconds: dict[str, float]
  fault: str  # why there was no batch; "" where there was


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
    return Greeting(
      socket.gethostname(),
      ray.util.get_node_ip_address(),
      os.getpid(),
      printed,
      versions(),
      sees_run_dir,
    )


def versions() -> dict[str, str]:
  """What must be the same in every process."""
  return {
    "r2d2_jax": r2d2_jax.__version__,
    "python": ".".join(platform.python_version_tuple()[:2]),
    **{name: importlib.metadata.version(name) for name in _SAME},
  }


def _interface(config: Config):
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
    restore_from: str | None,
    scratch: str,
  ) -> tuple[str, int]:
    """Starts the server.

    Args:
      config: of the run.
      cluster: of the cluster.
      host: this node's address for the others.
      restore_from: directory of a saved shard; None begins empty.
      scratch: where the server writes what is then moved to its place.

    Returns:
      Its address, and how many items it holds.

    Raises:
      ReplayError: what is in restore_from does not fit or is not whole.
    """
    from r2d2_jax.replay.reverb_server import ReverbServer

    spec, _, core_state = _interface(config)
    self._server = ReverbServer(
      shard_config(config, cluster),
      spec,
      core_state,
      restore_from=pathlib.Path(restore_from) if restore_from else None,
      scratch=pathlib.Path(scratch),
    )
    return f"{host}:{self._server.port}", self.size()

  def size(self) -> int:
    """Items held."""
    return self._server.connection.info().current_size

  def save(self, directory: str) -> None:
    """Writes the shard into a directory, which it makes."""
    path = pathlib.Path(directory)
    path.mkdir()
    self._server.save(path)


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

    spec, agent, self._core_state = _interface(config)
    self._spec = spec
    self._config = actor_config(config, cluster)
    seed = actor_seed(config.run.seed, starts, actor, incarnation)
    self._parameters = HeldParameters(*parameters)
    self._env_steps = 0
    self._lost_items = 0
    self._replay = self._join(address)
    topology = topology_of(config, cluster)
    self._lanes = topology.lanes(actor)
    self._loop = ActorLoop(
      self._config,
      world=make_world(self._config.env, seed=seed),
      agent=agent,
      parameters=self._parameters,
      insert=self._insert,
      key=jax.random.key(seed),
      count_steps=lambda: self._env_steps,
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


class LearnerHost(Host):
  """The learner, or one process of a group that is one learner."""

  def free_port(self) -> int:
    """A port of this node on which the group may meet."""
    with socket.socket() as trial:
      trial.bind(("", 0))
      return trial.getsockname()[1]

  def join(
    self, address: str, count: int, index: int, patience_seconds: float
  ) -> None:
    """Becomes one process of a group: all accelerators are one mesh.

    To be called in all of them at a time, before anything else.

    Args:
      address: "host:port" of process 0.
      count: of processes.
      index: of this one.
      patience_seconds: after which one that is silent counts as dead.
    """
    import jax

    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
      jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      address,
      count,
      index,
      heartbeat_timeout_seconds=max(10, int(patience_seconds)),
    )

  def start(
    self,
    config: Config,
    cluster: ClusterConfig,
    learner: int,
    *,
    addresses: list[str],
    state: Any,
  ) -> str:
    """Puts the state on the devices and begins to fetch batches.

    Args:
      config: of the run.
      cluster: of the cluster.
      learner: number of this host.
      addresses: of all shards.
      state: of the learner, host arrays.

    Returns:
      Its devices, in words.
    """
    import jax
    import jax.numpy as jnp

    from r2d2_jax.cluster.parameters import SentParameters
    from r2d2_jax.cluster.sharded import ShardedReplay
    from r2d2_jax.replay.make import make_replay
    from r2d2_jax.system.devices import learner_mesh
    from r2d2_jax.system.loops.learner import LearnerLoop, Prefetcher
    from r2d2_jax.system.metrics.sample_stats import SampleStats

    spec, agent, core_state = _interface(config)
    topology = topology_of(config, cluster)
    self._shards = topology.shards_of(learner)
    self._is_group = topology.learners > 1
    part = shard_config(config, cluster)
    self._join_shard = lambda address: make_replay(
      part.updated({"env.num_envs": 1}), spec, core_state, address=address
    )
    self._replay = ShardedReplay(
      [self._join_shard(addresses[s]) for s in self._shards],
      num_shards=topology.shards,
    )
    mesh = learner_mesh(config)
    # Not shared with other processes' memory, and one's own to donate.
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
    self._parameters = SentParameters()
    self._samples = SampleStats(config.env.num_envs)
    self._loop = LearnerLoop(
      config,
      agent=agent,
      state=jax.device_get(state) if mesh else state,
      replay=self._replay,
      parameters=self._parameters,
      mesh=mesh,
    )
    self._prefetcher = Prefetcher(
      self._replay,
      part,
      mesh=mesh,
      depth=cluster_depth(topology.learners),
      batch_size=config.agent.batch_size // topology.learners,
    )
    self._fault = ""
    self._stop = threading.Event()
    threading.Thread(target=self._fetch, name="prefetcher", daemon=True).start()
    devices = mesh.devices.size if mesh else 1
    return f"{devices} {jax.default_backend()} device(s)"

  def connect(self, shard: int, address: str) -> None:
    """Another server has taken the place of a shard."""
    if shard in self._shards:
      self._replay.replace(self._shards.index(shard), self._join_shard(address))
      self._fault = ""

  def train(
    self,
    updates: int,
    *,
    env_steps: int,
    max_seconds: float,
    publish: bool,
  ) -> tuple[LearnerReport, tuple[Any, int] | None]:
    """Updates.

    A process alone stops earlier where time or batches run out. A group gets no
    more updates than batches that all of its processes hold, and makes them
    all: one that stopped would leave the others in a collective.

    Args:
      updates: how many, at most.
      env_steps: of the run so far.
      max_seconds: for a process alone.
      publish: whether to hand out the parameters of the last update.

    Returns:
      The report, and the parameters if they were asked for and there was an
      update.

    Raises:
      DivergedError: an update went wrong.
    """
    start = time.monotonic()
    done, rows = 0, 0
    while done < updates:
      if not self._is_group and time.monotonic() - start > max_seconds:
        break
      with self._loop.timer.leg("wait_for_data"):
        batch = self._prefetcher.get(_BATCH_SECONDS)
      if batch is None:
        if self._is_group:
          raise RuntimeError("a batch that was reported ready is not there")
        break
      assert batch.origin is not None
      self._samples.add(
        batch.origin,
        batch.is_trained,
        num_updates=self._loop.num_updates,
        steps=env_steps,
      )
      self._loop.step(batch)
      done += 1
      rows += batch.trained_rows
    if done:
      self._fault = ""
    report = LearnerReport(
      done,
      rows,
      time.monotonic() - start,
      self._loop.num_updates,
      self._prefetcher.num_ready,
      {**self._prefetcher.timer.seconds(), **self._loop.timer.seconds()},
      self._fault,
    )
    return report, self._parameters.take() if publish and done else None

  def stats(self) -> tuple[tuple, tuple]:
    """Pops what samples and updates have said since the last call."""
    return self._samples.pop(), self._loop.metrics()

  def flush(self) -> None:
    """Writes the last priorities back; raises DivergedError if they are bad."""
    self._loop.flush()

  def state(self) -> Any:
    """The learner's state, host arrays."""
    return self._loop.state()

  def _fetch(self) -> None:
    while not self._stop.is_set():
      try:
        self._prefetcher.run(self._stop)
      except ReplayError as error:
        self._fault = str(error)
        self._stop.wait(0.5)
      except Exception as error:  # whoever trains must hear of it
        self._fault = f"{type(error).__name__}: {error}"
        print(self._fault, file=sys.stderr, flush=True)
        self._stop.wait(0.5)


def cluster_depth(learners: int) -> int:
  """Batches that a learner host keeps ready: a group's grants are no larger."""
  return 2 if learners == 1 else 8


class EvaluatorHost(Host):
  """Plays whole games with the parameters that it is given."""

  def evaluate(
    self, config: Config, params: Any, *, num_episodes: int, seed: int
  ) -> list[EpisodeReport]:
    """As `evaluation.evaluate`; the games, in order of their lanes."""
    import jax

    from r2d2_jax.system.evaluation import evaluate

    _, agent, _ = _interface(config)
    return evaluate(
      jax.device_put(jax.tree.map(np.array, params)),
      agent=agent,
      config=config,
      num_episodes=num_episodes,
      seed=seed,
    ).episodes
