"""Shapes of the learner's batches, before there is one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config
from r2d2_jax.types import AgentInputs, EnvSpec, ReplaySample, Sequence


def batch_shapes(
  config: Config, spec: EnvSpec, agent: Agent, sharding: Any = None
) -> ReplaySample:
  """A `Batch.on_device` as `jax.ShapeDtypeStruct`s: what it can be lowered for.

  Args:
    config: lengths and size of the batch.
    spec: of the world.
    agent: what its core carries.
    sharding: of all of it; None leaves open where it is.
  """
  batch_size = config.agent.batch_size
  lead = (batch_size, config.item_rows)
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
  core_state = jax.eval_shape(lambda: agent.initial_core_state(batch_size))
  return ReplaySample(
    Sequence(
      AgentInputs(
        obs_t=rows((*lead, *spec.obs_shape), spec.obs_dtype),
        a_tm1=rows(lead, jnp.int32),
        r_t=rows(lead, jnp.float32),
        is_first_t=rows(lead, jnp.bool_),
        action_mask_t=action_mask_shape(spec, lead, sharding),
      ),
      a_t=rows(lead, jnp.int32),
      discount_t=rows(lead, jnp.float32),
      valid_t=rows(lead, jnp.bool_),
      core_state=jax.tree.map(lambda x: rows(x.shape, x.dtype), core_state),
      log_prob_t=rows(lead, jnp.float32) if config.agent.has_policy else None,
    ),
    probability=rows((batch_size,), jnp.float32),
    keys=None,
  )


def action_mask_shape(
  spec: EnvSpec, lead: tuple[int, ...], sharding: Any = None
) -> jax.ShapeDtypeStruct | None:
  """Of rows with these leading axes; None where the world has no masks."""
  if not spec.action_mask:
    return None
  return jax.ShapeDtypeStruct(
    (*lead, spec.num_actions), jnp.bool_, sharding=sharding
  )
