"""Builds the parts of a run on a cluster, most of them far away."""

from collections.abc import Callable
import contextlib
import json
import pathlib
from typing import Any, cast

import jax
import numpy as np

from r2d2_jax.agent.acting import exploration
from r2d2_jax.agent.agent import make_agent
from r2d2_jax.cluster.conductor import Conductor
from r2d2_jax.cluster.facades import (
  FarActors,
  FarEvaluation,
  FarLearner,
  FarProbe,
  FarReplay,
  FarSamples,
  NoParameters,
  NoTimer,
)
from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.governor import Governor
from r2d2_jax.cluster.parameters import Newest
from r2d2_jax.cluster.settings import CLUSTER_FILE, ClusterConfig
from r2d2_jax.cluster.starts import Starts
from r2d2_jax.cluster.topology import actor_config, settings_of, topology_of
from r2d2_jax.cluster.work import Work
from r2d2_jax.config import Config
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.run.build import Parts, open_log
from r2d2_jax.system.run.resumed import find_resumed
from r2d2_jax.system.run.state import RunState
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.storage.checkpoints import restore_learner
from r2d2_jax.system.storage.files import replace_file
from r2d2_jax.system.storage.origin import record_start
from r2d2_jax.system.storage.rundir import write_config


def build(
  config: Config,
  cluster: ClusterConfig,
  run_dir: pathlib.Path,
  fleet: Fleet,
  closers: contextlib.ExitStack,
  say: Callable[[str], None],
  stop: Stop,
) -> tuple[Parts, Conductor]:
  """The parts of the run; starts the processes, restores what was saved.

  Args:
    config: of the run.
    cluster: of the cluster.
    run_dir: claimed; may hold a checkpoint to go on from.
    fleet: calls the processes.
    closers: gets what has to be closed, the last built first.
    say: takes a line for the user.
    stop: whether to give up.

  Returns:
    The parts, and who keeps the processes at work.

  Raises:
    UserError, RunError, KeyboardInterrupt: it cannot be, or shall not.
  """
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
  # Of the run's end, as `ActorLoop` has it.
  epsilon = np.asarray(
    exploration(topology.num_lanes, config=config.agent)(config.run.total_steps)
  )
  actors = FarActors()
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
  newest = Newest(state)
  work = Work(
    config,
    cluster,
    fleet=fleet,
    newest=newest,
    governor=governor,
    learner=learner,
    replay=replay,
    actors=actors,
    report=report,
    say=say,
  )
  processes = Starts(
    config,
    cluster,
    fleet=fleet,
    newest=newest,
    replay=replay,
    run_dir=run_dir,
    starts=starts,
    replay_dir=resumed.replay_dir if resumed else None,
    say=say,
  )
  conductor = Conductor(
    run_dir,
    fleet=fleet,
    starts=processes,
    work=work,
    newest=newest,
    governor=governor,
    learner=learner,
    say=say,
  )
  say(
    f"starting {topology.shards} replay shard(s), {topology.learners} learner"
    f" host(s), {topology.actors} actor host(s) of {host.env.num_envs} lanes"
  )
  if (saved := len(processes.saved_shards())) not in (0, topology.shards):
    say(
      f"the replay was saved in {saved} shard(s): its items are dealt out to"
      f" {topology.shards}"
    )
  conductor.start(stop)
  samples, probe = FarSamples(learner, topology.num_lanes), FarProbe(fleet)
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
  record_start(run_dir)
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
