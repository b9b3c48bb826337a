"""The plan of a run: memory, disk, steps and updates, before anything starts.

The settings, the world's spec and the agent's shapes tell it all; formulas are
here, in `sizes` and in docs/planning.md.
"""

import pathlib
from typing import NamedTuple

from r2d2_jax.agent.agent import Agent, make_agent
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.system.planning.limits import free_disk_bytes, free_memory_bytes
from r2d2_jax.system.planning.sizes import (
  AgentSize,
  ItemSize,
  agent_size,
  item_size,
  size_in_words,
  table_bytes,
  tree_bytes,
  update_bytes,
)
from r2d2_jax.types import EnvSpec

_GIB = 2**30
_MIB = 2**20
# Python, JAX, EnvPool, what they compile and what malloc keeps, resident;
# Reverb brings TensorFlow. Measured: what whole runs took at most, less all
# else here.
_PROGRAM_BYTES = {"local": 900 * _MIB, "reverb": 1250 * _MIB}
_LANE_BYTES = 1 * _MIB  # of an Atari emulator, the largest of the usual worlds
# Batches on the way: on the host sampled and being stacked, in Reverb's readers
# besides; on the device two in the queue, one before it, one in use.
_HOST_BATCHES = {"local": 2, "reverb": 5}
_DEVICE_BATCHES = 4
_ACTOR_COPIES = 3  # of the parameters: the actors' own, the latest, the next
# `probe.PROBE_ITEMS`, whose import would take longer than the plan.
_PROBE_ITEMS = 32
_FLOAT_BYTES = 4

_BATCH = ("agent.batch_size", "agent.trace_length", "agent.burn_in")
_LANES = ("env.num_envs", "agent.trace_length", "agent.burn_in")
_NETWORK = ("network.torso", "network.torso_channels", "network.core_units")
# Part of a `Need` -> the settings that drive it.
_SETTINGS = {
  "replay": ("replay.capacity_sequences", "replay.backend"),
  "programs": ("replay.backend",),
  "lanes": ("env.num_envs", "evaluation.num_lanes"),
  "open rows": _LANES,
  "writer": _LANES,
  "sampled batches": _BATCH,
  "state being saved": _NETWORK,
  "probe": ("agent.trace_length", "agent.burn_in"),
  "update": (*_BATCH[:2], *_NETWORK),
  "parameters": _NETWORK,
  "batches": _BATCH,
  "acting": ("env.num_envs", *_NETWORK),
  "checkpoints": ("checkpoint.max_to_keep", "checkpoint.save_replay"),
  "best learner": _NETWORK,
}


class Need(NamedTuple):
  """What a run needs of one resource, and how much of it there is."""

  name: str
  parts: dict[str, float]  # bytes
  limit_bytes: float | None  # None: not known on this system

  @property
  def num_bytes(self) -> float:
    """Of all parts."""
    return sum(self.parts.values())

  @property
  def fits(self) -> bool:
    """Whether there is enough, as far as is known."""
    return self.limit_bytes is None or self.num_bytes <= self.limit_bytes

  @property
  def largest(self) -> list[str]:
    """Names of the three largest parts, the largest first."""
    return sorted(self.parts, key=self.parts.__getitem__, reverse=True)[:3]


class Plan(NamedTuple):
  """The numbers of a run; `make_plan` says how each comes about."""

  config: Config
  spec: EnvSpec
  platform: str  # of the devices: 'cpu', 'gpu', 'tpu'; '' where nobody asked
  agent: AgentSize
  item: ItemSize
  replay_items: int  # held at the end: the capacity, or what the run brings
  short_episodes_bytes: float  # what the replay takes more where all are short
  host: Need
  device: Need | None  # each of the learner's; None: the device is the host
  disk: Need
  checkpoint_bytes: float
  fill_steps: int  # before the first update
  steps_per_update: float
  total_updates: int


def make_plan(
  config: Config,
  spec: EnvSpec,
  *,
  agent: Agent | None = None,
  host_limit_bytes: float | None = None,
  disk_limit_bytes: float | None = None,
  device_limit_bytes: float | None = None,
  num_devices: int = 1,
  platform: str = "",
) -> Plan:
  """Computes what a run will take.

  With N lanes, L = burn_in + m + k rows of an item, m of them trained, k of
  them lookahead, S = m - overlap rows from one item of a lane to its next:

      steps to n items  = N (m + k - 1 + (ceil(n / N) - 1) S)
      steps per update  = items of a batch x (m - 1) / replay_ratio
      updates           = (total_steps - steps to min_sequences)
                          / steps per update
      checkpoint        = the learner's state, + the replay if it is saved
      disk              = (max_to_keep + 1 being written) x checkpoint
                          + the learner's state (the best one)

  in long episodes, all rows valid. Memory: see `sizes` and docs/planning.md.

  Args:
    config: validated.
    spec: from `world_spec`, or of the world.
    agent: made for these two; None for that of `agent.algorithm`.
    host_limit_bytes: memory to plan with; None takes `limits.memory_gib`, and
      where that is 0 what is free now.
    disk_limit_bytes: None: what is free where `run.run_dir` is, its own
      checkpoints, which will be replaced, counted as free.
    device_limit_bytes: memory of one accelerator; None where the host computes.
    num_devices: that split the learner's batch.
    platform: of the devices, as JAX calls it: 'cpu', 'gpu', 'tpu'.

  Raises:
    ConfigError: the network cannot read such observations.
  """
  lengths, replay, run = config.agent, config.replay, config.run
  lanes, evaluation = config.env.num_envs, config.evaluation
  size = agent_size(
    agent or make_agent(spec, config.updated({"agent.make_agent": ""})),
    config,
    spec,
    num_devices,
  )
  item = item_size(config, spec, size.core_state)
  held = min(replay.capacity_sequences, _items_after(run.total_steps, config))
  replay_bytes = held * item.stored_bytes + table_bytes(config)

  batch_bytes = lengths.batch_size * item.lone_bytes
  open_rows_bytes = (config.item_rows + config.block_rows) * (
    item.row_bytes + _FLOAT_BYTES * spec.num_actions
  )
  carry_bytes = item.state_bytes - tree_bytes(size.core_state.frames)
  host = {
    "replay": replay_bytes,
    "programs": _PROGRAM_BYTES[replay.backend],
    "lanes": _LANE_BYTES
    * (lanes + evaluation.num_lanes * bool(evaluation.num_episodes)),
    "open rows": lanes * (open_rows_bytes + 2 * item.state_bytes),
    "sampled batches": _HOST_BATCHES[replay.backend] * batch_bytes,
    "state being saved": size.learner_bytes,
    "probe": _PROBE_ITEMS * (item.lone_bytes + config.item_rows * carry_bytes),
  }
  if replay.backend == "reverb":
    # What the writer keeps so that neighbours can share it:
    # reverb.ReverbReplay.
    own_rows = lengths.trace_length - lengths.overlap
    kept_rows = 1.5 * lanes * (config.item_rows - own_rows)
    host["writer"] = kept_rows * item.stored_bytes / own_rows
  device = {
    "update": update_bytes(config, size, num_devices),
    "parameters": size.learner_bytes + _ACTOR_COPIES * size.params_bytes,
    "batches": _DEVICE_BATCHES * batch_bytes / num_devices,
    "acting": lanes * (size.row_bytes + 2 * item.state_bytes),
  }
  checkpoint_bytes = (
    size.learner_bytes + replay_bytes * config.checkpoint.save_replay
  )
  disk = {
    "checkpoints": (config.checkpoint.max_to_keep + 1) * checkpoint_bytes,
    "best learner": size.learner_bytes,
  }

  if host_limit_bytes is None:
    host_limit_bytes = config.limits.memory_gib * _GIB or free_memory_bytes()
  if disk_limit_bytes is None:
    disk_limit_bytes = free_disk_bytes(pathlib.Path(run.run_dir))
  on_host = device_limit_bytes is None
  fill_steps = _steps_to(replay.min_sequences, config)
  steps_per_update = (
    lengths.batch_size * (lengths.trace_length - 1) / replay.replay_ratio
  )
  return Plan(
    config=config,
    spec=spec,
    platform=platform,
    agent=size,
    item=item,
    replay_items=held,
    short_episodes_bytes=held * (item.short_episode_bytes - item.stored_bytes),
    host=Need(
      "host memory", host | device if on_host else host, host_limit_bytes
    ),
    device=None
    if on_host
    else Need("device memory", device, device_limit_bytes),
    disk=Need("disk", disk, disk_limit_bytes),
    checkpoint_bytes=checkpoint_bytes,
    fill_steps=fill_steps,
    steps_per_update=steps_per_update,
    total_updates=max(
      0, int((run.total_steps - fill_steps) / steps_per_update)
    ),
  )


def check_plan(plan: Plan) -> None:
  """Refuses a plan that cannot fit.

  Raises:
    ConfigError: one line for each of host memory, device memory and disk that
      is too small: how much there is, what is needed, and the three largest
      parts with the settings that drive them.
  """
  faults = [
    _fault(need, plan.config)
    for need in (plan.host, plan.device, plan.disk)
    if need is not None and not need.fits
  ]
  if faults:
    raise ConfigError("\n".join(faults))


def _fault(need: Need, config: Config) -> str:
  assert need.limit_bytes is not None  # else it fits
  parts = [
    f"{part} {size_in_words(need.parts[part])} ("
    + ", ".join(f"{name} {config.setting(name)!r}" for name in _SETTINGS[part])
    + ")"
    for part in need.largest
  ]
  memory_gib = config.limits.memory_gib
  if need.name == "host memory" and memory_gib:
    limit = f"limits.memory_gib {memory_gib:g}"
  else:
    limit = "what is free"
  return (
    f"{need.name}: expected a run of at most {size_in_words(need.limit_bytes)}"
    f" ({limit}), got one of {size_in_words(need.num_bytes)}; its largest"
    f" parts: {', '.join(parts)}; lower one of these settings, or give it"
    " more room"
  )


def _steps_to(items: int, config: Config) -> int:
  """Steps of all lanes until there are so many items, in long episodes."""
  agent, lanes = config.agent, config.env.num_envs
  period = agent.trace_length - agent.overlap
  # The first row of an episode completes no step.
  return lanes * (agent.unrolled_rows - 1 + (-(-items // lanes) - 1) * period)


def _items_after(steps: int, config: Config) -> int:
  """Items after so many steps of all lanes, in long episodes; at least one."""
  agent, lanes = config.agent, config.env.num_envs
  period = agent.trace_length - agent.overlap
  further = (steps // lanes - (agent.unrolled_rows - 1)) // period
  return lanes * max(1 + further, 1)
