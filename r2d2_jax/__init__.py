"""R2D2 (Kapturowski et al., ICLR 2019) in JAX, with EnvPool and Reverb.

The names below are public and documented in docs/api.md; everything else may
change. Each is imported when it is first asked for: `import r2d2_jax` alone
takes milliseconds, and settings need no JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that has it.
_HOMES = {
  "Agent": "r2d2_jax.agent.agent",
  "Config": "r2d2_jax.config",
  "ConfigError": "r2d2_jax.config",
  "LocalReplay": "r2d2_jax.replay.local",
  "SequenceBuilder": "r2d2_jax.replay.sequences",
  "Torso": "r2d2_jax.agent.torsos",
  "Core": "r2d2_jax.agent.cores",
  "UserError": "r2d2_jax.config",
  "WorldError": "r2d2_jax.envs.check",
  "burn_in": "r2d2_jax.agent.loss",
  "check_world": "r2d2_jax.envs.check",
  "compile_actor": "r2d2_jax.agent.acting",
  "compile_learner": "r2d2_jax.agent.learning",
  "epsilon_ladder": "r2d2_jax.agent.acting",
  "example_batch": "r2d2_jax.system.example",
  "evaluate": "r2d2_jax.system.evaluation",
  "gymnasium_world": "r2d2_jax.envs.gymnasium_make",
  "importance_weights": "r2d2_jax.agent.priorities",
  "init_learner_state": "r2d2_jax.agent.learning",
  "initial_priorities": "r2d2_jax.agent.acting",
  "learner_step": "r2d2_jax.agent.learning",
  "load_agent": "r2d2_jax.system.storage.agents",
  "make_actor": "r2d2_jax.agent.acting",
  "make_impala_agent": "r2d2_jax.agent.agent",
  "make_learner": "r2d2_jax.agent.learning",
  "make_networks": "r2d2_jax.agent.networks",
  "make_optimizer": "r2d2_jax.agent.learning",
  "make_r2d2_agent": "r2d2_jax.agent.agent",
  "make_replay": "r2d2_jax.replay.make",
  "make_world": "r2d2_jax.envs.make",
  "n_step_td_error": "r2d2_jax.agent.targets",
  "q_discrepancy": "r2d2_jax.agent.diagnostics",
  "sequence_loss": "r2d2_jax.agent.loss",
  "sequence_priorities": "r2d2_jax.agent.priorities",
  "stack_items": "r2d2_jax.replay.items",
  "train": "r2d2_jax.system.train",
  "validate": "r2d2_jax.config",
  "vector_world": "r2d2_jax.envs.gymnasium_make",
}
# Public modules.
_MODULES = ("config", "presets", "types")

# Said once, above: a list for the type checker would be a second one.
__all__ = list(_HOMES) + list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
