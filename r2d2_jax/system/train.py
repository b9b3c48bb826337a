"""A run from its first step to its evaluation: who is built, who runs when.

Two modes share every part. *Threaded*: actors, prefetcher and learner in threads
of their own, the calling thread watches, logs and saves. *Lock-step*: everything
in the calling thread, strictly alternating, repeatable bit for bit.
"""

import contextlib
import functools
import pathlib
import queue
import threading
import time
import traceback
from typing import Callable, NamedTuple
import warnings

import jax
import numpy as np
from rich.console import Console

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config, ConfigError, UserError, validate, first_line
from r2d2_jax.envs.journal import JournalWorld
from r2d2_jax.envs.make import make_world
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.make import make_replay
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.run.background import Background
from r2d2_jax.system.storage.checkpoints import (
    CheckpointError,
    list_checkpoints,
    restore_learner,
)
from r2d2_jax.system.run.chores import Chores
from r2d2_jax.system.metrics.display import run_display
from r2d2_jax.system.devices import learner_mesh
from r2d2_jax.system.evaluation import (
    Evaluation,
    PastEvaluation,
    evaluate,
    read_last_evaluation,
    write_evaluation,
)
from r2d2_jax.system.metrics.health import (
    BadRowsError,
    DivergedError,
    Heartbeat,
    watchdog,
)
from r2d2_jax.system.run.interrupts import StopRequest, heard_signals
from r2d2_jax.system.loops.learner import (
    Batch,
    LearnerLoop,
    Prefetcher,
)
from r2d2_jax.system.run.output import unfailing
from r2d2_jax.system.loops.parameters import ParameterStore
from r2d2_jax.system.metrics.learning_curve import plot_learning_curve
from r2d2_jax.system.planning.preflight import check_run_fits
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.system.metrics.report import RunReport, summary
from r2d2_jax.system.run.state import (
    Resumed,
    RunState,
    find_resumed,
    world_seed,
)
from r2d2_jax.system.storage.rundir import (
    CRASH_FILE,
    checkpoints_dir,
    claimed_run_dir,
    write_config,
)
from r2d2_jax.system.storage.csv_log import RunLog, read_log
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.system.storage.agents import load_learner
from r2d2_jax.system.metrics.sinks import make_sinks
from r2d2_jax.types import LearnerState

# How long a blocked thread waits before it looks whether the run has stopped.
_TURN_SECONDS = 0.2
# How often the replay is asked for a sign of life, and how long it has for it.
_HEARTBEAT_SECONDS = 5.0
# How long what was told to stop may take for the step at hand.
_HANG_SECONDS = 10.0
# An evaluation's step may be its first one, which is compiled.
_EVALUATION_HANG_SECONDS = 60.0
_WATCHDOG_MINUTES = 5.0
# Games that the agent was not trained on: the training's seeds are far away.
_EVAL_SEED_OFFSET = 1_000_003
# Errors whose message says it all.
_EXPLAINED = (DivergedError, BadRowsError, ReplayError)


class RunError(RuntimeError):
  """The run had to stop: says why, and where it can go on from."""


class TrainResult(NamedTuple):
  """What a finished or interrupted run leaves in memory."""

  state: LearnerState  # host arrays
  steps: int  # agent steps, those before a resume included
  # At the end of the training; read back where the run had ended before.
  evaluation: Evaluation | PastEvaluation | None
  interrupted: bool  # a signal asked it to stop
  replay_ratio: float  # as measured, see `ReplayRatio`


class _Row(NamedTuple):
  """What the run says of itself at one moment."""

  columns: dict[str, float | int | str]
  histograms: dict[str, np.ndarray]

  @property
  def counts(self) -> tuple[int, int]:
    """Steps and updates."""
    return self.columns["steps"], self.columns["updates"]


def train(
    config: Config,
    *,
    run_dir: str | pathlib.Path,
    console: Console | None = None,
) -> TrainResult:
  """Trains, and at the end evaluates; everything lands in run_dir.

  The directory gets config.json, log.csv, TensorBoard's events, checkpoints/,
  best/, evaluation.csv and learning_curve.png. If it holds a checkpoint, the run goes on from the newest
  one: learner, replay, counters, logs. In lock-step mode it goes on as if it had
  never stopped (as long as the settings are the same); with threads the lanes
  begin new games.

  Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves and returns with `interrupted` set; one
  that the program ignores stays ignored. Until then their handlers are this
  function's, afterwards the program's own again. A second signal, more than five
  seconds after the first, ends the run without what it is doing; but nothing cuts
  short a last save where there is no other checkpoint. Only the main thread of a
  program hears signals.

  A run that has reached `run.total_steps` or `run.max_minutes`, and was evaluated,
  has nothing left to do: it says so, writes nothing, and gives what it ended with.

  Args:
    config: all settings; checked first.
    run_dir: created if missing.
    console: where progress is shown; None shows nothing (a run with nothing left
      to do then warns). Output that cannot be written ends nothing.

  Raises:
    ConfigError: the settings cannot work, or run_dir cannot be used; nothing was
      started.
    CheckpointError: the directory's checkpoint cannot be read.
    RunError: the replay's server died, the training diverged, a thread failed,
      the last checkpoint could not be written, a second signal came; the message
      says where the run can go on from.
    KeyboardInterrupt: a signal came before the training began.
    Exception: whatever a world or a network raises while it is built; the
      traceback is in crash.txt too.
  """
  run_dir = pathlib.Path(run_dir)
  validate(config)
  if console is None:
    tell, console = warnings.warn, Console(quiet=True)
  else:
    tell = functools.partial(
        console.print, highlight=False, markup=False, soft_wrap=True
    )
  with heard_signals() as stop, stop.deferred(), unfailing(console):
    check_run_fits(config, run_dir)
    with claimed_run_dir(run_dir, config):
      if finished := _find_finished(config, run_dir):
        words, result = finished
        tell(words)
        return result
      run = _Run(config, run_dir, console, stop)
      try:
        run.start()
        stop.check()
        return run.run()
      finally:
        run.close()


def _find_finished(
    config: Config, run_dir: pathlib.Path
) -> tuple[str, TrainResult] | None:
  """Why a run has nothing left to do, and how it ended; None if it has.

  Raises:
    CheckpointError: its checkpoint cannot be read.
    FileError: a log is damaged.
  """
  run = config.run
  resumed = find_resumed(run_dir, config)
  if resumed is None:
    return None
  checkpoint, record = resumed.checkpoint, resumed.record
  steps, minutes = checkpoint.steps, record["report"]["minutes"]
  if steps >= run.total_steps:
    reached = f"{steps} of {run.total_steps} steps (run.total_steps)"
  elif 0 < run.max_minutes <= minutes:
    reached = f"{minutes:.1f} of {run.max_minutes:g} minutes (run.max_minutes)"
  else:
    return None
  # Its end is the last row, written last: a kill may have come before it.
  path = run_dir / "log.csv"
  logged = read_log(path, ("steps",)) if path.exists() else {}
  if not logged or logged["steps"][-1] < steps:
    return None
  evaluation = None
  num_episodes = config.evaluation.num_episodes
  if num_episodes:
    evaluation = read_last_evaluation(
        run_dir, num_updates=checkpoint.num_updates
    )
    # One that was cut off, or is asked for now, is still to be done.
    if not evaluation or len(evaluation.returns) < num_episodes:
      return None
  _, _, state = load_learner(config, checkpoint)
  ratio = ReplayRatio(config.replay.replay_ratio, slack_rows=0)
  ratio.load_state_dict(record["ratio"])
  words = (
      f"nothing left to do in {run_dir}: {reached} are done"
      + (", and evaluated" if evaluation else "")
      + "; with more it goes on"
  )
  return words, TrainResult(
      jax.device_get(state),
      steps,
      evaluation,
      interrupted=False,
      replay_ratio=ratio.measured(),
  )


class _Run:
  """The parts of one run and the loops over them."""

  def __init__(
      self,
      config: Config,
      run_dir: pathlib.Path,
      console: Console,
      stop_request: StopRequest,
  ):
    self._config = config
    self._run_dir = run_dir
    self._console = console
    self._stop_request = stop_request
    self._closers = contextlib.ExitStack()
    self._stop = threading.Event()
    self._actors_hang = False
    self._num_evaluation_steps = 0
    self._latest_batch: Batch | None = None
    self._logged: tuple[int, int] | None = None  # counts of the last row
    self._saver = Background("saver")
    self._evaluator = Background("evaluator")

  def start(self) -> None:
    """Builds; an error that is not the user's leaves its traceback behind."""
    try:
      self._build()
    except UserError:
      raise
    except ReplayError as error:
      raise self._explained(error) from error
    except Exception as error:
      self._write_crash(error)
      raise

  def _build(self) -> None:
    """World, networks, learner, replay, actors: in the order of their needs."""
    config = self._config
    resumed = find_resumed(self._run_dir, config)
    starts = resumed.starts if resumed else 0
    self._log = RunLog(self._run_dir / "log.csv")
    if new := self._log.new_columns(RunReport.columns(config)):
      self._say(f"log.csv gets new columns, NaN so far: {', '.join(new)}")
    self._sinks = make_sinks(
        config,
        self._run_dir,
        steps=resumed.checkpoint.steps if resumed else 0,
        say=self._say,
    )
    for sink in self._sinks:
      self._closers.callback(sink.close)
    self._mesh = learner_mesh(config)
    params_key, actor_key = jax.random.split(jax.random.key(config.run.seed))
    world = make_world(config.env, seed=world_seed(config.run.seed, starts))
    self._closers.callback(_close_in_time, world.close)
    if config.run.lockstep:
      world = JournalWorld(world)
    networks = make_networks(world.spec, config=config.network)
    self._networks = networks
    optimizer = make_optimizer(config.agent)
    state = init_learner_state(
        params_key, networks=networks, optimizer=optimizer
    )
    if resumed:
      state = restore_learner(resumed.checkpoint, state)
    if (found := jax.local_device_count()) > 1:
      used = self._mesh.size if self._mesh else 1
      self._say(f"learner: {used} of {found} devices")
    core_state = jax.device_get(networks.initial_core_state(1))
    self._replay = self._make_replay(world.spec, core_state, resumed)
    self._closers.callback(self._replay.close)
    self._parameters = ParameterStore(state.params, int(state.num_updates))
    self._ratio = ReplayRatio(
        config.replay.replay_ratio,
        # Room for two batches and two vector steps: neither side waits for the
        # other within a turn.
        slack_rows=2 * config.agent.batch_size * (config.agent.trace_length - 1)
        + int(2 * config.env_batch * config.replay.replay_ratio),
    )
    self._samples = SampleStats(config.env.num_envs)
    self._probe = Probe(
        config,
        world.spec,
        core_state,
        networks=networks,
        restore_from=resumed.probe_dir if resumed else None,
    )
    self._learner = LearnerLoop(
        config,
        networks=networks,
        optimizer=optimizer,
        state=state,
        replay=self._replay,
        parameters=self._parameters,
        mesh=self._mesh,
    )
    self._actors = ActorLoop(
        config,
        world=world,
        networks=networks,
        parameters=self._parameters,
        insert=self._replay.insert,
        key=jax.random.fold_in(actor_key, starts) if starts else actor_key,
        count_steps=lambda: self._ratio.env_steps,
        probe=self._probe,
    )
    self._prefetcher = Prefetcher(self._replay, config, mesh=self._mesh)
    self._report = RunReport(
        config,
        frame_skip=world.spec.frame_skip,
        epsilon=self._actors.epsilon,
    )
    self._state = RunState(
        config,
        self._run_dir,
        starts=starts,
        learner=self._learner,
        actors=self._actors,
        replay=self._replay,
        ratio=self._ratio,
        report=self._report,
        samples=self._samples,
        probe=self._probe,
        log=self._log,
    )
    if resumed:
      self._state.restore(resumed)
      self._say_where_from(resumed)
    else:
      self._state.start_afresh()
    # World, network and checkpoint have accepted the settings: now it is a run.
    write_config(self._run_dir, config)

  def _make_replay(self, spec, core_state, resumed: Resumed | None):
    """The replay, with what was saved of it, or empty."""
    make = functools.partial(
        make_replay,
        self._config,
        spec,
        core_state,
        scratch=self._run_dir / ".replay",
    )
    if resumed and resumed.replay_dir:
      try:
        return make(restore_from=resumed.replay_dir)
      except ReplayError as error:
        if resumed.exact:
          raise CheckpointError(str(error)) from error
        self._say(f"the replay is filled anew: {error}")
    try:
      return make()
    except ReplayError as error:
      raise RunError(str(error)) from error

  def _say_where_from(self, resumed: Resumed) -> None:
    checkpoint = resumed.checkpoint
    self._say(
        f"resuming from {checkpoint.path}: update {checkpoint.num_updates}, step"
        f" {checkpoint.steps}, {self._report.minutes():.1f} minutes,"
        f" {self._replay.size()} items in the replay"
        + (", exactly" if resumed.exact else "; the lanes begin new games")
    )
    if resumed.changed:
      self._say(f"changed settings: {', '.join(resumed.changed)}")

  def run(self) -> TrainResult:
    """The training, the last save, the evaluation."""
    with run_display(self._console, self._config) as self._show:
      try:
        with self._watchdog():
          if self._config.run.lockstep:
            self._run_lockstep()
          else:
            self._run_threads()
        self._report.end_training()
        self._learner.flush()
        last_row = self._row()
        if not self._is_logged(last_row):
          self._show(last_row.columns)
        with self._protected_save():
          self._finish_background()
          # Asked here: a signal may have come while the last row was made.
          is_evaluated = bool(
              self._config.evaluation.num_episodes
              and not self._stop_request.asked
          )
          if not is_evaluated:
            self._write_last(last_row)
          self._state.prepare_save()()
      except CheckpointError as error:
        raise RunError(str(error)) from error
      except (Exception, KeyboardInterrupt) as error:
        raise self._explained(error) from error
      # Not before it: a terminal may hold what is written to it.
      self._say("saved")
      try:
        self._raise_background_errors()
      except Exception as error:
        raise self._explained(error) from error
    if is_evaluated and self._actors_hang:
      self._write_last(last_row)
      raise RunError(
          f"the environments of {self._config.env.task!r} hang: what they were"
          f" told to do was not done within {_HANG_SECONDS:.0f} seconds. The run"
          f" is saved in {self._run_dir}, its end is not evaluated: train again"
          " in this directory (run.run_dir)"
      )
    evaluation = None
    if is_evaluated:
      try:
        evaluation = self._evaluate()
      except KeyboardInterrupt:
        pass  # A second signal: all is saved.
      except Exception as error:
        raise self._explained(error) from error
      finally:
        self._write_last(last_row)
    self._plot()
    if self._stop_request.asked:
      self._say(
          f"interrupted; saved in {self._run_dir}. To go on, train again in this"
          " directory (run.run_dir)"
      )
    return TrainResult(
        self._learner.state(),
        self._ratio.env_steps,
        evaluation,
        self._stop_request.asked,
        self._ratio.measured(),
    )

  def _protected_save(self) -> contextlib.AbstractContextManager:
    """Within it no signal cuts short what would be the only checkpoint."""
    if list_checkpoints(checkpoints_dir(self._run_dir)):
      return contextlib.nullcontext()
    return self._stop_request.shielded()

  def _write_crash(self, error: BaseException) -> str:
    """Writes the traceback to a file; says where it is."""
    path = self._run_dir / CRASH_FILE
    text = "".join(traceback.format_exception(error))
    try:
      path.write_text(text)
    except OSError as full:
      return f"{path} cannot be written ({full}), so here it is:\n{text}"
    return f"the traceback is in {path}"

  def _explained(self, error: BaseException) -> RunError:
    """An error in the words of someone who wants the run to go on."""
    if isinstance(error, _EXPLAINED):
      what = str(error)
    elif isinstance(error, KeyboardInterrupt):
      what = "a second signal ended the run before its last save was done"
    else:
      what = (
          f"the run failed with {type(error).__name__}: {first_line(error)};"
          f" {self._write_crash(error)}"
      )
    saved = list_checkpoints(checkpoints_dir(self._run_dir))
    if not saved:
      return RunError(f"{what}\nno checkpoint had been saved yet")
    return RunError(
        f"{what}\nlast good checkpoint: {saved[-1].path} (update"
        f" {saved[-1].num_updates}, step {saved[-1].steps}); the same command"
        f" with --run.run-dir {self._run_dir} goes on from there"
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
    self._samples.add(
        batch.origin,
        batch.is_trained,
        num_updates=self._learner.num_updates,
        steps=self._ratio.env_steps,
    )
    self._learner.step(batch)
    if batch.row_lstm is not None:
      self._latest_batch = batch

  # The two modes.

  def _run_lockstep(self) -> None:
    agent = self._config.agent
    chores = self._chores()
    while not (self._is_over() or self._stop_request.asked):
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
    chores = self._chores()
    # Calls of a dead server block without an error: so it is asked.
    heartbeat = Heartbeat(
        lambda: self._replay.check_alive(timeout_seconds=_HEARTBEAT_SECONDS)
    )
    chores.add_by_seconds(heartbeat.ask, _HEARTBEAT_SECONDS)
    try:
      # A signal does not wake a thread that waits.
      while not (
          self._stop.wait(min(_TURN_SECONDS, chores.seconds_to_next()))
          or self._stop_request.asked
      ):
        chores.do()
        # The actors ask as well, at every step; but they may hang in one.
        if self._is_over():
          self._stop.set()
        if not self._stop.is_set():  # else they are told after the last save
          self._raise_background_errors()
    finally:
      self._stop.set()
      deadline = time.monotonic() + _HANG_SECONDS
      for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
      self._actors_hang = threads[0].is_alive()
    if not failures.empty():
      raise self._root_cause([failures.get() for _ in range(failures.qsize())])

  def _root_cause(self, errors: list[BaseException]) -> BaseException:
    """The first one, or what the learner did: actors may stumble over it first."""
    if not any(isinstance(e, _EXPLAINED) for e in errors):
      try:
        self._learner.flush()
      except DivergedError as diverged:
        return diverged
    return next((e for e in errors if isinstance(e, DivergedError)), errors[0])

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

  def _replay_is_filled(self) -> bool:
    return self._replay.size() >= self._config.replay.min_sequences

  def _is_over(self) -> bool:
    run = self._config.run
    return self._ratio.env_steps >= run.total_steps or (
        run.max_minutes > 0 and self._report.minutes() >= run.max_minutes
    )

  def _chores(self) -> Chores:
    """Log and evaluation come before the save, which so contains them."""
    updates = lambda: self._learner.num_updates
    chores = Chores()
    if self._config.log.period_updates:
      chores.add_by_count(self._log_row, self._config.log.period_updates, updates)
    else:
      chores.add_by_seconds(self._log_row, self._config.log.period_seconds)
    if self._config.evaluation.period_steps and self._config.evaluation.num_episodes:
      chores.add_by_count(
          self._evaluate_meanwhile,
          self._config.evaluation.period_steps,
          lambda: self._ratio.env_steps,
      )
    if self._config.checkpoint.period_updates:
      chores.add_by_count(self._save, self._config.checkpoint.period_updates, updates)
    else:
      chores.add_by_seconds(self._save, 60 * self._config.checkpoint.period_minutes)
    return chores

  def _raise_background_errors(self) -> None:
    self._saver.raise_error()
    self._evaluator.raise_error()

  def _watchdog(self) -> contextlib.AbstractContextManager[None]:
    """Says so when the environments stand still."""
    return watchdog(
        lambda: (self._ratio.env_steps, self._num_evaluation_steps),
        lambda minutes: self._say(
            f"warning: no step for {minutes:.0f} minutes: "
            + (
                f"the environments of {self._config.env.task!r} give no rows"
                if self._ratio.actors_may_step()
                else "the learner, for which the actors wait, does not move"
            )
            + ". If that lasts, stop the run and start it again: it goes on from"
            " its last checkpoint"
        ),
        period_minutes=_WATCHDOG_MINUTES,
    )

  def _log_row(self) -> None:
    if not self._is_over():  # else the last row, which is to come, says it
      row = self._row()
      self._show(row.columns)
      self._write(row)

  def _row(self) -> _Row:
    """The state of the run now; what it adds up begins anew."""
    sampled, histograms = self._samples.pop()
    if (by_row := self._learner.td_abs_by_row()) is not None:
      histograms["td_abs_by_row"] = by_row
    columns = self._report.row(
        steps=self._ratio.env_steps,
        updates=self._learner.num_updates,
        replay_size=self._replay.size(),
        replay_ratio=self._ratio.measured(),
        metrics={
            **self._learner.metrics(),
            **self._measure_dq(),
            **sampled,
        },
        leg_seconds={
            **self._actors.timer.seconds(),
            **self._prefetcher.timer.seconds(),
            **self._learner.timer.seconds(),
        },
    )
    return _Row(columns, histograms)

  def _write(self, row: _Row) -> None:
    self._logged = row.counts
    try:
      self._log.write(row.columns)
    except OSError as error:
      self._say(f"cannot write the log: {first_line(error)}")
    for sink in self._sinks:
      sink.write(row.columns, row.histograms)

  def _is_logged(self, row: _Row) -> bool:
    return row.counts == self._logged

  def _write_last(self, row: _Row) -> None:
    """The run as its training ended, with what was evaluated since: one row."""
    mean = self._report.take_evaluation()
    if mean == mean:
      row.columns["eval_return"] = mean
    elif self._is_logged(row):
      return
    self._write(row)

  def _measure_dq(self) -> dict[str, float]:
    params, batch = self._parameters.latest().params, self._latest_batch
    if batch is None or batch.row_lstm is None:
      return self._probe.measure(params)
    return self._probe.measure_on(
        params, batch.on_device.sequence, batch.row_lstm
    )

  def _save(self) -> None:
    """Saves; with threads beside them, skipping where the last one still runs."""
    if self._saver.is_busy:
      return
    job = self._state.prepare_save()
    if self._config.run.lockstep:
      with self._protected_save():
        self._say_if_it_fails(job)
    else:
      self._saver.start(lambda: self._say_if_it_fails(job))

  def _say_if_it_fails(self, job: Callable[[], object]) -> None:
    """A full disk must not end a run: the next save may succeed."""
    try:
      job()
    except (CheckpointError, ConfigError, OSError) as error:
      self._say(f"warning: {error}")

  def _evaluate_meanwhile(self) -> None:
    if self._config.run.lockstep:
      self._evaluate()
    elif not self._evaluator.is_busy:
      self._evaluator.start(self._evaluate)

  def _evaluate(self) -> Evaluation | None:
    """Evaluates the learner as it is now; None if the run stopped meanwhile."""
    run = self._config.run
    state, steps = self._learner.state(), self._ratio.env_steps
    updates = int(state.num_updates)
    training = not self._report.has_ended

    def should_stop() -> bool:
      self._num_evaluation_steps += 1
      return self._stop_request.asked or training and self._stop.is_set()

    num_episodes = self._config.evaluation.num_episodes
    self._say(f"update {updates}: evaluating {num_episodes} whole games")
    evaluation = evaluate(
        jax.device_put(state.params),
        networks=self._networks,
        config=self._config,
        num_episodes=self._config.evaluation.num_episodes,
        seed=run.seed + _EVAL_SEED_OFFSET,
        should_stop=should_stop,
    )
    if len(evaluation.episodes) < self._config.evaluation.num_episodes:
      return None
    self._say_if_it_fails(
        lambda: write_evaluation(
            self._run_dir, evaluation, num_updates=updates, steps=steps
        )
    )
    mean = float(evaluation.returns.mean())
    self._report.add_evaluation(mean)
    self._say_if_it_fails(
        lambda: self._state.save_if_best(state, steps=steps, eval_return=mean)
    )
    self._say(f"evaluation: {summary(evaluation.returns)}")
    return evaluation

  def _finish_background(self) -> None:
    # It asks at every step whether to stop.
    self._evaluator.join(_EVALUATION_HANG_SECONDS)
    if self._evaluator.is_busy:
      self._say("warning: an evaluation hangs, and is left behind")
    if self._saver.is_busy:
      self._say("waiting for a save to finish")
      self._saver.join()

  def _plot(self) -> None:
    path = self._run_dir / "learning_curve.png"
    try:
      plot_learning_curve(
          self._run_dir / "log.csv", path, title=self._config.env.task
      )
    # A picture is never worth an error, whatever matplotlib stumbles over.
    except Exception as error:  # pylint: disable=broad-except
      self._say(f"warning: cannot draw {path}: {first_line(error)}")
    else:
      self._say(f"wrote {path}")

  def _say(self, text: str) -> None:
    self._console.print(text, highlight=False, markup=False, soft_wrap=True)

  def close(self) -> None:
    """Stops and closes every part, the last built first.

    One that raises keeps none of the others open.
    """
    self._stop.set()
    self._closers.close()


def _close_in_time(close: Callable[[], None]) -> None:
  """Closes what may hang: it is then left to end with the process."""
  closer = Background("closer")
  closer.start(close)
  closer.join(_HANG_SECONDS)
  closer.raise_error()
