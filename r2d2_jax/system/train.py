"""A run from its first step to its evaluation: who is built, who runs when.

Two modes share every part. *Threaded*: actors, prefetcher and learner in threads
of their own, the calling thread watches, logs and saves. *Lock-step*: everything
in the calling thread, strictly alternating, repeatable bit for bit.
"""

import pathlib
import queue
import threading
import time
from typing import Callable, NamedTuple

import jax
from rich.console import Console

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config, validate
from r2d2_jax.envs.make import make_world
from r2d2_jax.replay.make import make_replay
from r2d2_jax.system.acting import ActorLoop
from r2d2_jax.system.checkpoints import Checkpoints
from r2d2_jax.system.display import progress_display, progress_line
from r2d2_jax.system.evaluation import Evaluation, evaluate, write_evaluation
from r2d2_jax.system.learning import (
    Batch,
    LearnerLoop,
    Prefetcher,
    learner_mesh,
)
from r2d2_jax.system.parameters import ParameterStore
from r2d2_jax.system.plots import plot_learning_curve
from r2d2_jax.system.ratio import ReplayRatio
from r2d2_jax.system.report import RunReport, summary
from r2d2_jax.system.rundir import claim_run_dir, write_config
from r2d2_jax.system.runlog import RunLog
from r2d2_jax.types import LearnerState

# How long a blocked thread waits before it looks whether the run has stopped.
_TURN_SECONDS = 0.2
# How often the replay is asked for a sign of life, and how long it has for it.
_HEARTBEAT_SECONDS = 5.0
# Games that the agent was not trained on: the training's seeds are far away.
_EVAL_SEED_OFFSET = 1_000_003


class TrainResult(NamedTuple):
  """What a finished or interrupted run leaves in memory."""

  state: LearnerState  # host arrays
  steps: int  # agent steps, those before a resume included
  evaluation: Evaluation | None
  interrupted: bool
  replay_ratio: float  # as measured since the start or resume


def train(
    config: Config,
    *,
    run_dir: pathlib.Path,
    console: Console | None = None,
) -> TrainResult:
  """Trains, and at the end evaluates; everything lands in run_dir.

  The directory gets config.json, log.csv, checkpoints/, evaluation.csv and
  learning_curve.png. If it holds a checkpoint of the same network, the run goes
  on from it: parameters, optimiser, target network and counters; the replay is
  filled anew.

  Ctrl-C saves and returns with `interrupted` set.

  Args:
    config: all settings; checked first.
    run_dir: created if missing.
    console: where progress is shown; None shows nothing.

  Raises:
    ConfigError: the settings cannot work, or run_dir cannot be used; nothing was
      started.
    CheckpointError: the directory's checkpoint is of another network.
    ReplayError: the replay server died.
    Exception: whatever was raised in any of the threads.
  """
  validate(config)
  claim_run_dir(run_dir, config)
  run = _Run(config, run_dir, console or Console(quiet=True))
  try:
    run.build()
    return run.run()
  finally:
    run.close()


class _Run:
  """The parts of one run and the loops over them."""

  def __init__(self, config: Config, run_dir: pathlib.Path, console: Console):
    self._config = config
    self._run_dir = run_dir
    self._console = console
    self._closers: list[Callable[[], None]] = []
    self._stop = threading.Event()

  def build(self) -> None:
    """World, networks, learner, replay, actors: in the order of their needs."""
    config = self._config
    self._mesh = learner_mesh(config)
    params_key, actor_key = jax.random.split(jax.random.key(config.run.seed))
    world = make_world(config.env, seed=config.run.seed)
    self._closers.append(world.close)
    self._networks = make_networks(world.spec, config=config.network)
    # World and network have accepted the settings: only now is it a run.
    write_config(self._run_dir, config)
    optimizer = make_optimizer(config.agent)
    state = init_learner_state(
        params_key, networks=self._networks, optimizer=optimizer
    )
    self._checkpoints = Checkpoints(self._run_dir)
    self._closers.append(self._checkpoints.close)
    counters = {"steps": 0, "minutes": 0.0}
    if restored := self._checkpoints.restore(state):
      state, counters = restored
      self._say(
          f"resuming from update {int(state.num_updates)}, step"
          f" {counters['steps']}; the replay is filled anew"
      )
    if (found := jax.local_device_count()) > 1:
      used = self._mesh.size if self._mesh else 1
      self._say(f"learner: {used} of {found} devices")
    self._steps_before = counters["steps"]
    self._replay = make_replay(
        config, world.spec, jax.device_get(self._networks.initial_core_state(1))
    )
    self._closers.append(self._replay.close)
    self._parameters = ParameterStore(state.params)
    self._learner = LearnerLoop(
        config,
        networks=self._networks,
        optimizer=optimizer,
        state=state,
        replay=self._replay,
        parameters=self._parameters,
        mesh=self._mesh,
    )
    self._actors = ActorLoop(
        config,
        world=world,
        networks=self._networks,
        parameters=self._parameters,
        insert=self._replay.insert,
        key=actor_key,
    )
    self._prefetcher = Prefetcher(self._replay, config, mesh=self._mesh)
    self._ratio = ReplayRatio(
        config.replay.replay_ratio,
        # Room for two batches and two vector steps: neither side waits for the
        # other within a turn.
        slack_rows=2 * config.agent.batch_size * (config.agent.trace_length - 1)
        + int(2 * config.env_batch * config.replay.replay_ratio),
    )
    self._log = RunLog(self._run_dir / "log.csv")
    self._report = RunReport(
        config,
        frame_skip=world.spec.frame_skip,
        epsilon=self._actors.epsilon,
        updates=self._learner.num_updates,
        **counters,
    )

  def run(self) -> TrainResult:
    """The training, the last save, the evaluation."""
    interrupted = False
    with progress_display(self._console) as self._show:
      try:
        if self._config.run.lockstep:
          self._run_lockstep()
        else:
          self._run_threads()
      except KeyboardInterrupt:
        interrupted = True
      self._report.end_training()
      self._learner.flush()
      self._write_log()
      state = self._save()
    evaluation = None
    if self._config.run.eval_episodes and not interrupted:
      try:
        evaluation = self._evaluate()
      except KeyboardInterrupt:
        interrupted = True
    self._plot()
    if interrupted:
      self._say(
          f"interrupted; saved in {self._run_dir}. To go on, start again with"
          f" --run.run-dir {self._run_dir}"
      )
    return TrainResult(
        state, self._steps, evaluation, interrupted, self._ratio.measured()
    )

  # One step of each side, the same in both modes.

  def _act(self) -> None:
    steps, episodes = self._actors.step()
    self._ratio.add_steps(steps)
    for episode in episodes:
      self._report.count_episode(episode)

  def _learn(self, batch: Batch) -> None:
    self._ratio.start()
    self._ratio.add_trained_rows(batch.trained_rows)
    self._learner.step(batch)

  # The two modes.

  def _run_lockstep(self) -> None:
    agent = self._config.agent
    chores = _Chores(self._config, log=self._write_log, save=self._save)
    while not self._is_over():
      if self._replay_is_filled() and self._ratio.learner_may_train():
        sample = self._replay.sample(agent.batch_size, timeout_seconds=10.0)
        self._learn(Batch(sample, agent.burn_in, self._mesh))
        # Written back before anything else is sampled: a fixed order.
        self._learner.flush()
      else:
        self._act()
      chores.do()

  def _run_threads(self) -> None:
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def guarded(loop: Callable[[], None]) -> None:
      try:
        loop()
      except BaseException as error:  # pylint: disable=broad-except
        failures.put(error)
        self._stop.set()

    threads = [
        # Daemons: one that hangs behind a dead server must not keep the process
        # alive once the failure has been reported.
        threading.Thread(target=guarded, args=[loop], name=name, daemon=True)
        for name, loop in (
            ("actors", self._actor_thread),
            ("prefetcher", self._prefetcher_thread),
            ("learner", self._learner_thread),
        )
    ]
    for thread in threads:
      thread.start()
    chores = _Chores(
        self._config,
        log=self._write_log,
        save=self._save,
        heartbeat=lambda: self._replay.check_alive(
            timeout_seconds=_HEARTBEAT_SECONDS
        ),
    )
    try:
      while not self._stop.wait(chores.seconds_to_next()):
        chores.do()
    finally:
      self._stop.set()
      deadline = time.monotonic() + 10.0
      for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
    if not failures.empty():
      raise failures.get()

  def _actor_thread(self) -> None:
    while not self._stop.is_set():
      if self._is_over():
        self._stop.set()
        return
      with self._actors.timer.leg("wait_for_learner"):
        may_step = self._ratio.wait_for_actors_turn(_TURN_SECONDS)
      if may_step:
        self._act()

  def _prefetcher_thread(self) -> None:
    while not self._replay_is_filled():
      if self._stop.wait(0.05):
        return
    self._prefetcher.run(self._stop)

  def _learner_thread(self) -> None:
    batch = None
    while not self._stop.is_set():
      if batch is None:
        with self._learner.timer.leg("wait_for_data"):
          batch = self._prefetcher.get(_TURN_SECONDS)
        if batch is None:
          continue
      with self._learner.timer.leg("wait_for_actors"):
        may_train = self._ratio.wait_for_learner_turn(_TURN_SECONDS)
      if may_train:
        self._learn(batch)
        batch = None

  # Questions and chores.

  @property
  def _steps(self) -> int:
    return self._steps_before + self._ratio.env_steps

  def _replay_is_filled(self) -> bool:
    return self._replay.size() >= self._config.replay.min_sequences

  def _is_over(self) -> bool:
    run = self._config.run
    return self._steps >= run.total_steps or (
        run.max_minutes > 0 and self._report.minutes() >= run.max_minutes
    )

  def _write_log(self, **evaluation: float) -> None:
    row = self._report.row(
        steps=self._steps,
        updates=self._learner.num_updates,
        replay_size=self._replay.size(),
        replay_ratio=self._ratio.measured(),
        metrics=self._learner.metrics(),
        leg_seconds={
            **self._actors.timer.seconds(),
            **self._prefetcher.timer.seconds(),
            **self._learner.timer.seconds(),
        },
        **evaluation,
    )
    self._log.write(row)
    if not evaluation:
      self._show(progress_line(row, self._config))

  def _save(self) -> LearnerState:
    state = self._learner.state()
    self._checkpoints.save(
        state, {"steps": self._steps, "minutes": self._report.minutes()}
    )
    return state

  def _evaluate(self) -> Evaluation:
    run = self._config.run
    self._say(f"evaluating {run.eval_episodes} whole games")
    evaluation = evaluate(
        self._parameters.latest(),
        networks=self._networks,
        config=self._config,
        num_episodes=run.eval_episodes,
        seed=run.seed + _EVAL_SEED_OFFSET,
    )
    write_evaluation(
        self._run_dir, evaluation, num_updates=self._learner.num_updates
    )
    self._write_log(eval_return=float(evaluation.returns.mean()))
    self._say(f"evaluation: {summary(evaluation.returns)}")
    return evaluation

  def _plot(self) -> None:
    path = self._run_dir / "learning_curve.png"
    plot_learning_curve(
        self._run_dir / "log.csv", path, title=self._config.env.task
    )
    self._say(f"wrote {path}")

  def _say(self, text: str) -> None:
    self._console.print(text, highlight=False, soft_wrap=True)

  def close(self) -> None:
    """Stops and closes every part, the last built first."""
    self._stop.set()
    while self._closers:
      self._closers.pop()()


class _Chores:
  """What the watching thread does every so often: log, save, heartbeat."""

  def __init__(
      self,
      config: Config,
      *,
      log: Callable[[], None],
      save: Callable[[], object],
      heartbeat: Callable[[], None] = lambda: None,
  ):
    self._chores = [
        (config.run.log_seconds, log),
        (60 * config.run.checkpoint_minutes, save),
        (_HEARTBEAT_SECONDS, heartbeat),
    ]
    now = time.monotonic()
    self._due = [now + period for period, _ in self._chores]

  def seconds_to_next(self) -> float:
    return max(0.0, min(self._due) - time.monotonic())

  def do(self) -> None:
    """Does what is due."""
    for i, (period, chore) in enumerate(self._chores):
      if time.monotonic() >= self._due[i]:
        chore()
        self._due[i] = time.monotonic() + period
