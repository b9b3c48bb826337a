"""Every number of a run: frozen dataclasses, one default each, its source beside it.

The defaults are the published agent (Kapturowski et al., ICLR 2019; "table 2" is
its appendix). Presets that differ live in `experiments/configs/presets.py`.
`validate` refuses a configuration that cannot work before anything starts.
Nothing here imports jax: a command line can read it in milliseconds.
"""

import dataclasses
import math
import reprlib
from typing import Any, Literal, get_args, get_origin

# pylint: disable=pointless-string-statement

# EnvPool and JAX count in 32 bits; steps are counted in Python alone, but must be
# whole where a log holds them as floats.
_MAX_INT = 2**31 - 1
_MAX_STEPS = 2**53
# Far from what is finite in Python and infinite in float32.
_MAX_FLOAT = 1e30
_STEPS = ("run.total_steps", "run.eval_period_steps")


class ConfigError(ValueError):
  """A setting cannot work: says what was expected, what came, and what to do."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
  """The world: one EnvPool task, played in many lanes side by side."""

  task: str = "Pong"
  """Game or task: an Atari name (Pong, MsPacman), an EnvPool id
  (MiniGrid-MemoryS7-v0, Catch-v0), or the built-in 'recall' and
  'recall-long'."""
  num_envs: int = 256
  """Lanes: environments stepped side by side (table 2: 256 actors)."""
  batch_size: int = 0
  """Lanes per step; 0 means all of them. Fewer than num_envs steps
  asynchronously: whichever lanes are ready first."""
  num_threads: int = 0
  """Threads that step the environments; 0 lets EnvPool choose."""
  frame_skip: int = 4
  """Raw frames per agent step, the maximum of the last two shown (section 2.3).
  Atari and VizDoom only."""
  full_action_space: bool = True
  """Atari: all 18 actions (section 2.3) instead of the game's own few."""
  noop_max: int = 30
  """Atari: up to this many random no-ops, in raw frames, begin an episode
  (appendix; 1 is the least EnvPool knows)."""
  sticky_action_probability: float = 0.0
  """Atari: chance that a raw frame repeats the action before it (paper: 0)."""
  fire_on_reset: bool = False
  """Atari: press FIRE when an episode begins (paper: never)."""
  max_episode_frames: int = 108_000
  """Raw frames after which an episode is truncated: 30 minutes of Atari (section
  2.3). A truncation, not an end: the value is bootstrapped through it."""
  life_loss: Literal["ignore", "roll", "reset"] = "ignore"
  """Atari, loss of a life: 'ignore' it (the agent), 'roll' (no bootstrap, state
  carried on) or 'reset' (no bootstrap, state reset): figure 8's ablation."""
  flicker_probability: float = 0.0
  """Chance that an observation is blanked (talk, slide 31; DRQN uses 0.5)."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The network: torso, core and duelling head."""

  torso: str = "nature"
  """'nature': DQN's three convolutions (appendix); 'impala': the 15-layer
  residual torso; 'grid': one-hot planes for MiniGrid; 'mlp': flat inputs; or
  'module:name' of your own."""
  torso_channels: tuple[int, ...] = (32, 64, 64)
  """Channels of the torso's three stages (nature, impala), or units of its
  layers (grid, mlp)."""
  torso_units: int = 512
  """Units of the linear layer between convolutions and core; 0 leaves it out."""
  core: str = "lstm"
  """'lstm' (the agent), 'gru', or 'feedforward' (its ablation, figure 7): a linear
  layer with ReLU of the same width, no state; or 'module:name' of your own."""
  core_units: int = 512
  """Units of the core (appendix: LSTM 512)."""
  head_units: int = 512
  """Hidden units of each of the two duelling streams (appendix: 512)."""
  frame_stack: int = 4
  """Frames that the torso sees at once (section 2.3: 4); part of the recurrent
  state, rebuilt from single frames. 1 for tasks other than Atari."""
  use_previous_action: bool = True
  """Feed the one-hot previous action to the core (appendix)."""
  use_previous_reward: bool = True
  """Feed the previous reward to the core (appendix)."""
  compute_dtype: Literal["float32", "bfloat16"] = "float32"
  """Type of the torso's and core's arithmetic; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class AgentConfig:
  """The algorithm."""

  burn_in: int = 40
  """Rows unrolled before the trained part, without gradient (table 2: 40)."""
  trace_length: int = 80
  """Rows of the trained part, m (table 2: 80)."""
  overlap: int = 40
  """Rows that the trained parts of neighbouring items share (table 2: 40). At
  least 1: the transition between two items belongs to their shared rows."""
  start_state: Literal["stored", "zero"] = "stored"
  """State in which the unroll of a replayed item begins (section 3)."""
  n_step: int = 5
  """Steps of the return before the bootstrap (section 2.3: 5)."""
  discount: float = 0.997
  """Gamma, per agent step (section 2.3)."""
  value_rescaling: bool = True
  """Learn h(Q) with h(x) = sign(x)(sqrt(|x| + 1) - 1) + eps x (section 2.3)."""
  value_rescaling_epsilon: float = 1e-3
  """eps of h (section 2.3)."""
  reward_clip: float = 0.0
  """Clip rewards to [-x, x] for learning; 0 leaves them (section 2.3: off)."""
  priority_eta: float = 0.9
  """Priority = eta max|td| + (1 - eta) mean|td| (section 2.3)."""
  importance_exponent: float = 0.6
  """Exponent of the importance weights (table 2: 0.6; the submission: 0)."""
  target_period_updates: int = 2500
  """Updates between copies to the target network (section 2.3)."""
  batch_size: int = 64
  """Items per update (table 2)."""
  learning_rate: float = 1e-4
  """Adam's step size (table 2)."""
  adam_epsilon: float = 1e-3
  """Adam's epsilon (table 2)."""
  max_grad_norm: float = 40.0
  """Global norm to which gradients are clipped (Ape-X: 40)."""
  epsilon_base: float = 0.4
  """Exploration of lane i: base^(1 + alpha i / (N - 1)) (table 2, Ape-X)."""
  epsilon_alpha: float = 7.0
  """alpha of the ladder above (table 2, Ape-X)."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
  """The memory."""

  backend: Literal["reverb", "local"] = "reverb"
  """'reverb': a Reverb server in this process; 'local': numpy in this process,
  the same interface, no server and no open port."""
  capacity_sequences: int = 100_000
  """Items kept; the oldest leave first (table 2: 1e5 overlapping items, 4e6
  observations)."""
  min_sequences: int = 5_000
  """Items before the first update. Not in the paper."""
  priority_exponent: float = 0.9
  """Exponent of the priorities in sampling (section 2.3)."""
  replay_ratio: float = 0.8
  """Trained rows per environment step, burn-in excluded (appendix: about 0.8)."""
  port: int = 0
  """Reverb's port; 0 takes a free one. It listens on every interface, without
  credentials."""
  row_states: bool = False
  """Keep the LSTM state of every row, not only of an item's first: for studies of
  the recurrent state. Costs 8 bytes x core_units for each row."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run: how long, where to, how often."""

  total_steps: int = 1_000_000_000
  """Agent steps (all lanes together); raw frames = steps x frame skip."""
  max_minutes: float = 0.0
  """Wall-clock limit in minutes; 0 for none."""
  seed: int = 0
  """Seed of parameters, exploration and environments."""
  lockstep: bool = False
  """One thread, strictly alternating: the same seed on the same number of devices
  gives the same parameters bit for bit. Needs the local replay."""
  learner_devices: int = 0
  """Devices that split each batch between them; 0 takes as many of those that
  JAX finds as split it evenly. Actors and evaluation use the first one."""
  actor_refresh_steps: int = 400
  """Steps of each lane between refreshes of the actors' parameters (table 2)."""
  run_dir: str = ""
  """Directory for config, log, checkpoints and plots; empty picks
  runs/<task>-<date>."""
  log_seconds: float = 10.0
  """Seconds between rows of the log."""
  log_updates: int = 0
  """Updates between rows of the log; 0 goes by log_seconds instead."""
  tensorboard: bool = True
  """Write TensorBoard's event files too, into the run's directory."""
  wandb_project: str = ""
  """Log to this project of Weights & Biases too; needs
  `pip install wandb 'protobuf<5'`."""
  checkpoint_minutes: float = 10.0
  """Minutes between checkpoints."""
  checkpoint_updates: int = 0
  """Updates between checkpoints; 0 goes by checkpoint_minutes instead."""
  checkpoint_replay: bool = True
  """Save the replay's items with each checkpoint; without them a resumed run
  fills its replay anew. They take as much disk as the replay takes memory."""
  keep_checkpoints: int = 2
  """Newest checkpoints kept. The one that evaluated best is kept besides."""
  max_td_error: float = 1e6
  """The run stops, with a diagnosis, when a batch's mean |td error| is above
  this (unit of the learned values) or not finite."""
  memory_gib: float = 0.0
  """Host memory that the run may plan with; 0 means what is free now."""
  eval_period_steps: int = 5_000_000
  """Agent steps between evaluations during training; 0 evaluates at the end
  only."""
  eval_episodes: int = 10
  """Whole games played in an evaluation; 0 for none."""
  eval_epsilon: float = 0.001
  """Chance of a random action in evaluation."""
  eval_lanes: int = 10
  """Environments that play these games side by side."""


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything."""

  env: EnvConfig = EnvConfig()
  network: NetworkConfig = NetworkConfig()
  agent: AgentConfig = AgentConfig()
  replay: ReplayConfig = ReplayConfig()
  run: RunConfig = RunConfig()

  @property
  def item_rows(self) -> int:
    """Rows of one replay item: burn-in + trace."""
    return self.agent.burn_in + self.agent.trace_length

  @property
  def block_rows(self) -> int:
    """Rows of one block: the longest that burn-in, trace and overlap share."""
    a = self.agent
    return math.gcd(math.gcd(a.burn_in, a.trace_length), a.overlap)

  @property
  def env_batch(self) -> int:
    """Lanes per step."""
    return self.env.batch_size or self.env.num_envs


def validate(config: Config) -> None:
  """Refuses settings that cannot work.

  Args:
    config: to be checked; nothing is changed.

  Raises:
    ConfigError: one line for each setting at fault: the field, what was
      expected, what came, what to do.
  """
  _check_types(config)
  faults: list[str] = []

  def need(ok: bool, field: str, expected: str, hint: str = "") -> None:
    if not ok:
      faults.append(
          f"{field}: expected {expected}, got {_shown(_get(config, field))}"
          + (f"; {hint}" if hint else "")
      )

  def within(ok: bool, field: str, expected: str) -> None:
    value, most = _get(config, field), _most(config, field)
    if value > most:
      expected += f" and at most {most}"
    need(ok and value <= most, field, expected)

  # NaN fails every comparison.
  def at_least(low: float, *fields: str) -> None:
    for field in fields:
      within(_get(config, field) >= low, field, f"at least {low}")

  def above_zero(*fields: str) -> None:
    for field in fields:
      within(_get(config, field) > 0, field, "more than 0")

  def between(low: float, high: float, *fields: str) -> None:
    for field in fields:
      value = _get(config, field)
      need(low <= value <= high, field, f"between {low} and {high}")

  env, network, agent = config.env, config.network, config.agent
  replay, run = config.replay, config.run

  need(bool(env.task.strip()), "env.task", "the name of a game or task")
  for field in ("env.task", "run.run_dir", "run.wandb_project"):
    need(_get(config, field).isprintable(), field, "printable characters")
  at_least(
      1, "env.num_envs", "env.frame_skip", "env.noop_max",
      "env.max_episode_frames",
      "network.core_units", "network.head_units", "network.frame_stack",
      "agent.trace_length", "agent.n_step", "agent.target_period_updates",
      "agent.batch_size", "agent.overlap",
      "replay.capacity_sequences", "replay.min_sequences",
      "run.total_steps", "run.actor_refresh_steps", "run.eval_lanes",
      "run.keep_checkpoints",
  )  # fmt: skip
  at_least(
      0, "env.batch_size", "env.num_threads", "network.torso_units",
      "agent.burn_in", "agent.reward_clip", "agent.importance_exponent",
      "agent.value_rescaling_epsilon", "agent.epsilon_alpha",
      "replay.priority_exponent", "run.max_minutes", "run.eval_episodes",
      "run.seed", "run.learner_devices", "run.log_updates",
      "run.checkpoint_updates", "run.eval_period_steps", "run.memory_gib",
  )  # fmt: skip
  above_zero(
      "agent.learning_rate", "agent.adam_epsilon", "agent.max_grad_norm",
      "replay.replay_ratio", "run.log_seconds", "run.checkpoint_minutes",
      "run.max_td_error",
  )  # fmt: skip
  between(
      0, 1, "env.sticky_action_probability", "env.flicker_probability",
      "agent.discount", "agent.priority_eta", "agent.epsilon_base",
      "run.eval_epsilon",
  )  # fmt: skip
  between(0, 65535, "replay.port")
  if faults:  # how numbers go together is of no use where one is impossible
    raise ConfigError("\n".join(faults))
  need(
      run.learner_devices <= 0 or agent.batch_size % run.learner_devices == 0,
      "run.learner_devices",
      f"a divisor of agent.batch_size ({agent.batch_size})",
      "each device takes the same number of items",
  )
  need(
      env.max_episode_frames >= env.frame_skip,
      "env.max_episode_frames",
      f"at least one agent step ({env.frame_skip} frames)",
  )
  need(
      env.batch_size <= env.num_envs,
      "env.batch_size",
      f"at most env.num_envs ({env.num_envs})",
      "0 steps all lanes together",
  )
  need(
      env.num_threads <= env.num_envs,
      "env.num_threads",
      f"at most env.num_envs ({env.num_envs})",
      "0 lets EnvPool choose",
  )
  channels = network.torso_channels
  need(
      0 < min(channels, default=0) and max(channels) <= _MAX_INT,
      "network.torso_channels",
      f"one or more numbers above 0 and at most {_MAX_INT}",
  )
  need(
      network.torso not in ("nature", "impala") or len(channels) == 3,
      "network.torso_channels",
      f"three numbers for torso '{network.torso}'",
  )
  need(
      agent.trace_length >= 2,
      "agent.trace_length",
      "at least 2 rows",
      "a transition needs two",
  )
  need(
      agent.overlap < agent.trace_length,
      "agent.overlap",
      f"less than agent.trace_length ({agent.trace_length})",
      "neighbouring items share this many trained rows",
  )
  if not faults and config.block_rows < 4 and config.item_rows > 16:
    faults.append(
        "agent.burn_in, agent.trace_length, agent.overlap: expected numbers"
        " with a common divisor of at least 4 (replay stores rows in blocks of"
        f" that length), got {agent.burn_in}, {agent.trace_length},"
        f" {agent.overlap} with {config.block_rows}; e.g. 40, 80, 40"
    )
  need(
      replay.min_sequences >= agent.batch_size,
      "replay.min_sequences",
      f"at least agent.batch_size ({agent.batch_size})",
      "a batch is drawn from that many items",
  )
  need(
      replay.capacity_sequences >= replay.min_sequences,
      "replay.capacity_sequences",
      f"at least replay.min_sequences ({replay.min_sequences})",
  )
  need(
      not (run.lockstep and replay.backend == "reverb"),
      "replay.backend",
      "'local' with run.lockstep",
      "Reverb's sampling cannot be seeded, so the run could not be repeated",
  )
  need(
      not (run.lockstep and config.env_batch != env.num_envs),
      "env.batch_size",
      "0 with run.lockstep",
      "asynchronous lanes arrive in no fixed order",
  )
  if faults:
    raise ConfigError("\n".join(faults))


def _get(config: Config, field: str) -> Any:
  section, name = field.split(".")
  return getattr(getattr(config, section), name)


def _most(config: Config, field: str) -> float:
  """The largest value that a number may have, whatever it means."""
  section, name = field.split(".")
  types = {f.name: f.type for f in dataclasses.fields(getattr(config, section))}
  if types[name] is float:
    return _MAX_FLOAT
  return _MAX_STEPS if field in _STEPS else _MAX_INT


def to_dict(config: Config) -> dict:
  """The configuration as plain nested dicts, for JSON."""
  return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
  """The inverse of `to_dict`; what is missing takes its default.

  Raises:
    ConfigError: a section or setting is unknown, or of the wrong type.
  """
  known = {f.name: f.type for f in dataclasses.fields(Config)}
  if not isinstance(values, dict):
    raise ConfigError(
        f"expected the sections {', '.join(known)}, got {_shown(values)}"
    )
  sections = {}
  for section, fields in values.items():
    if section not in known:
      raise ConfigError(
          f"unknown section {_shown(section)}; expected one of"
          f" {', '.join(known)}"
      )
    if not isinstance(fields, dict):
      raise ConfigError(
          f"{section}: expected settings by name, got {_shown(fields)}"
      )
    names = {f.name for f in dataclasses.fields(known[section])}
    if unknown := sorted(set(fields) - names):
      raise ConfigError(f"{section}: unknown settings {_shown(unknown)}")
    # JSON has no tuples.
    fields = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }
    sections[section] = known[section](**fields)
  config = Config(**sections)
  _check_types(config)
  return config


def _check_types(config: Config) -> None:
  """Refuses values of another type: Python's dataclasses take anything."""
  faults = []
  for section in dataclasses.fields(config):
    for field in dataclasses.fields(section.type):
      value = getattr(getattr(config, section.name), field.name)
      if not _has_type(value, field.type):
        faults.append(
            f"{section.name}.{field.name}: expected {_type_name(field.type)},"
            f" got {_shown(value)}"
        )
  if faults:
    raise ConfigError("\n".join(faults))


def _has_type(value: Any, type_: Any) -> bool:
  if get_origin(type_) is Literal:
    return isinstance(value, str) and value in get_args(type_)
  if get_origin(type_) is tuple:
    return isinstance(value, tuple) and all(_has_type(x, int) for x in value)
  if isinstance(value, bool):  # to Python it is an int
    return type_ is bool
  return isinstance(value, (int, float) if type_ is float else type_)


def _type_name(type_: Any) -> str:
  if get_origin(type_) is Literal:
    return "one of " + ", ".join(map(repr, get_args(type_)))
  if get_origin(type_) is tuple:
    return "a list of whole numbers"
  return {
      bool: "true or false", int: "a whole number", float: "a number",
      str: "text",
  }[type_]  # fmt: skip


def _shown(value: Any) -> str:
  """repr, of a readable length."""
  shorter = reprlib.Repr()
  shorter.maxstring = shorter.maxother = 120
  return shorter.repr(value)
