"""The plan of a run on this machine, made before it starts."""

import pathlib

from r2d2_jax.agent.agent import MakeAgent, make_agent as make_usual_agent
from r2d2_jax.config import Config
from r2d2_jax.envs.make import MakeWorld, world_spec
from r2d2_jax.system.devices import find_devices, num_learner_devices
from r2d2_jax.system.planning.plan import Plan, check_plan, make_plan

def plan_run(
    config: Config,
    run_dir: pathlib.Path,
    *,
    make_world: MakeWorld | None = None,
    make_agent: MakeAgent = make_usual_agent,
) -> Plan:
  """What a run in this directory would take, on this machine.

  Raises:
    ConfigError: fewer devices than asked for, or none of the kind.
    UserError: there is no such world, or the network does not
      suit it.
  """
  devices = find_devices()
  spec = world_spec(config.env, make_world)
  make_agent(spec, config)  # it refuses what does not suit it
  # None on CPUs: there the device's memory is the host's.
  stats = devices[0].memory_stats() or {}
  return make_plan(
      config.updated({"run.run_dir": str(run_dir)}),
      spec,
      device_limit_bytes=stats.get("bytes_limit"),
      num_devices=num_learner_devices(config),
      platform=devices[0].platform,
  )


def check_run_fits(
    config: Config,
    run_dir: pathlib.Path,
    *,
    make_world: MakeWorld | None = None,
    make_agent: MakeAgent = make_usual_agent,
) -> None:
  """Raises ConfigError where it does not; the message says what would."""
  check_plan(
      plan_run(
          config, run_dir, make_world=make_world, make_agent=make_agent
      )
  )
