"""What a configuration is refused for, before anything starts."""

from collections.abc import Callable
import dataclasses
from typing import Any, Literal, get_args, get_origin

from r2d2_jax.config.config import NAMES, Config, shown
from r2d2_jax.config.errors import ConfigError

# EnvPool and JAX count in 32 bits; steps are counted in Python alone, but must
# be whole where a log holds them as floats.
_MAX_INT = 2**31 - 1
_MAX_STEPS = 2**53
# Far from what is finite in Python and infinite in float32.
_MAX_FLOAT = 1e30


def validate(config: Config) -> None:
  """Refuses settings that cannot work.

  Args:
    config: to be checked; nothing is changed.

  Raises:
    ConfigError: one line for each setting at fault: the field, what was
      expected, what came, what to do.
  """
  check_types(config)
  faults: list[str] = []

  def need(ok: bool, field: str, expected: str, hint: str = "") -> None:
    if not ok:
      faults.append(
        f"{field}: expected {expected}, got {shown(config.setting(field))}"
        + (f"; {hint}" if hint else "")
      )

  env, network, agent = config.env, config.network, config.agent
  replay, run = config.replay, config.run

  need(bool(env.task.strip()), "env.task", "the name of a game or task")
  for field in (
    "env.task",
    "env.make_world",
    "network.torso",
    "network.core",
    "agent.make_agent",
    "run.run_dir",
    "log.wandb_project",
  ):
    need(config.setting(field).isprintable(), field, "printable characters")
  for name, field in NAMES.items():
    if bounds := field.metadata.get("bounds"):
      expected = bounds.fault(config.setting(name), _most(field))
      need(not expected, name, expected)
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
  need(
    network.core_memory_rows != 1,
    "network.core_memory_rows",
    "0, or at least 2 rows",
  )
  need(
    not network.core_memory_rows or network.core not in ("feedforward", "none"),
    "network.core_memory_rows",
    f"0 with network.core '{network.core}'",
    "it has no gates",
  )
  channels = network.torso_channels
  need(
    0 < min(channels, default=0) and max(channels) <= _MAX_INT,
    "network.torso_channels",
    f"one or more numbers above 0 and at most {_MAX_INT}",
  )
  need(
    network.torso not in ("nature", "impala", "auto") or len(channels) == 3,
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
  if not faults and config.chunk_rows < 4 and config.item_rows > 16:
    ahead = agent.lookahead_rows
    faults.append(
      "agent.burn_in, agent.trace_length, agent.overlap"
      + (", agent.lookahead_rows" if ahead else "")
      + ": expected numbers"
      " with a common divisor of at least 4 (replay stores rows in blocks of"
      f" that length), got {agent.burn_in}, {agent.trace_length},"
      f" {agent.overlap}"
      + (f", {ahead}" if ahead else "")
      + f" with {config.block_rows}; e.g. 40, 80, 40"
      + (", 4" if ahead else "")
    )
  need(
    replay.min_sequences >= agent.batch_size,
    "replay.min_sequences",
    f"at least agent.batch_size ({agent.batch_size})",
    "a batch is drawn from that many items",
  )
  _check_policy(config, need)
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


def _check_policy(config: Config, need: Callable[..., None]) -> None:
  """What an agent with a policy asks of items, and a queue of the replay."""
  agent, replay = config.agent, config.replay
  if agent.has_policy:
    name = f"agent.algorithm '{agent.algorithm}'"
    need(agent.burn_in == 0, "agent.burn_in", f"0 with {name}")
    need(agent.lookahead_rows == 0, "agent.lookahead_rows", f"0 with {name}")
    need(
      not agent.value_rescaling,
      "agent.value_rescaling",
      f"false with {name}",
      "its values are of the rewards themselves",
    )
    need(
      replay.order == "fifo",
      "replay.order",
      f"'fifo' with {name}",
      "it learns from each row once, soon after it was played",
    )
    if agent.algorithm == "a3c":
      need(
        agent.batch_size == 1,
        "agent.batch_size",
        f"1 with {name}",
        "a worker learns from its own unroll",
      )
      need(
        config.env.batch_size == 0,
        "env.batch_size",
        f"0 with {name}",
        "each lane steps in a thread of its own",
      )
      need(
        replay.backend == "local",
        "replay.backend",
        f"'local' with {name}",
        "there is no replay, an unroll is used where it was played",
      )
  elif replay.order == "fifo":
    need(
      bool(agent.make_agent),
      "replay.order",
      "'priority' with agent.algorithm 'r2d2'",
      "a queue gives no priorities back",
    )
  if replay.order == "fifo":
    need(agent.overlap == 1, "agent.overlap", "1 with replay.order 'fifo'")
    need(
      replay.replay_ratio == 1.0,
      "replay.replay_ratio",
      "1 with replay.order 'fifo'",
      "each transition is trained on once",
    )
    need(
      replay.initial_priority == "actor",
      "replay.initial_priority",
      "'actor' with replay.order 'fifo'",
      "a queue has no priorities",
    )
    least = replay.min_sequences + config.most_new_items
    need(
      replay.capacity_sequences >= least,
      "replay.capacity_sequences",
      f"at least {least} with replay.order 'fifo': replay.min_sequences"
      f" ({replay.min_sequences}), and {config.most_new_items} for a step of"
      " all lanes",
      "else the learner and the actors would wait for each other",
    )


def _most(field: dataclasses.Field) -> float:
  """The largest value that a number may have, whatever it means."""
  if field.type is float:
    return _MAX_FLOAT
  return _MAX_STEPS if field.name.endswith("_steps") else _MAX_INT


def check_types(config: Config) -> None:
  """Refuses values of another type: Python's dataclasses take anything."""
  faults = []
  for name, field in NAMES.items():
    value = config.setting(name)
    if not _has_type(value, field.type):
      faults.append(
        f"{name}: expected {_type_name(field.type)}, got {shown(value)}"
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
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
  }[type_]
