"""Trains on many processes: the call behind `python -m experiments.cluster`."""

from collections.abc import Callable
import contextlib
import functools
import pathlib
import threading
from typing import Any

from rich.console import Console

from r2d2_jax.agent.agent import make_agent
from r2d2_jax.cluster.build import build
from r2d2_jax.cluster.conductor import Conductor, in_thread
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.nodes import check_room, joined, reserved
from r2d2_jax.cluster.places import needed_cpus, places
from r2d2_jax.cluster.plan import check_memory, make_cluster_plan
from r2d2_jax.cluster.settings import ClusterConfig, check_values
from r2d2_jax.cluster.topology import (
  check_cluster,
)
from r2d2_jax.config import Config, UserError, validate
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.system.evaluation import open_evaluations
from r2d2_jax.system.planning.limits import free_memory_bytes
from r2d2_jax.system.run.build import Parts
from r2d2_jax.system.run.errors import RunError, explained
from r2d2_jax.system.run.finished import TrainResult, find_finished
from r2d2_jax.system.run.interrupts import heard_signals
from r2d2_jax.system.run.monitor import Columns, Monitor
from r2d2_jax.system.run.output import unfailing
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.turns import is_over
from r2d2_jax.system.storage.rundir import claimed_run_dir
from r2d2_jax.system.train import run_parts

_TURN_SECONDS = 0.2
_END_SECONDS = 15.0


def train_on_cluster(
  config: Config,
  cluster: ClusterConfig,
  *,
  run_dir: str | pathlib.Path,
  on_row: Callable[[Columns], None] | None = None,
  stop: threading.Event | None = None,
  console: Console | None = None,
) -> TrainResult:
  """Trains as `train` does, with its parts in processes of a Ray cluster.

  The run's directory holds what that of `train` holds, and is read by the same
  commands; besides, cluster.json and the processes' logs. This process is the
  coordinator: it counts, logs, saves and watches, and ends all others when it
    ends. A second start in the same directory goes on from the last checkpoint,
    with any number of actor hosts, learner hosts and shards: what the shards
    have saved is dealt out to the new ones.

  Args:
    config: all settings, with `env.num_envs` as `topology.with_lanes` gives it.
    cluster: how many processes, and where.
    run_dir: on a file system that all nodes of replay shards share.
    on_row: see `train`.
    stop: see `train`.
    console: see `train`.

  Raises:
    ConfigError: the settings cannot work, Ray cannot be reached or has not the
      room, nodes differ; nothing was started.
    RunError: the run had to stop; the message says where it goes on from.
    KeyboardInterrupt: a signal came before the training began.
  """
  run_dir = pathlib.Path(run_dir)
  validate(config)
  check_values(cluster)
  check_cluster(config, cluster)
  console = console or Console(quiet=True)
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  doors: dict[str, Any] = {"make_world": make_world, "make_agent": make_agent}
  with contextlib.ExitStack() as closers:
    request = closers.enter_context(heard_signals())
    closers.enter_context(request.deferred())
    closers.enter_context(unfailing(console))
    closers.enter_context(claimed_run_dir(run_dir, config))
    if finished := find_finished(config, run_dir, **doors):
      words, result = finished
      say(words)
      return result
    stopping = Stop(request, stop)
    own = closers.enter_context(joined(cluster.address, needed_cpus(cluster)))
    stopping.check()
    plan = make_cluster_plan(config, cluster, world_spec(config.env))
    if own:
      gib = config.limits.memory_gib
      check_memory(plan, gib * 2**30 if gib else free_memory_bytes())
    else:
      check_room(cluster)
    group = closers.enter_context(reserved(cluster))
    fleet = Fleet(
      places(cluster),
      run_dir,
      group=group,
      start_seconds=cluster.start_seconds,
      max_restarts=cluster.max_restarts,
    )
    closers.callback(fleet.end)
    try:
      parts, conductor = build(
        config, cluster, run_dir, fleet, closers, say, stopping
      )
    except (UserError, RunError, KeyboardInterrupt):
      raise
    except Exception as error:
      raise explained(error, run_dir) from error
    closers.callback(stopping.ended.set)
    return run_parts(
      parts,
      stopping,
      loops=functools.partial(_watch, conductor=conductor),
      console=console,
      say=say,
      on_row=on_row,
    )


def _watch(
  parts: Parts, monitor: Monitor, stop: Stop, *, conductor: Conductor
) -> bool:
  """Logs, saves and evaluates while the conductor's thread goes on."""
  failures: list[BaseException] = []
  thread = in_thread(conductor, stop, failures)
  chores = monitor.chores()
  try:
    while not (
      stop.ended.wait(min(_TURN_SECONDS, chores.seconds_to_next()))
      or stop.asked
    ):
      if conductor.cut_updates is not None:
        updates, conductor.cut_updates = conductor.cut_updates, None
        parts.log.cut(updates=updates)
        open_evaluations(parts.run_dir).cut(updates=updates)
      chores.do()
      if is_over(parts):
        stop.ended.set()
      if not stop.ended.is_set():
        monitor.raise_background_errors()
  finally:
    stop.ended.set()
    thread.join(_END_SECONDS)
  if failures:
    raise failures[0]
  return False
