"""One call that makes a world from the settings."""

from collections.abc import Callable
import dataclasses
import functools
import importlib
from typing import Protocol

from r2d2_jax.config import ConfigError, EnvConfig, MissingPackageError
from r2d2_jax.envs.flicker import FlickerWorld
from r2d2_jax.envs.memory_chain import MemoryChainWorld
from r2d2_jax.envs.numpy_world import NumpyWorld
from r2d2_jax.envs.recall import DELAYS, RecallWorld
from r2d2_jax.envs.stateless_cartpole import StatelessCartPoleWorld
from r2d2_jax.envs.tasks import BUILT_IN, chain_length, nearest
from r2d2_jax.envs.world import World
from r2d2_jax.factories import is_path, load
from r2d2_jax.types import EnvSpec


class MakeWorld(Protocol):
  """What makes environments: `make_world`, or a function of one's own."""

  def __call__(self, config: EnvConfig, *, seed: int) -> World: ...


def own_world(make: MakeWorld) -> MakeWorld:
  """A function of one's own, given settings that no longer name it.

  So it may call `make_world` itself, to change what that gives.
  """
  return lambda config, *, seed: make(
    dataclasses.replace(config, make_world=""), seed=seed
  )


def make_world(config: EnvConfig, *, seed: int) -> World:
  """The world that `config` asks for: built in, Gymnasium's, or EnvPool's.

  EnvPool and Gymnasium are imported only where they are needed.

  Args:
    config: task, lanes, options.
    seed: non-negative integer. The same seed gives the same lanes, whatever
      their number, the batch size and the threads; another seed gives others.

  Raises:
    ConfigError: unknown task (names the nearest); the task does not suit this
      agent, or an option the task.
    MissingPackageError: EnvPool, Gymnasium, or a library that the task needs,
      is not installed.
    Exception: whatever an environment of one's own raises.
  """
  if not 0 <= config.batch_size <= config.num_envs:
    raise ConfigError(
      f"expected batch_size in [0, num_envs={config.num_envs}], got "
      f"{config.batch_size}: 0 steps all lanes together."
    )
  if config.make_world:
    make = load("env.make_world", config.make_world)
    world = own_world(make)(config, seed=seed)
  else:
    _check_action_mask(config)
    world = _make_task(config, seed)
  if config.flicker_probability:
    world = FlickerWorld(world, config.flicker_probability, seed=seed)
  return world


def world_spec(
  config: EnvConfig, make_own_world: MakeWorld | None = None
) -> EnvSpec:
  """`make_world(config).spec` without a world: no lane is started.

  Milliseconds, once EnvPool is imported; a built-in task does without it. Of
  Gymnasium's and one's own environments a single lane is made, and closed.

  Args:
    config: task and options; lanes do not matter.
    make_own_world: None for what `config` names.

  Raises:
    ConfigError, MissingPackageError: as `make_world` raises them for a task.
  """
  make = make_own_world or make_world
  is_own = make is not make_world or config.make_world
  if is_own or _built_in(config.task):
    world = make(dataclasses.replace(config, num_envs=1, batch_size=0), seed=0)
    if is_own:  # the built-in ones are a few numpy arrays
      world.close()
    return world.spec
  _check_action_mask(config)
  if is_path(config.task):
    return _gymnasium(config.task).gymnasium_spec(
      config.task, action_mask=config.action_mask
    )
  envpool_world = _envpool_world(config.task)
  task = envpool_world.find_task(config.task)
  return envpool_world.task_interface(task, config)[1].spec


def _check_action_mask(config: EnvConfig) -> None:
  if config.action_mask and not is_path(config.task):
    raise ConfigError(
      f"env.action_mask: expected False for {config.task}, which does not say"
      " which actions may be taken; tasks of Gymnasium may"
    )


def _built_in(task: str) -> Callable[..., NumpyWorld] | None:
  """What makes a task of this package; None where it is none."""
  name = task.lower()
  if delays := DELAYS.get(name):
    return functools.partial(RecallWorld, delays=delays)
  if length := chain_length(name):
    return functools.partial(MemoryChainWorld, length=length)
  if name == "stateless-cartpole":
    return StatelessCartPoleWorld
  return None


def _gymnasium(task: str):
  """The module of Gymnasium's worlds, where it can be imported."""
  try:
    importlib.import_module("gymnasium")
  except ImportError as error:
    raise MissingPackageError(
      f"task {task!r} needs Gymnasium, which cannot be imported here ({error}):"
      " pip install 'r2d2_jax[gymnasium]'"
    ) from error
  from r2d2_jax.envs import gymnasium_make

  return gymnasium_make


def _envpool_world(task: str):
  """The module of that name, where EnvPool can be imported."""
  try:
    importlib.import_module("envpool")
  except (ImportError, OSError) as error:  # OSError: without its assets
    # What EnvPool has is not known; but a slip in another name is.
    near = nearest(task, [])
    hint = f" Or did you mean {', '.join(near)}?" if near else ""
    raise MissingPackageError(
      f"task {task!r} needs EnvPool, which cannot be imported here ({error}): "
      f"pip install 'r2d2_jax[envpool]'.{hint} The built-in tasks need "
      f"nothing: {', '.join(BUILT_IN)}."
    ) from error
  from r2d2_jax.envs import envpool_world

  return envpool_world


def _make_task(config: EnvConfig, seed: int) -> World:
  if make_built_in := _built_in(config.task):
    if config.life_loss != "ignore":
      raise ConfigError(f"{config.task} has no lives: use life_loss='ignore'.")
    return make_built_in(
      config.num_envs,
      seed=seed,
      batch_size=config.batch_size,
      max_episode_steps=config.max_episode_frames,
    )
  if is_path(config.task):
    return _gymnasium(config.task).gymnasium_world(
      config.task, config, seed=seed
    )
  return _make_envpool_world(config, seed)


def _make_envpool_world(config: EnvConfig, seed: int) -> World:
  from r2d2_jax.envs.child_world import ChildWorld
  from r2d2_jax.envs.families import is_vizdoom

  envpool_world = _envpool_world(config.task)
  task = envpool_world.find_task(config.task)
  if is_vizdoom(envpool_world.task_spec(task).config):
    return ChildWorld(task, config, seed=seed)
  return envpool_world.EnvPoolWorld(task, config, seed=seed)
