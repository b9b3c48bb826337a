"""One lane of a Gymnasium task: the environment, made by name and watched.

Imported in the processes of the lanes too, which do without JAX.
"""

from collections.abc import Callable
import difflib
import multiprocessing
import numbers
import signal
import traceback
from typing import Any, NoReturn
import warnings

import gymnasium
from gymnasium.envs import registration
import numpy as np

from r2d2_jax.config import ConfigError, MissingPackageError, first_line
from r2d2_jax.envs.action_spaces import action_mask_of, actions_of
from r2d2_jax.envs.spaces import fault
from r2d2_jax.factories import import_module, load

ACTION_MASK = "action_mask"  # of an info: which actions may be taken
_PREFIX = "gymnasium:"


class LaneError(RuntimeError):
  """An environment of one lane raised, lied or hangs: says which, and where.

  The traceback of what it raised is a note, since it may come from a process
  that is gone.
  """


class Lane(gymnasium.Wrapper):
  """An environment whose faults name the lane, and whose infos stay inside.

  Infos are dropped: nobody reads them, and those of different shapes would stop
  Gymnasium's vector environments. With `reads_mask` one is left, "action_mask",
  as bool [A].

  Attributes:
    index: the lane's number.
    is_busy: whether a call of the environment is under way.
  """

  def __init__(
    self,
    env: gymnasium.Env,
    task: str,
    index: int,
    *,
    reads_mask: bool = False,
  ):
    """Args: the environment, its task and number for messages; see the class.

    Raises:
      ConfigError: with `reads_mask`, the actions are no discrete set.
    """
    super().__init__(env)
    self._task = task
    self._actions = actions_of(task, env.action_space) if reads_mask else None
    self.index = index
    self.is_busy = False
    self._num_steps = 0

  def reset(self, *, seed: int | None = None, options: Any = None):
    """As `gymnasium.Env.reset`, without most of the info."""
    self._num_steps = 0
    result = self._call("reset", seed=seed, options=options or None)
    if not isinstance(result, tuple) or len(result) != 2:
      self._refuse(
        f"reset: expected (observation, info), as Gymnasium 1.x has it, got"
        f" {result!r:.80}"
      )
    self._check(result[0])
    return result[0], self._kept("reset", result[1])

  def step(self, action: Any):
    """As `gymnasium.Env.step`, without most of the info."""
    self._num_steps += 1
    result = self._call("step", action)
    if not isinstance(result, tuple) or len(result) != 5:
      self._refuse(
        "step: expected (observation, reward, terminated, truncated, info), as"
        f" Gymnasium 1.x has it, got {result!r:.80}"
      )
    obs, reward, terminated, truncated, info = result
    self._check(obs)
    if not isinstance(reward, numbers.Real) and np.shape(reward) != ():
      self._refuse(f"step: expected a number as the reward, got {reward!r:.80}")
    kept = self._kept("step", info)
    return obs, float(reward), bool(terminated), bool(truncated), kept

  def render(self) -> Any:
    """The screen; None where it cannot be drawn here."""
    if self.render_mode != "rgb_array":
      return None
    try:
      return self.env.render()
    except (gymnasium.error.Error, ImportError, NotImplementedError):
      return None  # pygame, for one, is not installed

  def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
    self.is_busy = True
    try:
      return getattr(self.env, name)(*args, **kwargs)
    except Exception as error:
      fault = LaneError(
        f"{self._place()}: {name} raised {type(error).__name__}:"
        f" {first_line(error)}"
      )
      fault.add_note(traceback.format_exc())
      raise fault from None
    finally:
      self.is_busy = False

  def _check(self, obs: Any) -> None:
    if wrong := fault(self.observation_space, obs):
      self._refuse(f"its observation is not in its observation_space: {wrong}")

  def _kept(self, name: str, info: Any) -> dict[str, np.ndarray]:
    """What is left of an info."""
    if self._actions is None:
      return {}
    if not isinstance(info, dict) or ACTION_MASK not in info:
      self._refuse(
        f"{name}: expected info[{ACTION_MASK!r}], which env.action_mask asks"
        f" for, got {sorted(info) if isinstance(info, dict) else info!r:.80}"
      )
    try:
      return {ACTION_MASK: action_mask_of(self._actions, info[ACTION_MASK])}
    except ValueError as error:
      self._refuse(f"{name}: info[{ACTION_MASK!r}]: {error}")

  def _refuse(self, what: str) -> NoReturn:
    raise LaneError(f"{self._place()}: {what}; mend the environment")

  def _place(self) -> str:
    return (
      f"environment {self._task!r}, lane {self.index}, step {self._num_steps}"
      " of its game"
    )


def task_name(make_env: str | Callable[[], gymnasium.Env]) -> str:
  """What messages call a task."""
  if isinstance(make_env, str):
    return make_env
  return getattr(make_env, "__name__", repr(make_env))


def make_lane(
  make_env: str | Callable[[], gymnasium.Env],
  index: int = 0,
  *,
  reads_mask: bool = False,
) -> Lane:
  """One environment.

  Args:
    make_env: a task, "gymnasium:ID" or "package.module:function", or the
      function itself.
    index: of the lane.
    reads_mask: as of `Lane`.

  Raises:
    ConfigError: there is no such task or function, or it gave no
      `gymnasium.Env`.
    MissingPackageError: the task needs a package that is not installed.
    Exception: whatever the function raises.
  """
  if multiprocessing.parent_process() is not None:
    # Ctrl-C reaches all processes of a terminal; the run ends its lanes itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
  task = task_name(make_env)
  if not isinstance(make_env, str):
    env = make_env()
  elif make_env.startswith(_PREFIX):
    env = _registered(make_env)
  else:
    env = load("env.task", make_env)()
  if not isinstance(env, gymnasium.Env):
    raise ConfigError(
      f"env.task: expected a function that returns a gymnasium.Env, got one"
      f" from {task!r} that returns {type(env).__name__}; other worlds come in"
      " by make_world"
    )
  return Lane(env, task, index, reads_mask=reads_mask)


def _registered(task: str) -> gymnasium.Env:
  # "package:ID": the package registers its environments when it is imported.
  module, _, name = task.removeprefix(_PREFIX).rpartition(":")
  if module:
    import_module("env.task", module, task)
  try:
    with warnings.catch_warnings():
      # "a newer version exists", and what it thinks of spaces.
      warnings.simplefilter("ignore")
      spec = gymnasium.spec(name)
      if _can_draw(spec):
        return gymnasium.make(
          name, disable_env_checker=True, render_mode="rgb_array"
        )
      # Without the argument, which not every environment takes.
      return gymnasium.make(name, disable_env_checker=True)
  except gymnasium.error.DependencyNotInstalled as error:
    raise MissingPackageError(
      f"task {task!r} cannot start here: {first_line(error)}"
    ) from error
  except gymnasium.error.Error as error:
    known = list(gymnasium.registry)
    if name in known:
      raise ConfigError(f"task {task!r}: {first_line(error)}") from error
    raise ConfigError(_unknown(task, module, known)) from error


def _unknown(task: str, module: str, known: list[str]) -> str:
  name = task.rpartition(":")[2]
  by_lower = {k.lower(): k for k in known}
  near = [
    by_lower[k] for k in difflib.get_close_matches(name.lower(), by_lower, n=3)
  ]
  begin = _PREFIX + f"{module}:" * bool(module)
  return f"unknown task {task!r}: " + (
    f"did you mean {', '.join(begin + k for k in near)}?"
    if near
    else f"Gymnasium has {len(known)} registered, none of a similar name; the"
    " package that registers it comes first: gymnasium:package:ID"
  )


def _can_draw(spec: registration.EnvSpec) -> bool:
  """Whether the task says that it draws pictures."""
  if isinstance(spec.entry_point, str):
    creator = registration.load_env_creator(spec.entry_point)
  else:
    creator = spec.entry_point
  metadata = getattr(creator, "metadata", None) or {}
  return "rgb_array" in (metadata.get("render_modes") or ())
