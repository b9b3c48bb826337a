"""Learner and actor as programs to be lowered: functions and shapes."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding
import numpy as np

from r2d2_jax.agent.acting import compile_actor
from r2d2_jax.agent.agent import make_agent
from r2d2_jax.agent.learning import (
  BATCH_AXIS,
  compile_learner,
  learner_shardings,
)
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.system.loops.shapes import action_mask_shape, batch_shapes
from r2d2_jax.types import EnvSpec, Timestep


class Program(NamedTuple):
  """A jit-compiled function, and the shapes it is lowered for.

  `function.lower(*arguments)` and `export` need no device of the platform.
  """

  function: Any
  arguments: tuple


def learner_program(
  config: Config, spec: EnvSpec, devices: list | None = None
) -> Program:
  """One update of the learner, as a run compiles it.

  Args:
    config: sections network and agent are read.
    spec: of the world.
    devices: they split the batch; None leaves open where it runs.

  Raises:
    ConfigError: the devices do not divide the batch.
  """
  agent = make_agent(spec, config)
  batch_size = config.agent.batch_size
  state = jax.eval_shape(agent.init, jax.random.key(0))
  batch = batch_shapes(config, spec, agent)
  mesh = None
  if devices and len(devices) == 1:
    state, batch = _placed((state, batch), SingleDeviceSharding(devices[0]))
  elif devices:
    if batch_size % len(devices):
      raise ConfigError(
        f"expected a batch that {len(devices)} devices can split evenly, got"
        f" {batch_size} items; change --batch or --topology"
      )
    mesh = Mesh(np.array(devices), (BATCH_AXIS,))
    whole, split = learner_shardings(mesh)
    state, batch = _placed(state, whole), _placed(batch, split)
  learner = compile_learner(
    agent.learner_step, batch_size=batch_size, mesh=mesh
  )
  return Program(learner, (state, batch))


def actor_program(config: Config, spec: EnvSpec) -> Program:
  """One step of all lanes of an actor, as a run compiles it."""
  agent = make_agent(spec, config)
  lanes = config.env.num_envs
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  state = jax.eval_shape(
    lambda key: agent.initial_actor_state(key, lanes), jax.random.key(0)
  )
  rows = jax.ShapeDtypeStruct
  timestep = Timestep(
    env_id=rows((lanes,), jnp.int32),
    obs_t=rows((lanes, *spec.obs_shape), spec.obs_dtype),
    r_t=rows((lanes,), jnp.float32),
    discount_t=rows((lanes,), jnp.float32),
    is_first_t=rows((lanes,), jnp.bool_),
    is_last_t=rows((lanes,), jnp.bool_),
    action_mask_t=action_mask_shape(spec, (lanes,)),
  )
  epsilon = rows((lanes,), jnp.float32)
  return Program(
    compile_actor(agent.actor_step), (params, state, timestep, epsilon)
  )


def export(program: Program, platform: str) -> str:
  """The StableHLO text of a program lowered for a platform ("cuda", "tpu")."""
  exported = jax.export.export(program.function, platforms=[platform])
  return exported(*program.arguments).mlir_module()


def _placed(tree: Any, sharding: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
