"""What differs between EnvPool's families: options, observations, actions.

| family | options | observation |
|---|---|---|
| Atari | all of EnvConfig | uint8 [84, 84], grey |
| VizDoom | frame_skip | uint8 [84, 84] grey or [84, 84, 3], as the scenario says |
| MiniGrid | | uint8 [7, 7, 3]: the image; direction and mission are left out |
| Procgen | | uint8 [64, 64, 3] |
| any other with a Box or Discrete observation (Catch, FrozenLake, CartPole) | | as it comes, floats as float32, a state number as one-hot float32 |

Where a family has no option, its own default holds and spec.frame_skip is 1. The
frame cap shortens a task's own time limit, never lengthens it; Atari's is the cap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from r2d2_jax.config import ConfigError, EnvConfig
from r2d2_jax.types import EnvSpec

# Left, right, forward: all that the corridor of MiniGrid's Memory tasks needs.
_MINIGRID_MEMORY_ACTIONS = 3


def family_options(task: str, defaults: Any, config: EnvConfig) -> dict[str, Any]:
  """EnvPool's options for a task.

  Args:
    task: EnvPool's id.
    defaults: the `config` of the task's EnvPool spec, made without options.
    config: what the user asked for.

  Returns:
    Keyword arguments of `envpool.make`, without lanes and seed.

  Raises:
    ConfigError: life_loss is asked for where there are no lives.
  """
  skip = frame_skip(defaults, config)
  cap_steps = max(1, config.max_episode_frames // skip)
  if is_atari(defaults):
    return dict(
        max_episode_steps=cap_steps,
        frame_skip=skip,
        stack_num=1,  # the stack is part of the agent's recurrent state
        gray_scale=True,
        full_action_space=config.full_action_space,
        noop_max=config.noop_max,
        repeat_action_probability=config.sticky_action_probability,
        use_fire_reset=config.fire_on_reset,
        # derived here from info["lives"]: EnvPool's own way plays hidden no-ops
        # after each lost life and drops their rewards
        episodic_life=False,
        zero_discount_on_life_loss=False,
        reward_clip=False,
    )
  if config.life_loss != "ignore":
    raise ConfigError(
        f"life_loss={config.life_loss!r} is for Atari games, {task} has no "
        "lives: use life_loss='ignore'."
    )
  options = dict(max_episode_steps=min(cap_steps, defaults.max_episode_steps))
  if is_vizdoom(defaults):
    options |= dict(frame_skip=skip, stack_num=1, use_combined_action=True)
  return options


def is_atari(defaults: Any) -> bool:
  """Whether an EnvPool config is of the Atari family."""
  return hasattr(defaults, "full_action_space")


def is_vizdoom(defaults: Any) -> bool:
  """Whether an EnvPool config is of the VizDoom family."""
  return hasattr(defaults, "use_combined_action")


def frame_skip(defaults: Any, config: EnvConfig) -> int:
  """Raw frames per agent step: 1 where the family has no such option."""
  return config.frame_skip if is_atari(defaults) or is_vizdoom(defaults) else 1


class Interface(NamedTuple):
  """A task as the agent meets it."""

  spec: EnvSpec
  convert: Callable[[Any], np.ndarray]  # EnvPool's observation -> [B, *obs_shape]


def family_interface(
    task: str, observation_space: Any, action_space: Any, skip: int
) -> Interface:
  """What the agent sees and may do, from EnvPool's (gymnasium) spaces.

  Args:
    task: EnvPool's id.
    observation_space: of the task with its options.
    action_space: of the task with its options.
    skip: raw frames per agent step.

  Raises:
    ConfigError: actions are not a discrete set, or the observation is of a kind
      that no torso reads.
  """
  if type(action_space).__name__ != "Discrete":
    raise ConfigError(
        f"{task} has actions {action_space}: R2D2 chooses among a discrete set, "
        "take another task."
    )
  num_actions = int(action_space.n)
  if task.startswith("MiniGrid-Memory"):
    num_actions = _MINIGRID_MEMORY_ACTIONS

  if task.startswith("MiniGrid-"):
    image = observation_space["image"]
    shape, dtype = image.shape, image.dtype
    convert = lambda obs: obs["image"]
  elif type(observation_space).__name__ == "Discrete":
    shape, dtype = (int(observation_space.n),), np.float32
    convert = lambda obs: np.eye(shape[0], dtype=np.float32)[obs]
  elif type(observation_space).__name__ == "Box":
    shape, dtype = observation_space.shape, observation_space.dtype
    if dtype == np.uint8 and len(shape) == 3 and shape[0] == 1:
      shape, convert = shape[1:], lambda obs: obs[:, 0]
    elif dtype == np.uint8 and len(shape) == 3 and shape[0] == 3:
      shape = (*shape[1:], 3)
      convert = lambda obs: np.ascontiguousarray(np.moveaxis(obs, 1, -1))
    elif dtype == np.uint8:
      convert = lambda obs: obs
    else:
      dtype = np.float32
      convert = lambda obs: obs.astype(np.float32)
  else:
    raise ConfigError(
        f"{task} has observations {observation_space}: expected a Box or a "
        "Discrete space, take another task."
    )
  return Interface(EnvSpec(tuple(shape), np.dtype(dtype), num_actions, skip), convert)
