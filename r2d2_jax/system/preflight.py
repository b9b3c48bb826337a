"""What is looked at before a run starts: devices, the plan. Imports little."""

import pathlib

import jax
from jax.extend.backend import clear_backends

from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.make import world_spec
from r2d2_jax.system.checkpoints import first_line
from r2d2_jax.system.plan import Plan, check_plan, make_plan

# What JAX's own wheels do not have.
_EXTRAS = {"cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}


def find_devices() -> list[jax.Device]:
  """The devices that JAX finds here.

  Raises:
    ConfigError: JAX_PLATFORMS asks for one that is not there.
  """
  asked = jax.config.jax_platforms
  try:
    return jax.local_devices()
  # AssertionError: CUDA without its plugin.
  except (RuntimeError, AssertionError) as error:
    if not asked:
      raise
    extras = {_EXTRAS.get(name) for name in asked.split(",")} - {None}
    raise ConfigError(
        f"JAX_PLATFORMS: expected a device of {asked!r}, but JAX finds"
        f" {_found_without_asking(asked)} here"
        + (f" ({first_line(error)})" if str(error) else "")
        + "; unset it"
        + "".join(
            f", or install the extra {extra!r}: pip install '.[{extra}]'"
            for extra in sorted(extras)
        )
    ) from error


def _found_without_asking(asked: str | None) -> str:
  """'cpu': the kinds of devices that JAX finds if nothing is asked for."""
  jax.config.update("jax_platforms", "")
  try:
    return ", ".join(sorted({device.platform for device in jax.local_devices()}))
  except RuntimeError:
    return "none"
  finally:
    # As if nobody had looked.
    clear_backends()
    jax.config.update("jax_platforms", asked)


def num_learner_devices(config: Config) -> int:
  """How many devices `run.learner_devices` asks for.

  Raises:
    ConfigError: JAX found fewer.
  """
  batch_size, count = config.agent.batch_size, config.run.learner_devices
  found = len(find_devices())
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
    ConfigError: fewer devices than asked for, or none of the kind.
    UserError: there is no such world, or the network does not
      suit it.
  """
  devices = find_devices()
  spec = world_spec(config.env)
  make_networks(spec, config=config.network)  # it refuses what does not suit it
  # None on CPUs: there the device's memory is the host's.
  stats = devices[0].memory_stats() or {}
  return make_plan(
      config.updated({"run.run_dir": str(run_dir)}),
      spec,
      device_limit_bytes=stats.get("bytes_limit"),
      num_devices=num_learner_devices(config),
      platform=devices[0].platform,
  )


def check_run_fits(config: Config, run_dir: pathlib.Path) -> None:
  """Raises ConfigError where it does not; the message says what would."""
  check_plan(plan_run(config, run_dir))
