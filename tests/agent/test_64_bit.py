"""In JAX's 64-bit mode the agent computes in the dtypes of its settings."""

import functools

import jax
import numpy as np
import pytest

from r2d2_jax.agent.acting import actor_step, init_actor_state
from r2d2_jax.agent.learning import (
  init_learner_state,
  learner_step,
  make_optimizer,
)
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.types import (
  AgentInputs,
  EnvSpec,
  ReplaySample,
  Sequence,
  Timestep,
)
from tests.agent.small import AGENT, ITEM_ROWS, SPEC, network_config

_IMAGES = EnvSpec((36, 36), np.dtype(np.uint8), 4, 1)
_CHANNELS = dict(torso_channels=(2, 3, 2), torso_units=5)
_NETWORKS = {
  "mlp": (SPEC, network_config(frame_stack=2)),
  "nature": (_IMAGES, network_config(torso="nature", **_CHANNELS)),
  "impala": (_IMAGES, network_config(torso="impala", **_CHANNELS)),
}


@pytest.fixture(name="_in_64_bits", autouse=True)
def _in_64_bits_fixture():
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)


def _steps(spec, config):
  """An actor's and a learner's step, and the shapes of what they take."""
  networks = make_networks(spec, config=config)
  optimizer = make_optimizer(AGENT)
  batch = AGENT.batch_size
  array = jax.ShapeDtypeStruct
  shape = (batch, ITEM_ROWS)
  state = jax.eval_shape(
    lambda: init_learner_state(
      jax.random.key(0), networks=networks, optimizer=optimizer
    )
  )
  actor_state = jax.eval_shape(
    lambda: init_actor_state(jax.random.key(0), batch, networks=networks)
  )
  flags = array((batch,), bool)
  timestep = Timestep(
    env_id=array((batch,), np.int32),
    obs_t=array((batch, *spec.obs_shape), spec.obs_dtype),
    r_t=array((batch,), np.float32),
    discount_t=array((batch,), np.float32),
    is_first_t=flags,
    is_last_t=flags,
  )
  sequence = Sequence(
    inputs=AgentInputs(
      obs_t=array((*shape, *spec.obs_shape), spec.obs_dtype),
      a_tm1=array(shape, np.int32),
      r_t=array(shape, np.float32),
      is_first_t=array(shape, bool),
    ),
    a_t=array(shape, np.int32),
    discount_t=array(shape, np.float32),
    valid_t=array(shape, bool),
    core_state=actor_state.core_state,
  )
  sample = ReplaySample(sequence, array((batch,), np.float32), None)
  act = functools.partial(actor_step, networks=networks)
  learn = functools.partial(
    learner_step, networks=networks, optimizer=optimizer, config=AGENT
  )
  epsilon = array((batch,), np.float32)
  return [
    (act, (state.params, actor_state, timestep, epsilon)),
    (learn, (state, sample)),
  ]


def _product_types(program) -> set[str]:
  """Of all matrix products and convolutions in a jaxpr and in inner ones."""
  found = set()
  for equation in program.eqns:
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
      found.add(str(equation.outvars[0].aval.dtype))
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        found |= _product_types(inner)
  return found


@pytest.mark.parametrize("name", _NETWORKS)
def test_products_are_in_float32_and_nothing_leaves_a_step_in_float64(name):
  for step, arguments in _steps(*_NETWORKS[name]):
    results = jax.eval_shape(step, *arguments)
    for leaf in jax.tree.leaves((arguments, results)):
      assert leaf.dtype != np.float64
    program = jax.make_jaxpr(step)(*arguments)
    assert _product_types(program.jaxpr) == {"float32"}
