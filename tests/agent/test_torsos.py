"""A torso of one's own, by its import path; the one that 'auto' chooses."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from r2d2_jax.agent.networks import make_networks
from r2d2_jax.agent.torsos import Torso, chosen_torso
from r2d2_jax.config import ConfigError
from r2d2_jax.types import EnvSpec
from tests.agent.small import SPEC, network_config


def make_plain(config):
  """Just a function."""
  flatten = lambda x: x.reshape(len(x), -1)
  return nn.Sequential([flatten, nn.Dense(config.torso_units), nn.relu])


def _refuse(spec, config):
  raise ValueError(f"mine wants images, got {spec.obs_shape}")


REFUSING = Torso(make_plain, _refuse)


def test_a_function_is_enough():
  config = network_config(
    torso="tests.agent.test_torsos:make_plain", torso_units=3
  )
  networks = make_networks(SPEC, config=config)
  params = jax.eval_shape(networks.init, jax.random.key(0))["params"]
  assert params["torso"]["layers_1"]["kernel"].shape == (3, 3)
  assert params["core"]["w_x"].shape == (3 + 4 + 1, 4 * 5)


def test_its_own_check_is_asked():
  config = network_config(torso="tests.agent.test_torsos:REFUSING")
  with pytest.raises(ValueError, match=r"mine wants images, got \(3,\)"):
    make_networks(SPEC, config=config)


def test_an_unknown_name_is_refused():
  with pytest.raises(
    ConfigError, match="network.torso: expected one of nature"
  ):
    make_networks(SPEC, config=network_config(torso="resnet"))


@pytest.mark.parametrize(
  "shape, expected",
  [
    ((84, 84), "nature"),
    ((64, 48, 3), "nature"),
    ((36, 36), "nature"),
    ((35, 84), "mlp"),
    ((7, 7, 3), "mlp"),
    ((10, 5), "mlp"),
    ((4,), "mlp"),
  ],
)
def test_auto_chooses_by_the_observations(shape, expected):
  spec = EnvSpec(shape, np.dtype(np.float32), 2, 1)
  assert chosen_torso("auto", spec) == expected
  assert chosen_torso("impala", spec) == "impala"
  config = network_config(torso="auto", torso_channels=(2, 3, 4))
  named = dataclasses.replace(config, torso=expected)

  def tree(config):
    networks = make_networks(spec, config=config)
    return jax.eval_shape(networks.init, jax.random.key(0))

  assert jax.tree.map(lambda x: x.shape, tree(config)) == jax.tree.map(
    lambda x: x.shape, tree(named)
  )
