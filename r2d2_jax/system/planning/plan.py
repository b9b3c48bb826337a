"""What a run will take, before it starts: memory, disk, steps, updates.

Everything is computed from the settings and the world's spec in milliseconds,
without JAX; the formulas are in `sizes` and in docs/planning.md. `check_plan`
refuses what cannot fit and says what would.
"""

import dataclasses
import pathlib
import shutil
from typing import Callable, NamedTuple

from rich.console import Console
from rich.table import Table

from r2d2_jax.config import Config, ConfigError
from r2d2_jax.system.storage.rundir import checkpoints_dir
from r2d2_jax.system.metrics.probe import PROBE_ITEMS
from r2d2_jax.system.planning.sizes import (
    item_size,
    network_size,
    table_bytes,
    update_bytes,
)
from r2d2_jax.types import EnvSpec

_GIB = 2**30
_MIB = 2**20
# Python, JAX, EnvPool, what they compile and what malloc keeps, resident; Reverb
# brings TensorFlow. Measured: what whole runs took at most, less all else here.
_PROGRAM_BYTES = {"local": 900 * _MIB, "reverb": 1250 * _MIB}
_LANE_BYTES = 1 * _MIB  # of an Atari emulator, the largest of the usual worlds
# Batches on the way: on the host sampled and being stacked, in Reverb's readers
# besides; on the device two in the queue, one before it, one in use.
_HOST_BATCHES = {"local": 2, "reverb": 5}
_DEVICE_BATCHES = 4
_ADAM_STATES = 4  # parameters, target, two moments: numbers per parameter
_ACTOR_COPIES = 3  # the actors' own, the latest, the one being made
_FLOAT_BYTES = 4
# Rows x parameters of an update: above it, one takes some cores a second or more.
_CPU_UPDATE = 5e9


class Part(NamedTuple):
  """One thing that takes memory."""

  name: str
  num_bytes: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The numbers of a run; `make_plan` says how each comes about."""

  config: Config
  spec: EnvSpec
  num_devices: int  # that split the learner's batch
  platform: str  # of the devices: 'cpu', 'gpu', 'tpu'; '' where nobody asked
  num_params: int
  row_bytes: int
  lone_item_bytes: int
  stored_item_bytes: float
  replay_items: int  # held at the end: the capacity, or what the run brings
  replay_bytes: float
  min_replay_bytes: float
  short_episodes_replay_bytes: float
  host_parts: tuple[Part, ...]
  host_limit_bytes: float | None  # None: not known on this system
  device_parts: tuple[Part, ...]
  device_limit_bytes: float | None  # None: the device is the host
  checkpoint_bytes: float
  disk_bytes: float  # all checkpoints of the run
  disk_limit_bytes: float
  fill_steps: int
  steps_per_update: float
  total_updates: int

  @property
  def all_host_parts(self) -> tuple[Part, ...]:
    """What is in the host's memory: the device's too, where that is the host."""
    if self.device_limit_bytes is None:
      return self.host_parts + self.device_parts
    return self.host_parts

  @property
  def host_bytes(self) -> float:
    """Memory of the host."""
    return sum(part.num_bytes for part in self.all_host_parts)

  @property
  def device_bytes(self) -> float:
    """Memory of each of the learner's devices."""
    return sum(part.num_bytes for part in self.device_parts)

  def rows(self) -> list[tuple[str, str]]:
    """The plan for people: a name and a line of text each."""
    config, spec = self.config, self.spec
    agent, run = config.agent, config.run
    capacity = config.replay.capacity_sequences
    held = (
        f"{capacity:,} items" if self.replay_items == capacity
        else f"{self.replay_items:,} of {capacity:,} items by the end"
    )
    if self.device_limit_bytes is None:
      device = "the host"
    else:
      device = (
          f"{_size(self.device_bytes)} of {_size(self.device_limit_bytes)}:"
          f" {_largest(self.device_parts)}"
      )
    free = (
        "" if self.host_limit_bytes is None
        else f" of {_size(self.host_limit_bytes)}"
    )
    shape = "x".join(map(str, spec.obs_shape))
    return [
        ("world", f"{config.env.task}: {config.env.num_envs} lanes,"
                  f" {shape} {spec.obs_dtype}, {spec.num_actions} actions"),
        ("network", f"{self.num_params:,} parameters"),
        ("item", f"{config.item_rows} rows of {_size(self.row_bytes)}:"
                 f" {_size(self.lone_item_bytes)} alone,"
                 f" {_size(self.stored_item_bytes)} in the replay"
                 f" ({config.replay.backend})"),
        ("replay", f"{held}, {_size(self.replay_bytes)}; before the first"
                   f" update {config.replay.min_sequences:,},"
                   f" {_size(self.min_replay_bytes)}"),
        ("host memory", f"{_size(self.host_bytes)}{free}:"
                        f" {_largest(self.all_host_parts)}"),
        ("device", device),
        ("disk", f"{_size(self.disk_bytes)} of {_size(self.disk_limit_bytes)}:"
                 f" checkpoints of {_size(self.checkpoint_bytes)}"),
        ("to the first update", f"{self.fill_steps:,} steps"),
        ("update", f"{agent.batch_size} x {agent.trace_length - 1} rows: one"
                   f" every {self.steps_per_update:,.0f} steps keeps the ratio"
                   f" at {config.replay.replay_ratio:g}"),
        ("run", f"{run.total_steps:,} steps ="
                f" {run.total_steps * spec.frame_skip:,} frames,"
                f" {self.total_updates:,} updates"),
        ("at 1,000 steps/s", f"first update after"
                             f" {_time(self.fill_steps / 1000)}, then"
                             f" {1000 / self.steps_per_update:.3g} updates/s,"
                             f" the end after {_time(run.total_steps / 1000)}"),
    ]  # fmt: skip

  def warnings(self) -> list[str]:
    """What will run, and probably is not meant."""
    config = self.config
    agent, run = config.agent, config.run
    found = []
    if self.fill_steps >= run.total_steps:
      found.append(
          f"run.total_steps {run.total_steps:,} end before the first update:"
          f" replay.min_sequences {config.replay.min_sequences:,} take"
          f" {self.fill_steps:,} steps"
      )
    elif self.total_updates < agent.target_period_updates:
      found.append(
          f"the target network is never copied: {self.total_updates:,} updates"
          " in the whole run, agent.target_period_updates"
          f" {agent.target_period_updates:,}"
      )
    refresh_steps = run.actor_refresh_steps * config.env.num_envs
    if self.fill_steps < run.total_steps <= refresh_steps:
      found.append(
          "the actors never get new parameters: run.actor_refresh_steps"
          f" {run.actor_refresh_steps:,} for each of {config.env.num_envs} lanes"
          f" are {refresh_steps:,} steps, as long as the run"
      )
    if config.env.num_envs == 1 and agent.epsilon_alpha:
      found.append(
          "env.num_envs 1 has no ladder of epsilons: the one lane explores with"
          f" agent.epsilon_base {agent.epsilon_base:g} for ever"
      )
    rows = agent.batch_size * config.item_rows
    if self.platform == "cpu" and rows * self.num_params > _CPU_UPDATE:
      found.append(
          f"JAX finds no accelerator here: on a CPU an update, {rows:,} rows"
          f" through {self.num_params:,} parameters, takes seconds; install for"
          " one (docs/install.md), or take --preset laptop"
      )
    extra = self.short_episodes_replay_bytes - self.replay_bytes
    limit = self.host_limit_bytes
    if limit is not None and self.host_bytes <= limit < self.host_bytes + extra:
      found.append(
          f"memory may run out: with episodes of about {agent.trace_length} rows"
          " items share less, and the replay takes"
          f" {_size(self.short_episodes_replay_bytes)}"
      )
    return found

  def lines(self) -> list[str]:
    """The plan as plain text, warnings last."""
    return [f"{name}: {text}" for name, text in self.rows()] + [
        f"warning: {text}" for text in self.warnings()
    ]


def make_plan(
    config: Config,
    spec: EnvSpec,
    *,
    host_limit_bytes: float | None = None,
    disk_limit_bytes: float | None = None,
    device_limit_bytes: float | None = None,
    num_devices: int = 1,
    platform: str = "",
) -> Plan:
  """Computes what a run will take.

  With N lanes, L = burn_in + m rows of an item, m of them trained, S = m - overlap
  rows from one item of a lane to its next:

      steps to n items  = N (m - 1 + (ceil(n / N) - 1) S)
      steps per update  = items of a batch x (m - 1) / replay_ratio
      updates           = (total_steps - steps to min_sequences) / steps per update
      checkpoint        = 16 bytes x parameters, + the replay if it is saved
      disk              = (max_to_keep + 1 being written) x checkpoint
                          + 16 bytes x parameters (the best one)

  in long episodes, all rows valid. Memory: see `sizes` and docs/planning.md.

  Args:
    config: validated, its network one that `make_networks` accepts.
    spec: from `world_spec`, or of the world.
    host_limit_bytes: memory to plan with; None takes `limits.memory_gib`, and where
      that is 0 what is free now.
    disk_limit_bytes: None: what is free where `run.run_dir` is, its own
      checkpoints, which will be replaced, counted as free.
    device_limit_bytes: memory of one accelerator; None where the host computes.
    num_devices: that split the learner's batch.
    platform: of the devices, as JAX calls it: 'cpu', 'gpu', 'tpu'.
  """
  agent, replay, run = config.agent, config.replay, config.run
  lanes = config.env.num_envs
  network = network_size(spec, config.network)
  item = item_size(config, spec)
  table = table_bytes(config)

  fill_steps = _steps_to(replay.min_sequences, config)
  steps_per_update = (
      agent.batch_size * (agent.trace_length - 1) / replay.replay_ratio
  )
  held = min(replay.capacity_sequences, _items_after(run.total_steps, config))
  replay_bytes = held * item.stored_bytes + table

  batch_bytes = agent.batch_size * item.lone_bytes
  learner_bytes = _FLOAT_BYTES * _ADAM_STATES * network.num_params
  values_bytes = _FLOAT_BYTES * spec.num_actions
  open_rows = config.item_rows + config.block_rows
  host_parts = [
      Part("replay", replay_bytes),
      Part("programs", _PROGRAM_BYTES[replay.backend]),
      Part("lanes", _LANE_BYTES * (lanes + _eval_lanes(config))),
      Part("open rows", lanes * (
          open_rows * (item.row_bytes + values_bytes) + 2 * item.state_bytes)),
      Part("sampled batches", _HOST_BATCHES[replay.backend] * batch_bytes),
      Part("state being saved", learner_bytes),
      Part("probe", PROBE_ITEMS * (
          item.lone_bytes
          + config.item_rows * 2 * _FLOAT_BYTES * config.network.core_units)),
  ]  # fmt: skip
  if replay.backend == "reverb":
    # What the writer keeps so that neighbours can share it: tables.ReverbReplay.
    kept_rows = 1.5 * lanes * (
        config.item_rows - agent.trace_length + agent.overlap
    )
    own_rows = agent.trace_length - agent.overlap
    host_parts.append(
        Part("writer", kept_rows * item.stored_bytes / own_rows)
    )
  inference = lanes * (
      _FLOAT_BYTES * network.row_numbers + 2 * item.state_bytes
  )
  device_parts = [
      Part("update", update_bytes(config, network, num_devices)),
      Part("parameters", _FLOAT_BYTES * network.num_params * (
          _ADAM_STATES + _ACTOR_COPIES)),
      Part("batches", _DEVICE_BATCHES * batch_bytes / num_devices),
      Part("acting", inference),
  ]  # fmt: skip

  checkpoint_bytes = learner_bytes + replay_bytes * config.checkpoint.save_replay
  if host_limit_bytes is None:
    host_limit_bytes = config.limits.memory_gib * _GIB or free_memory_bytes()
  if disk_limit_bytes is None:
    disk_limit_bytes = _free_disk_bytes(pathlib.Path(run.run_dir))
  return Plan(
      config=config,
      spec=spec,
      num_devices=num_devices,
      platform=platform,
      num_params=network.num_params,
      row_bytes=item.row_bytes,
      lone_item_bytes=item.lone_bytes,
      stored_item_bytes=item.stored_bytes,
      replay_items=held,
      replay_bytes=replay_bytes,
      min_replay_bytes=replay.min_sequences * item.stored_bytes + table,
      short_episodes_replay_bytes=held * item.short_episode_bytes + table,
      host_parts=tuple(host_parts),
      host_limit_bytes=host_limit_bytes,
      device_parts=tuple(device_parts),
      device_limit_bytes=device_limit_bytes,
      checkpoint_bytes=checkpoint_bytes,
      disk_bytes=(config.checkpoint.max_to_keep + 1) * checkpoint_bytes + learner_bytes,
      disk_limit_bytes=disk_limit_bytes,
      fill_steps=fill_steps,
      steps_per_update=steps_per_update,
      total_updates=max(
          0, int((run.total_steps - fill_steps) / steps_per_update)
      ),
  )


def print_plan(plan: Plan, console: Console) -> None:
  """Shows it: a table on a terminal, else one line of text for each number."""
  if not console.is_terminal:
    for line in plan.lines():
      console.print(line, highlight=False, markup=False, soft_wrap=True)
    return
  table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
  table.add_column(style="bold", no_wrap=True)
  table.add_column()
  for name, text in plan.rows():
    table.add_row(name, text)
  for text in plan.warnings():
    table.add_row("[yellow]warning[/]", text)
  console.print(table)


def check_plan(plan: Plan) -> None:
  """Refuses a plan that cannot fit.

  Args:
    plan: from `make_plan`.

  Raises:
    ConfigError: one line for each of host memory, device memory and disk that is
      too small: the setting, what would fit, what came.
  """
  faults = []
  if (limit := plan.host_limit_bytes) is not None and plan.host_bytes > limit:
    faults.append(_host_fault(plan))
  if (limit := plan.device_limit_bytes) is not None:
    if plan.device_bytes > limit:
      faults.append(_device_fault(plan))
  if plan.disk_bytes > plan.disk_limit_bytes:
    faults.append(_disk_fault(plan))
  if faults:
    raise ConfigError("\n".join(faults))


def _host_fault(plan: Plan) -> str:
  config = plan.config
  replay = config.replay
  need = (
      f"the run needs {_size(plan.host_bytes)} of host memory"
      f" ({_size(plan.replay_bytes)} of it replay),"
      f" {_size(plan.host_limit_bytes)} may be used"
  )

  def fits(**sections) -> bool:
    changed = _changed(plan, **sections)
    return changed.host_bytes <= changed.host_limit_bytes

  if most := _most(
      lambda n: fits(replay={"capacity_sequences": n}),
      replay.min_sequences,
      replay.capacity_sequences,
  ):
    fault = (
        f"replay.capacity_sequences: expected at most {most}, got"
        f" {replay.capacity_sequences}; {need}"
    )
  elif most := _most(
      lambda n: fits(
          agent={"batch_size": n},
          replay={"capacity_sequences": replay.min_sequences},
      ),
      1,
      config.agent.batch_size,
  ):
    fault = (
        f"agent.batch_size: expected at most {most}, with"
        f" replay.capacity_sequences {replay.min_sequences}, got"
        f" {config.agent.batch_size} with {replay.capacity_sequences}; {need}"
    )
  elif most := _most(
      lambda n: fits(replay={"capacity_sequences": n, "min_sequences": n}),
      config.agent.batch_size,
      replay.min_sequences,
  ):
    fault = (
        "replay.capacity_sequences, replay.min_sequences: expected both at most"
        f" {most}, got {replay.capacity_sequences} and"
        f" {replay.min_sequences}; {need}"
    )
  else:
    fault = (
        "env.num_envs, agent.batch_size, network: expected fewer lanes, smaller"
        f" batches, a smaller network, got {config.env.num_envs} lanes,"
        f" {config.agent.batch_size} items, {plan.num_params:,} parameters;"
        f" {need}: {_largest(plan.all_host_parts)}"
    )
  if replay.backend == "local" and not config.run.lockstep:
    if fits(replay={"backend": "reverb"}):
      fault += "; or replay.backend 'reverb', which compresses, fits"
  return fault + (
      "; or another limits.memory_gib, the limit" if config.limits.memory_gib else ""
  )


def _device_fault(plan: Plan) -> str:
  most = _most(
      lambda n: _changed(
          plan, agent={"batch_size": n * plan.num_devices}
      ).device_bytes <= plan.device_limit_bytes,
      1,
      plan.config.agent.batch_size // plan.num_devices,
  )  # fmt: skip
  return (
      f"agent.batch_size: expected at most {most * plan.num_devices}, got"
      f" {plan.config.agent.batch_size}; each device needs"
      f" {_size(plan.device_bytes)} ({_largest(plan.device_parts)}) and has"
      f" {_size(plan.device_limit_bytes)}"
      + ("" if most else ": a smaller network, or fewer env.num_envs")
  )


def _disk_fault(plan: Plan) -> str:
  keep = plan.config.checkpoint.max_to_keep
  fits = lambda **changes: (
      _changed(plan, checkpoint=changes).disk_bytes <= plan.disk_limit_bytes
  )
  ways = []
  if most := _most(lambda n: fits(max_to_keep=n), 1, keep):
    ways.append(f"at most {most}")
  if plan.config.checkpoint.save_replay and fits(save_replay=False):
    ways.append("checkpoint.save_replay False")
  ways = ways or ["a run.run_dir on a larger disk"]
  return (
      f"checkpoint.max_to_keep: expected {' or '.join(ways)}, got {keep};"
      f" checkpoints take {_size(plan.disk_bytes)} of disk (each"
      f" {_size(plan.checkpoint_bytes)}, one more while it is written),"
      f" {_size(plan.disk_limit_bytes)} are free"
  )


def _changed(plan: Plan, **sections: dict) -> Plan:
  """The plan with other settings and the same limits."""
  config = dataclasses.replace(plan.config, **{
      name: dataclasses.replace(getattr(plan.config, name), **changes)
      for name, changes in sections.items()
  })  # fmt: skip
  return make_plan(
      config,
      plan.spec,
      host_limit_bytes=plan.host_limit_bytes,
      disk_limit_bytes=plan.disk_limit_bytes,
      device_limit_bytes=plan.device_limit_bytes,
      num_devices=plan.num_devices,
  )


def _most(fits: Callable[[int], bool], low: int, high: int) -> int:
  """The largest n in [low, high] that fits; 0 if low does not."""
  if low > high or not fits(low):
    return 0
  while low < high:
    middle = (low + high + 1) // 2
    low, high = (middle, high) if fits(middle) else (low, middle - 1)
  return low


def _steps_to(items: int, config: Config) -> int:
  """Steps of all lanes until there are so many items, in long episodes."""
  agent, lanes = config.agent, config.env.num_envs
  period = agent.trace_length - agent.overlap
  # The first row of an episode completes no step.
  return lanes * (agent.trace_length - 1 + (-(-items // lanes) - 1) * period)


def _items_after(steps: int, config: Config) -> int:
  """Items after so many steps of all lanes, in long episodes; at least one."""
  agent, lanes = config.agent, config.env.num_envs
  period = agent.trace_length - agent.overlap
  further = (steps // lanes - (agent.trace_length - 1)) // period
  return lanes * max(1 + further, 1)


def free_memory_bytes() -> float | None:
  """Host memory that could be had now; None where the system does not tell.

  Linux's MemAvailable, or what is left of the control group's limit (containers,
  cluster jobs) if that is less.
  """
  try:
    meminfo = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    groups = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8")
  except OSError:
    return None
  available = [
      1024.0 * int(line.split()[1])
      for line in meminfo.splitlines() if line.startswith("MemAvailable:")
  ]  # fmt: skip
  root = pathlib.Path("/sys/fs/cgroup")
  for line in groups.splitlines():
    if line.startswith("0::/"):
      own = root / line[len("0::/"):]
      available += [
          left for group in (own, *own.parents)
          if (left := _left_in_group(group)) is not None
      ]  # fmt: skip
  return min(available, default=None)


def _left_in_group(group: pathlib.Path) -> float | None:
  """Memory left in a control group (version 2); None if it has no limit."""
  try:
    limit = (group / "memory.max").read_text(encoding="ascii").strip()
    used = int((group / "memory.current").read_text(encoding="ascii"))
    stat = (group / "memory.stat").read_text(encoding="ascii")
  except OSError:
    return None
  if limit == "max":
    return None
  # Cached files count as used, and go when memory is wanted.
  cached = dict(line.split() for line in stat.splitlines())["inactive_file"]
  return float(int(limit) - used + int(cached))


def _free_disk_bytes(run_dir: pathlib.Path) -> float:
  """Free where the directory is or will be, its old checkpoints counted as free."""
  existing = run_dir.absolute()
  try:
    while not existing.exists():
      existing = existing.parent
  except OSError as error:  # a name that is too long
    raise ConfigError(
        f"run.run_dir: expected the name of a directory, got {run_dir}:"
        f" {error.strerror}"
    ) from error
  old = checkpoints_dir(run_dir).rglob("*")
  return shutil.disk_usage(existing).free + sum(
      path.stat().st_size for path in old if path.is_file()
  )


def _eval_lanes(config: Config) -> int:
  return config.evaluation.num_lanes if config.evaluation.num_episodes else 0


def _largest(parts: tuple[Part, ...]) -> str:
  """The three largest parts in words."""
  largest = sorted(parts, key=lambda part: -part.num_bytes)[:3]
  return ", ".join(f"{part.name} {_size(part.num_bytes)}" for part in largest)


def _size(num_bytes: float) -> str:
  """Bytes for people: three digits and a unit."""
  for unit, size in (("GiB", _GIB), ("MiB", _MIB), ("KiB", 1024)):
    if num_bytes >= size:
      # Without a fraction where three digits are there already.
      value = num_bytes / size
      return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
  return f"{num_bytes:.0f} bytes"


def _time(seconds: float) -> str:
  """Seconds for people."""
  for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
    if seconds >= size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.1f} s"
