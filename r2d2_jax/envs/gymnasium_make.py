"""Worlds of Gymnasium's environments, from a name or a function."""

from collections.abc import Callable
import functools

import gymnasium
from gymnasium import vector

from r2d2_jax.config import ConfigError, EnvConfig
from r2d2_jax.envs.action_spaces import actions_of
from r2d2_jax.envs.gymnasium_lanes import make_lane, task_name
from r2d2_jax.envs.gymnasium_world import GymnasiumWorld, spec_of
from r2d2_jax.envs.spaces import observations_of
from r2d2_jax.envs.vector_calls import ProcessCalls, Processes, ThreadCalls
from r2d2_jax.types import EnvSpec

MakeEnv = str | Callable[[], gymnasium.Env]


def gymnasium_world(
  make_env: MakeEnv, config: EnvConfig, *, seed: int
) -> GymnasiumWorld:
  """Lanes of one Gymnasium task, as the settings say.

  Args:
    make_env: "gymnasium:ID", "package.module:function", or a function that
      returns an environment; it is called once for each lane, and twice more.
    config: lanes, `vectorization`, `step_timeout_seconds`, the cap.
    seed: as for `make_world`.

  Raises:
    ConfigError, MissingPackageError: as `make_lane` and `gymnasium_spec` raise
      them; or the settings ask for what Gymnasium's lanes cannot do.
    Exception: whatever the function raises.
  """
  _check_settings(config)
  has_mask = config.action_mask
  # refuses, before any lane stands
  gymnasium_spec(make_env, action_mask=has_mask)
  lanes = [
    functools.partial(make_lane, make_env, i, reads_mask=has_mask)
    for i in range(config.num_envs)
  ]
  task = task_name(make_env)
  options = {"task": task, "timeout_seconds": config.step_timeout_seconds}
  if config.vectorization == "async":
    calls = ProcessCalls(
      lambda context: Processes(lanes, context=context, copy=False),
      **options,
    )
  else:
    calls = ThreadCalls(
      lambda: vector.SyncVectorEnv(lanes, copy=False), **options
    )
  return GymnasiumWorld(
    calls,
    task=task,
    seed=seed,
    max_episode_steps=config.max_episode_frames,
    action_mask=has_mask,
  )


def vector_world(
  make: Callable[[], vector.VectorEnv],
  *,
  seed: int,
  max_episode_steps: int = 108_000,
  timeout_seconds: float = 60.0,
  action_mask: bool = False,
) -> GymnasiumWorld:
  """A world of a vector environment of one's own, in any autoreset mode.

  Args:
    make: makes it; it has to reset single lanes by options["reset_mask"], as
      Gymnasium's own do, where it does not reset in the next step, or where
      episodes are cut by the cap.
    seed: non-negative.
    max_episode_steps: steps after which an episode is truncated.
    timeout_seconds: for one step of all lanes; 0 waits for ever.
    action_mask: whether infos["action_mask"] says which actions may be taken,
      an array [lanes, actions] of zeros and ones.

  Raises:
    ConfigError: its spaces do not suit this agent.
    Exception: whatever `make` raises.
  """
  calls = ThreadCalls(make, task="vector", timeout_seconds=timeout_seconds)
  return GymnasiumWorld(
    calls,
    task=str(calls.env),
    seed=seed,
    max_episode_steps=max_episode_steps,
    action_mask=action_mask,
  )


def gymnasium_spec(make_env: MakeEnv, *, action_mask: bool = False) -> EnvSpec:
  """What the agent needs to know: makes one environment, and closes it.

  Args:
    make_env: as for `gymnasium_world`.
    action_mask: whether its infos say which actions may be taken.

  Raises:
    ConfigError: no such task, or its spaces do not suit this agent.
    MissingPackageError: the task needs a package that is not installed.
    Exception: whatever making it raises.
  """
  env = make_lane(make_env)
  try:
    task = task_name(make_env)
    return spec_of(
      observations_of(task, env.observation_space),
      actions_of(task, env.action_space),
      action_mask=action_mask,
    )
  finally:
    env.close()


def gymnasium_action_names(task: str) -> list[str]:
  """What an environment calls its actions; [] where it does not say.

  Its attribute `action_names`, or what `get_action_meanings()` gives, as the
  environments of Atari have it.
  """
  env = make_lane(task)
  try:
    inner = env.unwrapped
    names = getattr(inner, "action_names", None)
    if names is None:
      names = getattr(inner, "get_action_meanings", list)()
    return [str(name) for name in names]
  finally:
    env.close()


def _check_settings(config: EnvConfig) -> None:
  if config.batch_size not in (0, config.num_envs):
    raise ConfigError(
      "env.batch_size: expected 0 for a task of Gymnasium, whose lanes step"
      f" together, got {config.batch_size}"
    )
  if config.life_loss != "ignore":
    raise ConfigError(
      f"life_loss={config.life_loss!r} is for Atari games of EnvPool: use"
      " life_loss='ignore'."
    )
