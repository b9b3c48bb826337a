"""Settings: what they are, which of them cannot work, how they are stored.

Nothing here imports jax: a command line can read it in milliseconds.
"""

from r2d2_jax.config.checks import validate
from r2d2_jax.config.config import Config, renamed, unknown_setting
from r2d2_jax.config.conversion import from_dict, to_dict, with_new_names
from r2d2_jax.config.errors import (
  ConfigError,
  FileError,
  MissingPackageError,
  UserError,
  first_line,
)
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

__all__ = [
  "AgentConfig",
  "CheckpointConfig",
  "Config",
  "ConfigError",
  "EnvConfig",
  "EvaluationConfig",
  "FileError",
  "LimitsConfig",
  "LogConfig",
  "MissingPackageError",
  "NetworkConfig",
  "ReplayConfig",
  "RunConfig",
  "UserError",
  "first_line",
  "from_dict",
  "renamed",
  "to_dict",
  "unknown_setting",
  "validate",
  "with_new_names",
]
