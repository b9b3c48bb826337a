"""Trains on many processes: the call behind `python -m experiments.cluster`."""

from collections.abc import Callable
import contextlib
import functools
import json
import pathlib
import signal
import threading
from typing import Any, cast

import jax
from rich.console import Console

from r2d2_jax.agent.acting import epsilon_ladder
from r2d2_jax.agent.agent import make_agent
from r2d2_jax.cluster.conductor import Conductor, in_thread
from r2d2_jax.cluster.facades import (
  FarActors,
  FarEvaluation,
  FarLearner,
  FarReplay,
  FarSamples,
  NoParameters,
  NoProbe,
  NoTimer,
)
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.governor import Governor
from r2d2_jax.cluster.nodes import check_room, joined, reserved
from r2d2_jax.cluster.plan import check_memory, make_cluster_plan
from r2d2_jax.cluster.settings import ClusterConfig, check_values
from r2d2_jax.cluster.topology import (
  actor_config,
  check_cluster,
  settings_of,
  topology_of,
)
from r2d2_jax.config import Config, UserError, validate
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.system.evaluation import open_evaluations
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.planning.limits import free_memory_bytes
from r2d2_jax.system.run.build import Parts, open_log
from r2d2_jax.system.run.errors import RunError, explained
from r2d2_jax.system.run.finished import TrainResult, find_finished
from r2d2_jax.system.run.interrupts import heard_signals
from r2d2_jax.system.run.monitor import Columns, Monitor
from r2d2_jax.system.run.output import unfailing
from r2d2_jax.system.run.resumed import find_resumed
from r2d2_jax.system.run.state import RunState
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.turns import is_over
from r2d2_jax.system.storage.checkpoints import restore_learner
from r2d2_jax.system.storage.files import replace_file
from r2d2_jax.system.storage.rundir import claimed_run_dir, write_config
from r2d2_jax.system.train import run_parts

CLUSTER_FILE = "cluster.json"
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
    with any number of actor hosts and learner hosts; with another number of
    shards the replay is filled anew.

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
    with _own_handlers():
      own = closers.enter_context(joined(cluster))
    stopping.check()
    plan = make_cluster_plan(config, cluster, world_spec(config.env))
    if own:
      gib = config.limits.memory_gib
      check_memory(plan, gib * 2**30 if gib else free_memory_bytes())
    else:
      check_room(cluster)
    group = closers.enter_context(reserved(cluster))
    fleet = Fleet(cluster, group, run_dir, say)
    closers.callback(fleet.end)
    try:
      parts, conductor = _build(
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


def _build(
  config: Config,
  cluster: ClusterConfig,
  run_dir: pathlib.Path,
  fleet: Fleet,
  closers: contextlib.ExitStack,
  say: Callable[[str], None],
  stop: Stop,
) -> tuple[Parts, Conductor]:
  """The parts of the run, most of them far away; restores what was saved."""
  topology = topology_of(config, cluster)
  resumed = find_resumed(run_dir, config)
  starts = resumed.starts if resumed else 0
  log, sinks = open_log(config, run_dir, resumed, closers, say)
  spec = world_spec(config.env)
  agent = make_agent(spec, config)
  params_key, _ = jax.random.split(jax.random.key(config.run.seed))
  state = jax.device_get(agent.init(params_key))
  if resumed:
    state = jax.device_get(restore_learner(resumed.checkpoint, state))
  num_updates = int(state.num_updates)
  learner = FarLearner(fleet, num_updates, cluster.start_seconds)
  replay = FarReplay(fleet, topology.shards)
  epsilon = epsilon_ladder(
    topology.num_lanes,
    base=config.agent.epsilon_base,
    alpha=config.agent.epsilon_alpha,
  )
  actors = FarActors(epsilon)
  report = RunReport(config, frame_skip=spec.frame_skip, epsilon=epsilon)
  host = actor_config(config, cluster)
  update_rows = config.agent.batch_size * (config.agent.trace_length - 1)
  governor = Governor(
    config.replay.replay_ratio,
    call_steps=[host.env_batch] * topology.actors,
    update_rows=update_rows,
    lease_seconds=cluster.lease_seconds,
    total_steps=config.run.total_steps,
    min_slack_rows=2 * update_rows
    + int(2 * config.env_batch * config.replay.replay_ratio),
  )
  conductor = Conductor(
    config,
    cluster,
    topology,
    fleet=fleet,
    run_dir=run_dir,
    state=state,
    starts=starts,
    replay_dir=resumed.replay_dir if resumed else None,
    say=say,
  )
  conductor.connect(
    learner=learner,
    replay=replay,
    actors=actors,
    governor=governor,
    report=report,
  )
  say(
    f"starting {topology.shards} replay shard(s), {topology.learners} learner"
    f" host(s), {topology.actors} actor host(s) of {host.env.num_envs} lanes"
  )
  conductor.start(stop)
  samples, probe = FarSamples(learner, topology.num_lanes), NoProbe()
  far = cast(Any, None)
  run_state = RunState(
    config,
    run_dir,
    starts=starts,
    learner=cast(Any, learner),
    actors=cast(Any, actors),
    replay=replay,
    ratio=cast(Any, governor),
    report=report,
    samples=cast(Any, samples),
    probe=cast(Any, probe),
    log=log,
  )
  if resumed:
    run_state.restore(resumed)
    say(
      f"resuming from {resumed.checkpoint.path}: update {num_updates}, step"
      f" {resumed.checkpoint.steps}, {report.minutes():.1f} minutes,"
      f" {replay.size()} items in the replay; the lanes begin new games"
    )
    if resumed.changed:
      say(f"changed settings: {', '.join(resumed.changed)}")
  else:
    run_state.start_afresh()
  write_config(run_dir, config)
  text = json.dumps(settings_of(cluster), indent=2) + "\n"
  replace_file(run_dir / CLUSTER_FILE, text.encode())
  evaluate = (
    FarEvaluation(fleet, cluster.start_seconds) if cluster.evaluators else None
  )
  parts = Parts(
    config,
    run_dir,
    make_world,
    agent,
    far,
    replay,
    cast(Any, NoParameters()),
    cast(Any, governor),
    cast(Any, samples),
    cast(Any, probe),
    cast(Any, learner),
    cast(Any, actors),
    cast(Any, NoTimer()),
    report,
    run_state,
    log,
    sinks,
    evaluate,
  )
  return parts, conductor


def _watch(
  parts: Parts, monitor: Monitor, stop: Stop, *, conductor: Conductor
) -> bool:
  """Logs, saves and evaluates while the conductor's thread goes on."""
  failures: list[BaseException] = []
  conductor.was_started = True
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


@contextlib.contextmanager
def _own_handlers():
  """Within it whoever takes a signal's handler gives it back."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.getsignal(number) for number in numbers}
  try:
    yield
  finally:
    for number, handler in before.items():
      if handler is not None:
        signal.signal(number, handler)
