"""The plan of a run on this machine, made and shown before it starts."""

import pathlib

from rich.console import Console

from r2d2_jax.agent.agent import MakeAgent
from r2d2_jax.agent.agent import make_agent as make_usual_agent
from r2d2_jax.config import Config
from r2d2_jax.envs.make import MakeWorld, world_spec
from r2d2_jax.system.devices import find_devices, num_learner_devices
from r2d2_jax.system.planning.plan import Plan, check_plan, make_plan
from r2d2_jax.system.planning.words import print_plan


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
    UserError: there is no such world, or the network does not suit it.
  """
  device = find_devices()[0]
  spec = world_spec(config.env, make_world)
  # None on CPUs: there the device's memory is the host's.
  stats = device.memory_stats() or {}
  return make_plan(
    config.updated({"run.run_dir": str(run_dir)}),
    spec,
    agent=make_agent(spec, config),
    device_limit_bytes=stats.get("bytes_limit"),
    num_devices=num_learner_devices(config),
    platform=device.platform,
  )


def check_run_fits(
  config: Config,
  run_dir: pathlib.Path,
  *,
  console: Console,
  make_world: MakeWorld | None = None,
  make_agent: MakeAgent = make_usual_agent,
) -> None:
  """Shows the plan of a run, and refuses what cannot fit.

  Args:
    config: validated.
    run_dir: where the run is, or will be; it is not created.
    console: where the plan is shown.
    make_world, make_agent: of the run.

  Raises:
    UserError: as `plan_run`, or it does not fit: see `check_plan`.
  """
  plan = plan_run(config, run_dir, make_world=make_world, make_agent=make_agent)
  print_plan(plan, console)
  check_plan(plan)
