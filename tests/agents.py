"""Agents around networks that a test made itself; agents written and read."""

import pathlib

from r2d2_jax.agent.agent import Agent, make_r2d2_agent
from r2d2_jax.agent.networks import Networks
from r2d2_jax.config import Config
from r2d2_jax.system.storage.agents import SavedAgent, load_agent
from r2d2_jax.system.storage.exported import write_exported
from r2d2_jax.types import EnvSpec

_NO_SPEC = EnvSpec((), None, 0, 1)  # the networks know theirs


def agent_of(networks: Networks, config: Config) -> Agent:
  """R2D2 with these networks."""
  return make_r2d2_agent(_NO_SPEC, config, networks=networks)


def exported_again(agent: SavedAgent, out: pathlib.Path) -> SavedAgent:
  """What is read back of an agent that was exported to a new directory."""
  out.mkdir()
  write_exported(
    out,
    config=agent.config,
    spec=agent.spec,
    params=agent.params,
    num_updates=1,
    steps=2,
  )
  return load_agent(out)
