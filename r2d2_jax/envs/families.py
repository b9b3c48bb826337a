"""What differs between EnvPool's families: options, observations, actions.

| family | options | observation |
|---|---|---|
| Atari | all of EnvConfig | uint8 [84, 84], grey |
| VizDoom | frame_skip | uint8 [84, 84] grey or [84, 84, 3]: the scenario says |
| MiniGrid | | uint8 [7, 7, 3]: the image; direction and mission are left out |
| Procgen | | uint8 [64, 64, 3] |
| any other (Catch, FrozenLake, CartPole) | | Box or Discrete, as it comes |

Of the others floats are float32, and a state number is one-hot float32.

One player, one observation array, one number as the action: a task that has
more of any is refused. Where a family has no option, its own default holds and
spec.frame_skip is 1.

The frame cap is counted by `EnvPoolWorld`, not by EnvPool: some families ignore
max_episode_steps, some count one step more, some report the end of a game as
truncated from that step on, and MiniGrid's rewards depend on it. A task's own
time limit stays as it is; Atari has none but the cap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from r2d2_jax.config import ConfigError, EnvConfig
from r2d2_jax.types import EnvSpec

# Left, right, forward: all that the corridor of MiniGrid's Memory tasks needs.
_MINIGRID_MEMORY_ACTIONS = 3
# A number below this is one of so many states, shown as one-hot; a larger bound
# is no bound, and the number a quantity.
_MAX_STATES = 2**16


def family_options(
  task: str, defaults: Any, config: EnvConfig
) -> dict[str, Any]:
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
  if is_atari(defaults):
    return dict(
      max_episode_steps=cap_steps(defaults, config),
      frame_skip=config.frame_skip,
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
  if is_vizdoom(defaults):
    return dict(
      frame_skip=config.frame_skip, stack_num=1, use_combined_action=True
    )
  return {}


def is_atari(defaults: Any) -> bool:
  """Whether an EnvPool config is of the Atari family."""
  return hasattr(defaults, "full_action_space")


def is_vizdoom(defaults: Any) -> bool:
  """Whether an EnvPool config is of the VizDoom family."""
  return hasattr(defaults, "use_combined_action")


def frame_skip(defaults: Any, config: EnvConfig) -> int:
  """Raw frames per agent step: 1 where the family has no such option."""
  return config.frame_skip if is_atari(defaults) or is_vizdoom(defaults) else 1


def cap_steps(defaults: Any, config: EnvConfig) -> int:
  """Agent steps after which an episode is truncated: whole ones in the cap."""
  return max(1, config.max_episode_frames // frame_skip(defaults, config))


class Interface(NamedTuple):
  """A task as the agent meets it."""

  spec: EnvSpec
  # EnvPool's observation -> [B, *obs_shape]
  convert: Callable[[Any], np.ndarray]


def family_interface(task: str, spaces: Any, skip: int) -> Interface:
  """What the agent sees and may do, from EnvPool's spec.

  Read from its array specs: building its gymnasium spaces fails for some tasks
  and warns about rounded bounds for many.

  Args:
    task: EnvPool's id.
    spaces: EnvPool's spec of the task with its options.
    skip: raw frames per agent step.

  Raises:
    ConfigError: there are several players, actions are not a discrete set, or
      an observation is not one array.
  """
  if spaces.config.max_num_players != 1:
    raise ConfigError(
      f"{task} has {spaces.config.max_num_players} players in each "
      "environment: R2D2 plays alone, take another task."
    )
  num_actions = _num_actions(task, spaces.action_array_spec)
  shape, dtype, convert = _observation(task, spaces.state_array_spec)
  return Interface(
    EnvSpec(tuple(shape), np.dtype(dtype), num_actions, skip), convert
  )


def _num_actions(task: str, arrays: dict[str, Any]) -> int:
  actions = {
    name: array
    for name, array in arrays.items()
    if name not in ("env_id", "players.env_id")
  }
  array = next(iter(actions.values()))
  if len(actions) != 1 or not _is_number(array) or array.minimum != 0:
    raise ConfigError(
      f"{task} has actions {_described(actions)}: R2D2 chooses one of a "
      "discrete set numbered from 0, take another task."
    )
  if task.startswith("MiniGrid-Memory"):
    return _MINIGRID_MEMORY_ACTIONS
  return int(array.maximum) + 1


def _observation(
  task: str, arrays: dict[str, Any]
) -> tuple[tuple[int, ...], Any, Callable[[Any], np.ndarray]]:
  """Shape and dtype of one observation as the agent sees it; how to get it."""
  parts = {
    name.removeprefix("obs:"): array
    for name, array in arrays.items()
    if name == "obs" or name.startswith("obs:")
  }
  if task.startswith("MiniGrid-"):
    image = parts["image"]
    return image.shape, image.dtype, lambda obs: obs["image"]
  array = next(iter(parts.values()))
  if len(parts) != 1:
    raise ConfigError(
      f"{task} has observations of several parts ({_described(parts)}): the "
      "network reads one array, take another task."
    )
  if _is_number(array) and array.maximum < _MAX_STATES:
    return _one_hot(task, int(array.minimum), int(array.maximum))
  shape = tuple(n for n in array.shape if n != -1)
  if array.dtype != np.uint8:
    return shape, np.float32, lambda obs: obs.astype(np.float32)
  if len(shape) == 3 and shape[0] == 1:
    return shape[1:], np.uint8, lambda obs: obs[:, 0]
  if len(shape) == 3 and shape[0] == 3:
    return (
      (*shape[1:], 3),
      np.uint8,
      lambda obs: np.ascontiguousarray(np.moveaxis(obs, 1, -1)),
    )
  return shape, np.uint8, lambda obs: obs


def _one_hot(task: str, low: int, high: int):
  """As `_observation`, of a state number in [low, high]."""

  def convert(obs: np.ndarray) -> np.ndarray:
    if obs.min() < low or obs.max() > high:
      raise ConfigError(
        f"{task} shows states {obs.min()} to {obs.max()}, EnvPool's spec says "
        f"{low} to {high}: take another task."
      )
    return np.eye(high - low + 1, dtype=np.float32)[obs - low]

  return (high - low + 1,), np.float32, convert


def _is_number(array: Any) -> bool:
  """Whether an EnvPool array spec is one integer (-1: one for each player)."""
  # VizDoom's choice among buttons is a float64 that says is_discrete.
  whole = array.is_discrete or np.issubdtype(array.dtype, np.integer)
  return whole and list(array.shape) in ([], [-1])


def _described(arrays: dict[str, Any]) -> str:
  """'float32 [3]', or where there are several 'image uint8 [7, 7, 3], ...'."""
  words = []
  for name, array in arrays.items():
    shape = [n for n in array.shape if n != -1]
    words.append(
      " ".join(
        [
          *([name] if len(arrays) > 1 else []),
          np.dtype(array.dtype).name,
          *([str(shape)] if shape else []),
        ]
      )
    )
  return ", ".join(words)
