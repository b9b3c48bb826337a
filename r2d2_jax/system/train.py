"""A run from its first step to its evaluation: who is built, who runs when.

Two modes share every part. *Threaded*: actors, prefetcher and learner in threads
of their own, the calling thread watches, logs and saves. *Lock-step*: everything
in the calling thread, strictly alternating, repeatable bit for bit.
"""

import collections
import pathlib
import queue
import threading
import time
from typing import Callable, NamedTuple

import jax
import numpy as np
from rich.console import Console

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config, ConfigError, validate
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.replay.make import make_replay
from r2d2_jax.system.acting import ActorLoop
from r2d2_jax.system.checkpoints import (
    CheckpointError,
    Checkpoints,
    read_config,
    write_config,
)
from r2d2_jax.system.display import progress_display, progress_line
from r2d2_jax.system.evaluation import Evaluation, evaluate
from r2d2_jax.system.learning import Batch, LearnerLoop, Prefetcher
from r2d2_jax.system.parameters import ParameterStore
from r2d2_jax.system.plots import plot_learning_curve
from r2d2_jax.system.ratio import ReplayRatio
from r2d2_jax.system.runlog import RunLog
from r2d2_jax.types import LearnerState

# Lanes that explore less than this show what the agent can do.
_EXPLOIT_EPSILON = 0.02
_NAN = float("nan")


class TrainResult(NamedTuple):
  """What a finished or interrupted run leaves in memory."""

  state: LearnerState  # host arrays
  steps: int
  evaluation: Evaluation | None
  interrupted: bool
  replay_ratio: float  # as measured


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
    ConfigError: the settings cannot work; nothing was started.
    CheckpointError: the directory's checkpoint is of another network.
    Exception: whatever was raised in any of the threads.
  """
  validate(config)
  run = _Run(config, run_dir, console or Console(quiet=True))
  try:
    return run.run()
  finally:
    run.close()


class _Run:
  """The parts of one run and the loops over them."""

  def __init__(self, config: Config, run_dir: pathlib.Path, console: Console):
    self._config = config
    self._console = console
    self._run_dir = run_dir
    _claim_directory(run_dir, config)
    self._closers: list[Callable[[], None]] = []
    try:
      self._build()
    except BaseException:
      self.close()
      raise

  def _build(self) -> None:
    config = self._config
    params_key, actor_key = jax.random.split(jax.random.key(config.run.seed))
    self._world = make_world(config.env, seed=config.run.seed)
    self._closers.append(self._world.close)
    spec = self._world.spec
    self._frame_skip = spec.frame_skip
    self._networks = make_networks(spec, config=config.network)
    optimizer = make_optimizer(config.agent)
    state = init_learner_state(
        params_key, networks=self._networks, optimizer=optimizer
    )
    self._checkpoints = Checkpoints(self._run_dir)
    self._closers.append(self._checkpoints.close)
    self._steps_before = 0
    self._minutes_before = 0.0
    if restored := self._checkpoints.restore(state):
      state, counters = restored
      self._steps_before = int(counters["steps"])
      self._minutes_before = counters["minutes"]
      self._console.print(
          f"resuming {self._run_dir} from update {int(state.num_updates)},"
          f" step {self._steps_before}; the replay is filled anew",
          highlight=False,
      )
    self._replay = make_replay(
        config, spec, jax.device_get(self._networks.initial_core_state(1))
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
    )
    # The learner has donated it by the time anybody could look.
    del state
    self._actors = ActorLoop(
        config,
        world=self._world,
        networks=self._networks,
        parameters=self._parameters,
        insert=self._replay.insert,
        key=actor_key,
    )
    self._prefetcher = Prefetcher(self._replay, config)
    rows = config.agent.batch_size * (config.agent.trace_length - 1)
    self._ratio = ReplayRatio(
        config.replay.replay_ratio,
        slack_rows=int(
            2 * rows + config.replay.replay_ratio * 2 * config.env_batch
        ),
    )
    self._exploit_lanes = self._actors.epsilon <= max(
        _EXPLOIT_EPSILON, self._actors.epsilon.min()
    )
    self._returns: collections.deque[float] = collections.deque(maxlen=100)
    self._exploit_returns: collections.deque[float] = collections.deque(
        maxlen=30
    )
    self._num_episodes = 0
    self._log = RunLog(self._run_dir / "log.csv")
    self._stop = threading.Event()

  # One step of each side, the same in both modes.

  def _act(self) -> None:
    steps, episodes = self._actors.step()
    self._ratio.add_steps(steps)
    for episode in episodes:
      self._count(episode)

  def _learn(self, batch: Batch) -> None:
    self._ratio.start()
    self._ratio.add_trained_rows(batch.trained_rows)
    self._learner.step(batch)

  def _count(self, episode: EpisodeReport) -> None:
    self._num_episodes += 1
    self._returns.append(episode.episode_return)
    if self._exploit_lanes[episode.env_id]:
      self._exploit_returns.append(episode.episode_return)

  def _replay_is_filled(self) -> bool:
    return self._replay.size() >= self._config.replay.min_sequences

  # The two modes.

  def run(self) -> TrainResult:
    """The training, the last save, the evaluation."""
    self._start = time.monotonic()
    self._last = (
        self._start,
        self._steps_before,
        self._learner.num_updates,
        {},
    )
    interrupted = False
    with progress_display(self._console) as show:
      self._show = show
      try:
        if self._config.run.lockstep:
          self._run_lockstep()
        else:
          self._run_threads()
      except KeyboardInterrupt:
        interrupted = True
      self._learner.flush()
      self._write_log()
      state = self._save()
    evaluation = None
    if self._config.run.eval_episodes and not interrupted:
      evaluation = self._evaluate()
    self._plot()
    if interrupted:
      self._console.print(
          f"interrupted; saved in {self._run_dir}: the same command goes on"
          " from there",
          highlight=False,
      )
    return TrainResult(
        state, self._steps, evaluation, interrupted, self._ratio.measured()
    )

  def _run_lockstep(self) -> None:
    config = self._config
    next_log, next_save = self._next_times()
    while not self._is_over():
      if self._replay_is_filled() and self._ratio.learner_may_train():
        self._learn(
            Batch(
                self._replay.sample(
                    config.agent.batch_size, timeout_seconds=10.0
                ),
                config.agent.burn_in,
            )
        )
        # Written back before anything else is sampled: a fixed order.
        self._learner.flush()
      else:
        self._act()
      if time.monotonic() >= next_log:
        self._write_log()
        next_log, _ = self._next_times()
      if time.monotonic() >= next_save:
        self._save()
        _, next_save = self._next_times()

  def _run_threads(self) -> None:
    failures: queue.Queue[BaseException] = queue.Queue()

    def body(loop: Callable[[], None]) -> Callable[[], None]:
      def guarded():
        try:
          loop()
        except BaseException as error:  # pylint: disable=broad-except
          failures.put(error)
          self._stop.set()

      return guarded

    threads = [
        # Daemons: one that hangs behind a dead server must not keep the
        # process alive once its failure has been reported.
        threading.Thread(target=body(loop), name=name, daemon=True)
        for name, loop in (
            ("actors", self._actor_thread),
            ("prefetcher", self._prefetch_thread),
            ("learner", self._learner_thread),
        )
    ]
    for thread in threads:
      thread.start()
    next_log, next_save = self._next_times()
    next_check = time.monotonic() + 5.0
    try:
      while not self._stop.wait(
          max(0.0, min(next_log, next_save, next_check) - time.monotonic())
      ):
        now = time.monotonic()
        if now >= next_check:
          self._replay.check_alive(timeout_seconds=5.0)
          next_check = now + 5.0
        if now >= next_log:
          self._write_log()
          next_log, _ = self._next_times()
        if now >= next_save:
          self._save()
          _, next_save = self._next_times()
    finally:
      self._stop.set()
      for thread in threads:
        thread.join(timeout=10.0)
    if not failures.empty():
      raise failures.get()

  def _actor_thread(self) -> None:
    while not self._stop.is_set():
      if self._is_over():
        self._stop.set()
        return
      with self._actors.timer.leg("wait for learner"):
        may_step = self._ratio.wait_for_actors_turn(timeout_seconds=0.2)
      if may_step:
        self._act()

  def _prefetch_thread(self) -> None:
    while not self._replay_is_filled():
      if self._stop.wait(0.05):
        return
    self._prefetcher.run(self._stop)

  def _learner_thread(self) -> None:
    batch = None
    while not self._stop.is_set():
      if batch is None:
        with self._learner.timer.leg("wait for data"):
          try:
            batch = self._prefetcher.get(timeout_seconds=0.2)
          except queue.Empty:
            continue
      with self._learner.timer.leg("wait for actors"):
        may_train = self._ratio.wait_for_learner_turn(timeout_seconds=0.2)
      if may_train:
        self._learn(batch)
        batch = None

  # Clocks, log, files.

  @property
  def _steps(self) -> int:
    return self._steps_before + self._ratio.env_steps

  def _minutes(self) -> float:
    return self._minutes_before + (time.monotonic() - self._start) / 60

  def _is_over(self) -> bool:
    limit = self._config.run.max_minutes
    return self._steps >= self._config.run.total_steps or (
        limit > 0 and self._minutes() >= limit
    )

  def _next_times(self) -> tuple[float, float]:
    now = time.monotonic()
    return (
        now + self._config.run.log_seconds,
        now + 60 * self._config.run.checkpoint_minutes,
    )

  def _minutes_left(self, steps_per_second: float) -> float:
    run = self._config.run
    left = [_NAN]
    if steps_per_second > 0:
      left.append((run.total_steps - self._steps) / steps_per_second / 60)
    if run.max_minutes:
      left.append(run.max_minutes - self._minutes())
    return max(0.0, float(np.nanmin(left))) if len(left) > 1 else _NAN

  def _write_log(self, **evaluation: float) -> None:
    now = time.monotonic()
    then, steps_then, updates_then, legs_then = self._last
    steps, updates = self._steps, self._learner.num_updates
    seconds = max(now - then, 1e-9)
    legs = {
        **self._actors.timer.seconds(),
        **self._prefetcher.timer.seconds(),
        **self._learner.timer.seconds(),
    }
    spent = {
        name: (legs.get(name, 0.0) - legs_then.get(name, 0.0)) / seconds
        for name in _LEGS
    }
    self._last = (now, steps, updates, legs)
    steps_per_second = (steps - steps_then) / seconds
    metrics = self._learner.metrics()
    row = {
        "minutes": self._minutes(),
        "steps": steps,
        "frames": steps * self._frame_skip,
        "updates": updates,
        "episodes": self._num_episodes,
        "return_mean": _mean(self._returns),
        "return_exploit": _mean(self._exploit_returns),
        "eval_return": evaluation.get("eval_return", _NAN),
        "frames_per_second": steps_per_second * self._frame_skip,
        "updates_per_second": (updates - updates_then) / seconds,
        "replay_size": self._replay.size(),
        "replay_ratio": self._ratio.measured(),
        **{name: metrics.get(name, _NAN) for name in _METRICS},
        **{f"share {name}": share for name, share in spent.items()},
        "bottleneck": _bottleneck(spent),
        "minutes_left": self._minutes_left(steps_per_second),
    }
    self._log.write(row)
    if not evaluation:
      self._show(progress_line(row, self._config))

  def _save(self) -> LearnerState:
    state = self._learner.state()
    self._checkpoints.save(
        state, {"steps": self._steps, "minutes": self._minutes()}
    )
    return state

  def _evaluate(self) -> Evaluation:
    run = self._config.run
    self._console.print(
        f"evaluating {run.eval_episodes} whole games", highlight=False
    )
    evaluation = evaluate(
        self._parameters.latest(),
        networks=self._networks,
        config=self._config,
        num_episodes=run.eval_episodes,
        # Not the training's seed: games that were not trained on.
        seed=run.seed + 1_000_003,
    )
    log = RunLog(self._run_dir / "evaluation.csv")
    for i, episode in enumerate(evaluation.episodes):
      log.write({
          "updates": self._learner.num_updates,
          "game": i,
          "return": episode.episode_return,
          "frames": episode.episode_frames,
          "truncated": int(episode.truncated),
      })
    returns = evaluation.returns
    self._write_log(eval_return=float(returns.mean()))
    self._console.print(
        f"evaluation: mean {returns.mean():.2f}, median"
        f" {np.median(returns):.2f}, min {returns.min():g}, max"
        f" {returns.max():g} over {len(returns)} games",
        highlight=False,
    )
    return evaluation

  def _plot(self) -> None:
    path = self._run_dir / "learning_curve.png"
    plot_learning_curve(
        self._run_dir / "log.csv", path, title=self._config.env.task
    )
    self._console.print(f"wrote {path}", highlight=False)

  def close(self) -> None:
    """Stops and closes every part, the last built first."""
    while self._closers:
      self._closers.pop()()


_METRICS = (
    "loss",
    "grad_norm",
    "td_abs_mean",
    "td_abs_max",
    "q_max_mean",
    "importance_weight_mean",
)
_ACTOR_LEGS = ("environment", "inference", "write", "wait for learner")
_LEARNER_LEGS = ("step", "write back", "wait for data", "wait for actors")
_LEGS = (*_ACTOR_LEGS, "sample", "copy", *_LEARNER_LEGS)


def _bottleneck(spent: dict[str, float]) -> str:
  """The busiest leg of the side that the other one waits for."""
  if spent["wait for actors"] >= spent["wait for learner"]:
    if spent["wait for data"] > spent["wait for actors"]:
      return "sample"
    legs = _ACTOR_LEGS[:-1]
  else:
    legs = _LEARNER_LEGS[:2]
  return max(legs, key=lambda name: spent[name])


def _mean(values: collections.deque[float]) -> float:
  values = tuple(values)  # a copy: the actors append meanwhile
  return float(np.mean(values)) if values else _NAN


def _claim_directory(run_dir: pathlib.Path, config: Config) -> None:
  """Creates the directory, or makes sure that this run may go on in it."""
  try:
    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / "config.json").exists():
      before = read_config(run_dir)
      if before.network != config.network or before.env.task != config.env.task:
        raise CheckpointError(
            f"{run_dir} holds a run of another network or task; give another"
            " run.run_dir, or the settings in its config.json"
        )
    elif any(run_dir.iterdir()):
      raise ConfigError(
          f"run.run_dir: expected a new or empty directory or one of an earlier"
          f" run, got {run_dir} with other files; give another"
      )
    write_config(run_dir, config)
  except OSError as error:
    raise ConfigError(
        f"run.run_dir: cannot write in {run_dir}: {error.strerror}; give"
        " another directory"
    ) from error
