"""Small networks, settings and random items that the agent's tests share."""

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import AgentConfig, NetworkConfig
from r2d2_jax.types import AgentInputs, EnvSpec, ReplaySample, Sequence

SPEC = EnvSpec((3,), np.dtype(np.float32), 4, 1)
AGENT = AgentConfig(
  burn_in=3, trace_length=6, overlap=3, n_step=3, discount=0.9, batch_size=4
)
ITEM_ROWS = AGENT.burn_in + AGENT.trace_length


def network_config(**changes) -> NetworkConfig:
  """A network of a few hundred parameters."""
  settings = dict(
    torso="mlp",
    torso_channels=(6,),
    core_units=5,
    head_units=7,
    frame_stack=1,
  )
  return NetworkConfig(**(settings | changes))


NETWORKS = make_networks(SPEC, config=network_config(frame_stack=2))


def random_inputs(
  rng: np.random.Generator, shape, *, spec=SPEC, first_probability=0.0
) -> AgentInputs:
  """Rows of any leading shape."""
  full = (*shape, *spec.obs_shape)
  if spec.obs_dtype == np.uint8:
    obs_t = rng.integers(0, 256, full, np.uint8)
  else:
    obs_t = rng.normal(size=full).astype(np.float32)
  action_mask_t = None
  if spec.action_mask:
    action_mask_t = rng.random((*shape, spec.num_actions)) < 0.4
    allowed = rng.integers(spec.num_actions, size=(*shape, 1))
    np.put_along_axis(action_mask_t, allowed, True, axis=-1)
  return AgentInputs(
    obs_t=obs_t,
    action_mask_t=action_mask_t,
    a_tm1=rng.integers(spec.num_actions, size=shape).astype(np.int32),
    r_t=rng.normal(size=shape).astype(np.float32),
    is_first_t=rng.random(shape) < first_probability,
  )


def random_params(rng: np.random.Generator, networks):
  """Parameters of the right shapes: to draw them is to compile nothing."""
  return jax.tree.map(
    lambda x: rng.normal(
      size=x.shape, scale=max(1, np.prod(x.shape[:-1])) ** -0.5
    ).astype(x.dtype),
    jax.eval_shape(networks.init, jax.random.key(0)),
  )


def random_core_state(rng: np.random.Generator, networks, batch_size):
  """As `initial_core_state`, but full of numbers."""
  return jax.tree.map(
    lambda x: jnp.asarray(
      rng.integers(0, 256, x.shape, np.uint8)
      if x.dtype == jnp.uint8
      else rng.normal(size=x.shape),
      x.dtype,
    ),
    networks.initial_core_state(batch_size),
  )


def random_batch(
  seed: int, *, networks=NETWORKS, rows=ITEM_ROWS, batch_size=4
) -> ReplaySample:
  """Items of `rows` valid rows, in the middle of an episode."""
  rng = np.random.default_rng(seed)
  shape = (batch_size, rows)
  return ReplaySample(
    Sequence(
      inputs=random_inputs(rng, shape),
      a_t=rng.integers(SPEC.num_actions, size=shape).astype(np.int32),
      discount_t=np.ones(shape, np.float32),
      valid_t=np.ones(shape, bool),
      core_state=random_core_state(rng, networks, batch_size),
    ),
    probability=rng.uniform(0.01, 0.1, batch_size).astype(np.float32),
    keys=None,
  )


def pad(batch: ReplaySample, first_padding_row: int, seed: int) -> ReplaySample:
  """The items' rows from `first_padding_row` on, as padding full of numbers."""
  rng = np.random.default_rng(seed)
  s = batch.sequence
  shape = s.a_t.shape
  valid_t = np.broadcast_to(np.arange(shape[1]) < first_padding_row, shape)

  def fill(real, noise):
    mask = valid_t.reshape(valid_t.shape + (1,) * (real.ndim - 2))
    return np.where(mask, real, noise).astype(real.dtype)

  noise = random_inputs(rng, shape, first_probability=0.3)
  sequence = s._replace(
    inputs=jax.tree.map(
      lambda x, y: fill(x, 10 * y if x.dtype == np.float32 else y),
      s.inputs,
      noise,
    ),
    a_t=fill(s.a_t, rng.integers(SPEC.num_actions, size=shape)),
    discount_t=fill(s.discount_t, rng.integers(2, size=shape)),
    valid_t=valid_t,
  )
  return batch._replace(sequence=sequence)


def assert_trees_equal(x, y) -> None:
  """Every bit of every leaf."""
  assert jax.tree.structure(x) == jax.tree.structure(y)
  for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_trees_close(x, y, *, atol=1e-5) -> None:
  """Every number of every leaf, to `atol`."""
  assert jax.tree.structure(x) == jax.tree.structure(y)
  for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
    np.testing.assert_allclose(
      np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=0, atol=atol
    )
