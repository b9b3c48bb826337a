"""Agents of R2D2 around networks that a test made itself."""

from r2d2_jax.agent.agent import Agent, make_r2d2_agent
from r2d2_jax.agent.networks import Networks
from r2d2_jax.config import Config
from r2d2_jax.types import EnvSpec

_NO_SPEC = EnvSpec((), None, 0, 1)  # the networks know theirs


def agent_of(networks: Networks, config: Config) -> Agent:
  """R2D2 with these networks."""
  return make_r2d2_agent(_NO_SPEC, config, networks=networks)
