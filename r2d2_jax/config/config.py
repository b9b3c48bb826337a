"""The whole configuration, its settings' names, and copies with changes."""

from collections.abc import Mapping
import dataclasses
import difflib
import math
import reprlib
from typing import Any

from r2d2_jax.config.errors import ConfigError
from r2d2_jax.config.sections import (
  AgentConfig,
  CheckpointConfig,
  EnvConfig,
  EvaluationConfig,
  LimitsConfig,
  LogConfig,
  NetworkConfig,
  ReplayConfig,
  RunConfig,
)


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything."""

  env: EnvConfig = EnvConfig()
  network: NetworkConfig = NetworkConfig()
  agent: AgentConfig = AgentConfig()
  replay: ReplayConfig = ReplayConfig()
  run: RunConfig = RunConfig()
  log: LogConfig = LogConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  limits: LimitsConfig = LimitsConfig()

  def updated(self, settings: Mapping[str, Any]) -> "Config":
    """A copy with some settings changed: `config.updated({"run.seed": 1})`.

    Values are checked by `validate`, not here.

    Args:
      settings: "section.name" -> value.

    Raises:
      ConfigError: there is no such setting.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
      section, _, field = name.partition(".")
      if name not in NAMES:
        raise ConfigError(unknown_setting(name))
      sections.setdefault(section, {})[field] = value
    return dataclasses.replace(
      self,
      **{
        section: dataclasses.replace(getattr(self, section), **fields)
        for section, fields in sections.items()
      },
    )

  def setting(self, name: str) -> Any:
    """The value of "section.name"."""
    section, _, field = name.partition(".")
    return getattr(getattr(self, section), field)

  @property
  def item_rows(self) -> int:
    """Rows of one replay item: burn-in, trained part, lookahead."""
    return self.agent.item_rows

  @property
  def block_rows(self) -> int:
    """Rows of one block: the longest that the four lengths of items share."""
    a = self.agent
    return math.gcd(a.burn_in, a.trace_length, a.overlap, a.lookahead_rows)

  @property
  def chunk_rows(self) -> int:
    """Rows that Reverb stores as one: a block; in a queue, a whole item."""
    is_queue = self.replay.order == "fifo"
    return self.item_rows if is_queue else self.block_rows

  @property
  def env_batch(self) -> int:
    """Lanes per step."""
    return self.env.batch_size or self.env.num_envs

  @property
  def most_new_items(self) -> int:
    """Items that a step may complete, where neighbours share one row at most.

    Two of a lane: one that is full and, of a row that ends one episode and
    begins the next, the rest. A worker has one lane, and a queue of its own.
    """
    return 2 if self.agent.algorithm == "a3c" else 2 * self.env_batch


# Section -> its dataclass.
SECTIONS: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(Config)}
NAMES: dict[str, dataclasses.Field] = {
  f"{section}.{field.name}": field
  for section, settings in SECTIONS.items()
  for field in dataclasses.fields(settings)
}
# Settings that once had another name -> today's.
RENAMED = {
  "run.log_seconds": "log.period_seconds",
  "run.log_updates": "log.period_updates",
  "run.tensorboard": "log.tensorboard",
  "run.wandb_project": "log.wandb_project",
  "run.checkpoint_minutes": "checkpoint.period_minutes",
  "run.checkpoint_updates": "checkpoint.period_updates",
  "run.checkpoint_replay": "checkpoint.save_replay",
  "run.keep_checkpoints": "checkpoint.max_to_keep",
  "run.eval_period_steps": "evaluation.period_steps",
  "run.eval_episodes": "evaluation.num_episodes",
  "run.eval_epsilon": "evaluation.epsilon",
  "run.eval_lanes": "evaluation.num_lanes",
  "run.max_td_error": "limits.max_td_error",
  "run.memory_gib": "limits.memory_gib",
}


def renamed(name: str) -> str:
  """What a setting of an older version is called now; "" where nobody knows."""
  return RENAMED.get(name, "")


def unknown_setting(name: str) -> str:
  """What to tell who gave a setting that does not exist, "section.name"."""
  if name in RENAMED:
    return f"{name}: this setting is called {RENAMED[name]} now"
  close = difflib.get_close_matches(name, NAMES, n=3)
  return f"unknown setting {shown(name)}" + (
    f"; is it {' or '.join(close)}?"
    if close
    else "; expected section.name, of the sections "
    + ", ".join(f.name for f in dataclasses.fields(Config))
  )


def shown(value: Any) -> str:
  """repr, of a readable length."""
  shorter = reprlib.Repr()
  shorter.maxstring = shorter.maxother = 120
  return shorter.repr(value)
