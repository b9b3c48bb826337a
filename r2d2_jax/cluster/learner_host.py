"""A learner host: the learner, or one process of a group that is one."""

import os
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

from r2d2_jax.cluster.roles import Host, interface
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import shard_config, topology_of
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError

# How long the learner waits for a batch before it reports that there is none.
_BATCH_SECONDS = 1.0


class LearnerReport(NamedTuple):
  """What a learner host did with a grant."""

  updates: int
  rows: int  # that this host trained on
  seconds: float
  num_updates: int  # of the learner, now
  num_ready: int  # batches that wait
  leg_seconds: dict[str, float]
  fault: str  # why there was no batch; "" where there was


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

    spec, agent, core_state = interface(config)
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
      depth=_depth(topology.learners),
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


def _depth(learners: int) -> int:
  """Batches that a learner host keeps ready: a group's grants are no larger."""
  return 2 if learners == 1 else 8
