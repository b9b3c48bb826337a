"""What is looked at before a run starts: devices, the plan. Imports little."""

import pathlib

import jax

from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.make import world_spec
from r2d2_jax.system.plan import Plan, check_plan, make_plan


def num_learner_devices(config: Config) -> int:
  """How many devices `run.learner_devices` asks for.

  Raises:
    ConfigError: JAX found fewer.
  """
  batch_size, count = config.agent.batch_size, config.run.learner_devices
  found = len(jax.local_devices())
  if count > found:
    raise ConfigError(
        f"run.learner_devices: expected at most {found}, the devices that JAX"
        f" found here ({jax.default_backend()}), got {count}; 0 takes all that"
        " can split the batch evenly"
    )
  return count or max(n for n in range(1, found + 1) if batch_size % n == 0)


def plan_run(config: Config, run_dir: pathlib.Path) -> Plan:
  """What a run in this directory would take, on this machine.

  Raises:
    ConfigError: fewer devices than asked for.
    ValueError, ImportError: there is no such world, or the network does not
      suit it.
  """
  spec = world_spec(config.env)
  make_networks(spec, config=config.network)  # it refuses what does not suit it
  # None on CPUs: there the device's memory is the host's.
  stats = jax.local_devices()[0].memory_stats() or {}
  return make_plan(
      config.updated({"run.run_dir": str(run_dir)}),
      spec,
      device_limit_bytes=stats.get("bytes_limit"),
      num_devices=num_learner_devices(config),
  )


def check_run_fits(config: Config, run_dir: pathlib.Path) -> None:
  """Raises ConfigError where it does not; the message says what would."""
  check_plan(plan_run(config, run_dir))
