"""Builds a run's parts, in the order of needs; restores what was saved."""

from collections.abc import Callable
import contextlib
import functools
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from r2d2_jax.agent.agent import Agent, MakeAgent
from r2d2_jax.agent.learning import learner_shardings
from r2d2_jax.config import Config, EnvConfig
from r2d2_jax.envs.journal import JournalWorld
from r2d2_jax.envs.make import MakeWorld
from r2d2_jax.envs.world import World
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.make import make_replay
from r2d2_jax.replay.no_replay import NoReplay
from r2d2_jax.system.devices import learner_mesh
from r2d2_jax.system.evaluation import Evaluation
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.learner import LearnerLoop, Prefetcher
from r2d2_jax.system.loops.parameters import ParameterStore, Source
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.system.loops.shapes import batch_shapes
from r2d2_jax.system.loops.shared import SharedLearner
from r2d2_jax.system.loops.workers import (
  Worker,
  Workers,
  worker_config,
)
from r2d2_jax.system.metrics.columns import COLUMNS
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.system.metrics.sinks import Sink, make_sinks
from r2d2_jax.system.run.background import Background
from r2d2_jax.system.run.errors import RunError
from r2d2_jax.system.run.resumed import Resumed, find_resumed, world_seed
from r2d2_jax.system.run.state import RunState
from r2d2_jax.system.storage.checkpoints import CheckpointError, restore_learner
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.storage.origin import record_start
from r2d2_jax.system.storage.rundir import write_config

# How long closing the environments may take, and what is still compiling.
_CLOSE_SECONDS = 10.0


class Parts(NamedTuple):
  """What a run is made of."""

  config: Config
  run_dir: pathlib.Path
  make_world: MakeWorld
  agent: Agent
  mesh: Mesh | None
  replay: Any
  parameters: Source
  ratio: ReplayRatio
  samples: SampleStats
  probe: Probe
  learner: LearnerLoop | SharedLearner
  actors: ActorLoop | Workers
  prefetcher: Prefetcher | None  # None: workers learn from what they play
  report: RunReport
  state: RunState
  log: RunLog
  sinks: list[Sink]
  # None: in this process.
  evaluate: Callable[..., Evaluation] | None = None


def build(
  config: Config,
  run_dir: pathlib.Path,
  *,
  make_world: MakeWorld,
  make_agent: MakeAgent,
  closers: contextlib.ExitStack,
  say: Callable[[str], None],
) -> Parts:
  """World, agent, learner, replay, actors.

  Args:
    config: the run's settings.
    run_dir: claimed; may hold a checkpoint to go on from.
    make_world: as `envs.make.make_world`.
    make_agent: as `agent.agent.make_agent`.
    closers: gets what has to be closed, the last built first.
    say: takes a line for the user.

  Raises:
    UserError: settings, files or packages do not do.
    RunError: the replay's server does not start.
    Exception: whatever a world or an agent raises.
  """
  resumed = find_resumed(run_dir, config)
  starts = resumed.starts if resumed else 0
  log, sinks = open_log(config, run_dir, resumed, closers, say)
  mesh = learner_mesh(config)
  params_key, actor_key = jax.random.split(jax.random.key(config.run.seed))

  def opened(env: EnvConfig, seed: int) -> World:
    world = make_world(env, seed=seed)
    closers.callback(_close_in_time, world.close)
    return JournalWorld(world) if config.run.lockstep else world

  seed = world_seed(config.run.seed, starts)
  has_workers = config.agent.algorithm == "a3c"
  if has_workers:
    one_lane = worker_config(config).env
    # Seeds as of later starts: no worker plays another one's games.
    worlds = [
      opened(one_lane, world_seed(seed, 1 + i))
      for i in range(config.env.num_envs)
    ]
  else:
    worlds = [opened(config.env, seed)]
  world = worlds[0]
  agent = make_agent(world.spec, config)
  learner_state = agent.init(params_key)
  if resumed:
    learner_state = restore_learner(resumed.checkpoint, learner_state)
  if (found := jax.local_device_count()) > 1:
    say(f"learner: {mesh.size if mesh else 1} of {found} devices")
  core_state = jax.device_get(agent.initial_core_state(1))
  replay: Any = NoReplay()
  if not has_workers:
    replay = _make_replay(config, run_dir, world.spec, core_state, resumed, say)
  closers.callback(replay.close)
  ratio = ReplayRatio(
    config.replay.replay_ratio,
    # Room for two batches and two vector steps: neither side waits for the
    # other within a turn.
    slack_rows=2 * config.agent.batch_size * (config.agent.trace_length - 1)
    + int(2 * config.env_batch * config.replay.replay_ratio),
  )
  samples = SampleStats(config.env.num_envs)
  probe = Probe(
    config,
    world.spec,
    core_state,
    agent=agent,
    restore_from=resumed.probe_dir if resumed else None,
  )
  if starts:
    actor_key = jax.random.fold_in(actor_key, starts)
  count_steps = lambda: ratio.env_steps
  prefetcher = None
  if has_workers:
    learner = parameters = SharedLearner(
      config, agent=agent, state=learner_state, ratio=ratio, samples=samples
    )
    actors = Workers(
      [
        Worker(
          config,
          i,
          world=worlds[i],
          agent=agent,
          learner=learner,
          key=jax.random.fold_in(actor_key, i),
          count_steps=count_steps,
        )
        for i in range(len(worlds))
      ],
      in_threads=not config.run.lockstep,
    )
  else:
    parameters = ParameterStore(
      learner_state.params, int(learner_state.num_updates)
    )
    learner = LearnerLoop(
      config,
      agent=agent,
      state=learner_state,
      replay=replay,
      parameters=parameters,
      mesh=mesh,
    )
    # While the actors start and fill the replay.
    learner.compile_ahead(
      batch_shapes(
        config,
        world.spec,
        agent,
        sharding=learner_shardings(mesh)[1] if mesh else None,
      )
    )
    closers.callback(learner.wait_for_compiler, _CLOSE_SECONDS)
    actors = ActorLoop(
      config,
      world=world,
      agent=agent,
      parameters=parameters,
      insert=replay.insert,
      key=actor_key,
      count_steps=count_steps,
      probe=probe,
    )
    prefetcher = Prefetcher(replay, config, mesh=mesh)
  report = RunReport(
    config, frame_skip=world.spec.frame_skip, epsilon=actors.epsilon
  )
  state = RunState(
    config,
    run_dir,
    starts=starts,
    learner=learner,
    actors=actors,
    replay=replay,
    ratio=ratio,
    report=report,
    samples=samples,
    probe=probe,
    log=log,
  )
  if resumed:
    state.restore(resumed)
    _say_where_from(resumed, report.minutes(), replay.size(), say)
  else:
    state.start_afresh()
  # World, agent and checkpoint have accepted the settings: now it is a run.
  write_config(run_dir, config)
  record_start(run_dir)
  return Parts(
    config,
    run_dir,
    make_world,
    agent,
    mesh,
    replay,
    parameters,
    ratio,
    samples,
    probe,
    learner,
    actors,
    prefetcher,
    report,
    state,
    log,
    sinks,
  )


def open_log(
  config: Config,
  run_dir: pathlib.Path,
  resumed: Resumed | None,
  closers: contextlib.ExitStack,
  say: Callable[[str], None],
) -> tuple[RunLog, list[Sink]]:
  """A run's log, new or resumed, and other sinks; `closers` closes them."""
  log = RunLog(run_dir / "log.csv")
  if new := log.new_columns(COLUMNS):
    say(f"log.csv gets new columns, NaN so far: {', '.join(new)}")
  sinks = make_sinks(
    config,
    run_dir,
    steps=resumed.checkpoint.steps if resumed else 0,
    say=say,
  )
  for sink in sinks:
    closers.callback(sink.close)
  return log, sinks


def _make_replay(config, run_dir, spec, core_state, resumed, say):
  """The replay, with what was saved of it, or empty."""
  make = functools.partial(
    make_replay, config, spec, core_state, scratch=run_dir / ".replay"
  )
  if resumed and resumed.replay_dir:
    try:
      return make(restore_from=resumed.replay_dir)
    except ReplayError as error:
      if resumed.exact:
        raise CheckpointError(str(error)) from error
      say(f"the replay is filled anew: {error}")
  try:
    return make()
  except ReplayError as error:
    raise RunError(str(error)) from error


def _say_where_from(
  resumed: Resumed, minutes: float, items: int, say: Callable[[str], None]
) -> None:
  checkpoint = resumed.checkpoint
  say(
    f"resuming from {checkpoint.path}: update {checkpoint.num_updates}, step"
    f" {checkpoint.steps}, {minutes:.1f} minutes, {items} items in the replay"
    + (", exactly" if resumed.exact else "; the lanes begin new games")
  )
  if resumed.changed:
    say(f"changed settings: {', '.join(resumed.changed)}")


def _close_in_time(close: Callable[[], None]) -> None:
  """Closes what may hang: it is then left to end with the process."""
  closer = Background("closer")
  closer.start(close)
  closer.join(_CLOSE_SECONDS)
  closer.raise_error()
