"""What each process of a run on a cluster takes: cores, memory, network.

With N lanes of v steps per second (`cluster.lane_steps_per_second`), ratio r,
batches of B items with m - 1 transitions, A actor hosts, S shards, H learner
hosts:

    steps per second    s = N v updates per second  u = s r / (B (m - 1)) rows
    an actor host sends s / A of them, a shard gets s / S items               a
    shard sends u B / S of them, a learner host gets u B / H parameters
    an actor host gets them at most every publish_seconds,
                        and no more often than every actor_refresh_steps / v

A row and an item on the wire are as large as Reverb stores them, compressed
(`planning.sizes`: the worst of 57 Atari games).
"""

import os
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from r2d2_jax.agent.agent import make_agent
from r2d2_jax.cluster.places import needed_cpus
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import actor_config
from r2d2_jax.config import Config, ConfigError, MissingPackageError
from r2d2_jax.envs.make import world_spec
from r2d2_jax.system.planning.limits import free_memory_bytes
from r2d2_jax.system.planning.sizes import (
  agent_size,
  item_size,
  size_in_words,
  update_bytes,
)
from r2d2_jax.types import EnvSpec

_MIB = 2**20
# Resident, as one process has them (docs/planning.md, docs/cluster.md).
_REPLAY_PROGRAM = 700 * _MIB
_ACTOR_PROGRAM = 1250 * _MIB
_LEARNER_PROGRAM = 1250 * _MIB
_EVALUATOR_PROGRAM = 900 * _MIB
_DRIVER_PROGRAM = 900 * _MIB
_LANE_BYTES = 1 * _MIB
_PARAMETER_COPIES = 3
_BATCHES = 6


class RolePlan(NamedTuple):
  """One process of a role."""

  role: str
  count: int
  cpus: float
  gpus: int
  memory_bytes: float
  in_bytes_per_second: float
  out_bytes_per_second: float


class ClusterPlan(NamedTuple):
  """All of them."""

  roles: list[RolePlan]
  steps_per_second: float
  updates_per_second: float

  @property
  def cpus(self) -> float:
    """Of all processes."""
    return sum(r.count * r.cpus for r in self.roles)

  @property
  def memory_bytes(self) -> float:
    """Of all processes."""
    return sum(r.count * r.memory_bytes for r in self.roles)


def make_cluster_plan(
  config: Config, cluster: ClusterConfig, spec: EnvSpec, *, on_cpu: bool = True
) -> ClusterPlan:
  """Computes it; nothing is started.

  Args:
    config: of the run, checked.
    cluster: of the cluster, checked.
    spec: what the world says of itself.
    on_cpu: whether the learner computes in the host's memory.
  """
  agent = make_agent(spec, config)
  size = agent_size(agent, config, spec)
  item = item_size(config, spec, size.core_state)
  lengths = config.agent
  own_rows = lengths.trace_length - lengths.overlap
  row_wire = item.stored_bytes / own_rows
  # Neighbours share rows in the table; a sampled item brings all of its own.
  item_wire = row_wire * config.item_rows
  steps = config.env.num_envs * cluster.lane_steps_per_second
  transitions = lengths.batch_size * (lengths.trace_length - 1)
  updates = steps * config.replay.replay_ratio / transitions
  items = updates * lengths.batch_size
  refresh = max(
    cluster.publish_seconds,
    config.run.actor_refresh_steps / cluster.lane_steps_per_second,
  )
  to_actor = size.params_bytes / refresh
  lanes = actor_config(config, cluster).env.num_envs
  batch_bytes = lengths.batch_size * item.lone_bytes / cluster.learner_hosts
  computing = update_bytes(config, size) / cluster.learner_hosts
  roles = [
    RolePlan(
      "replay",
      cluster.replay_shards,
      cluster.replay_cpus,
      0,
      _REPLAY_PROGRAM
      + config.replay.capacity_sequences
      / cluster.replay_shards
      * item.stored_bytes,
      steps / cluster.replay_shards * row_wire,
      items / cluster.replay_shards * item_wire,
    ),
    RolePlan(
      "learner",
      cluster.learner_hosts,
      cluster.learner_cpus,
      cluster.learner_gpus,
      _LEARNER_PROGRAM
      + _BATCHES * batch_bytes
      + 2 * size.learner_bytes
      + (computing if on_cpu else 0),
      items / cluster.learner_hosts * item_wire,
      size.params_bytes / cluster.publish_seconds,
    ),
    RolePlan(
      "actor",
      cluster.actors,
      cluster.actor_cpus,
      0,
      _ACTOR_PROGRAM
      + lanes
      * (
        _LANE_BYTES
        + (config.item_rows + config.block_rows) * item.row_bytes
        + 2 * item.state_bytes
      )
      + _PARAMETER_COPIES * size.params_bytes,
      to_actor,
      steps / cluster.actors * row_wire,
    ),
    RolePlan(
      "evaluator",
      cluster.evaluators,
      cluster.evaluator_cpus,
      0,
      _EVALUATOR_PROGRAM + config.evaluation.num_lanes * _LANE_BYTES,
      0.0,
      0.0,
    ),
    RolePlan(
      "coordinator", 1, 0.0, 0, _DRIVER_PROGRAM + 2 * size.learner_bytes, 0, 0
    ),
  ]
  return ClusterPlan(roles, steps, updates)


def print_cluster_plan(
  plan: ClusterPlan, cluster: ClusterConfig, console: Console
) -> None:
  """One line for each role."""
  table = Table(box=None, pad_edge=False)
  for name in (
      "role", "processes", "CPUs", "GPUs", "memory", "network in",
      "network out",
  ):  # fmt: skip
    table.add_column(name, justify="left" if name == "role" else "right")
  for r in plan.roles:
    if not r.count:
      continue
    table.add_row(
      r.role,
      f"{r.count} x",
      f"{r.cpus:g}",
      f"{r.gpus}" if r.gpus else "",
      size_in_words(r.memory_bytes),
      f"{size_in_words(r.in_bytes_per_second)}/s",
      f"{size_in_words(r.out_bytes_per_second)}/s",
    )
  console.print(table)
  console.print(
    f"all together {plan.cpus:g} CPUs, {size_in_words(plan.memory_bytes)};"
    f" {plan.steps_per_second:.0f} steps/s at"
    f" {cluster.lane_steps_per_second:g} per lane"
    " (cluster.lane_steps_per_second),"
    f" {plan.updates_per_second:.2f} updates/s",
    highlight=False,
    soft_wrap=True,
  )


def check_memory(plan: ClusterPlan, free_bytes: float | None) -> None:
  """Refuses what one machine cannot hold.

  Raises:
    ConfigError: it needs more memory than there is.
  """
  if free_bytes is not None and plan.memory_bytes > free_bytes:
    largest = max(plan.roles, key=lambda r: r.count * r.memory_bytes)
    raise ConfigError(
      f"cluster: expected processes of at most {size_in_words(free_bytes)}"
      f" together, what is free here, got {size_in_words(plan.memory_bytes)};"
      f" most of it in {largest.count} {largest.role} process(es) of"
      f" {size_in_words(largest.memory_bytes)}; ask for fewer, for a smaller"
      " replay.capacity_sequences, or give a cluster's cluster.address"
    )


def show_plan(config: Config, cluster: ClusterConfig) -> None:
  """Prints the plan, and checks it against the cluster or this machine.

  Raises:
    ConfigError: it does not fit, or there is no cluster at the address.
  """
  console = Console()
  plan = make_cluster_plan(config, cluster, world_spec(config.env))
  print_cluster_plan(plan, cluster, console)
  if not (cluster.address or os.environ.get("RAY_ADDRESS")):
    cores = os.cpu_count() or 1
    if plan.cpus > cores:
      console.print(
        f"on this machine alone they share {cores} cores", highlight=False
      )
    check_memory(plan, config.limits.memory_gib * 2**30 or free_memory_bytes())
    return
  try:
    from r2d2_jax.cluster.nodes import check_room, joined
  except ImportError as error:
    raise MissingPackageError(
      f"a cluster's plan needs Ray ({error}): pip install 'r2d2_jax[cluster]'"
    ) from error
  memory = {r.role: r.memory_bytes for r in plan.roles}
  with joined(cluster.address, needed_cpus(cluster)):
    check_room(cluster, memory)
