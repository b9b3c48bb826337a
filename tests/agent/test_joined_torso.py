"""Images and numbers together, each through a torso of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.frames import stack_frames, stack_parts
from r2d2_jax.agent.joined_torso import joined_torso
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.agent.torsos import TORSOS
from r2d2_jax.config import ConfigError
from r2d2_jax.parts import join_parts, num_bytes
from r2d2_jax.types import EnvSpec, ObsPart
from tests.agent.small import network_config, random_inputs, random_params

PARTS = (
  ObsPart((36, 37, 3), np.dtype(np.uint8)),
  ObsPart((40, 40), np.dtype(np.float32)),
  ObsPart((5,), np.dtype(np.float32)),
)
SPEC = EnvSpec(
  (sum(map(num_bytes, PARTS)),), np.dtype(np.uint8), 3, 1, obs_parts=PARTS
)
CONFIG = network_config(
  torso="auto", torso_channels=(2, 3, 4), torso_units=6, frame_stack=2
)


def _parts(rng, lead):
  return [
    rng.integers(0, 256, (*lead, *part.shape), np.uint8)
    if part.dtype == np.uint8
    else rng.normal(size=(*lead, *part.shape)).astype(np.float32)
    for part in PARTS
  ]


def _packed(arrays, lead):
  flat = [
    x.reshape(-1, *part.shape) for x, part in zip(arrays, PARTS, strict=True)
  ]
  return join_parts(flat).reshape(*lead, -1)


def test_each_part_is_stacked_as_it_is_alone():
  rng = np.random.default_rng(0)
  obs, frames = _parts(rng, (4, 2)), _parts(rng, (2, 1))
  is_first_t = np.array([[0, 0], [0, 1], [0, 0], [1, 0]], bool)
  found, new_frames = stack_parts(
    _packed(obs, (4, 2)),
    is_first_t,
    _packed(frames, (2, 1)),
    parts=PARTS,
    stacks=(stack_frames,) * 3,
  )
  after = []
  for x, part_obs, part_frames in zip(found, obs, frames, strict=True):
    expected, last = stack_frames(part_obs, is_first_t, part_frames)
    np.testing.assert_array_equal(x, expected)
    after.append(np.asarray(last))
  np.testing.assert_array_equal(new_frames, _packed(after, (2, 1)))
  assert found[0].shape == (4, 2, 36, 37, 6) and found[2].shape == (4, 2, 5, 2)


def test_features_are_those_of_the_torsos_side_by_side():
  rng = np.random.default_rng(1)
  torso = joined_torso(TORSOS["nature"], PARTS)
  zero = np.zeros((1, 3), bool)
  x, _ = torso.stack(
    _packed(_parts(rng, (1, 3)), (1, 3)),
    zero,
    _packed(_parts(rng, (3, 1)), (3, 1)),
  )
  x = tuple(part[0] for part in x)
  module = torso.make(CONFIG)
  params = jax.jit(module.init)(jax.random.key(0), x)
  found = module.apply(params, x)
  expected = [
    TORSOS[name]
    .make(CONFIG)
    .apply({"params": params["params"][f"torsos_{i}"]}, part)
    for i, (name, part) in enumerate(
      zip(("nature", "nature", "mlp"), x, strict=True)
    )
  ]
  np.testing.assert_allclose(
    found, jnp.concatenate(expected, axis=-1), rtol=1e-5, atol=1e-6
  )
  assert found.shape == (3, 6 + 6 + 4)  # torso_units twice, and mlp's last


@pytest.mark.parametrize("torso", ["auto", "impala", "mlp"])
def test_values_depend_on_every_part(torso):
  """One step after the other as all at once; each part has a say."""
  config = network_config(
    torso=torso, torso_channels=(6, 6, 6), torso_units=6, frame_stack=2
  )
  networks = make_networks(SPEC, config=config)
  rng = np.random.default_rng(2)
  params = random_params(rng, networks)
  obs = _parts(rng, (3, 2))
  inputs = random_inputs(rng, (3, 2), spec=SPEC)
  inputs = inputs._replace(obs_t=_packed(obs, (3, 2)))
  state = networks.initial_core_state(2)
  unroll = jax.jit(networks.unroll)
  q, after = unroll(params, inputs, state)
  assert np.isfinite(q).all() and q.shape == (3, 2, 3)
  for t in range(3):
    row = jax.tree.map(lambda x, t=t: x[t : t + 1], inputs)
    q_t, state = unroll(params, row, state)
    np.testing.assert_allclose(q_t[0], q[t], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(state.frames, after.frames)
  for i in range(3):
    other = [x.copy() for x in obs]
    other[i][2, 1] = 0
    found, _ = unroll(
      params, inputs._replace(obs_t=_packed(other, (3, 2))), after
    )
    same, _ = unroll(params, inputs, after)
    np.testing.assert_array_equal(found[:2], same[:2])
    assert np.abs(found[2, 1] - same[2, 1]).max() > 1e-5
    np.testing.assert_array_equal(found[2, 0], same[2, 0])


def test_a_torso_that_cannot_read_a_part_is_refused():
  with pytest.raises(ConfigError, match="torso 'grid' expects MiniGrid's"):
    make_networks(
      SPEC, config=network_config(torso="grid", torso_channels=(2, 3, 4))
    )
