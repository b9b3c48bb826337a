"""Trains an agent: the call that everything else serves.

Two modes share every part. *Threaded* (`run/threaded.py`): actors, prefetcher
and learner in threads of their own, the calling thread watches, logs and saves.
*Lock-step* (`run/lockstep.py`): everything in the calling thread, strictly
alternating, repeatable bit for bit.
"""

from collections.abc import Callable
import contextlib
import functools
import pathlib
import threading
import warnings

from rich.console import Console

from r2d2_jax.agent.agent import (
  MakeAgent,
  own_agent,
)
from r2d2_jax.agent.agent import (
  make_agent as make_usual_agent,
)
from r2d2_jax.config import Config, UserError, validate
from r2d2_jax.envs.make import (
  MakeWorld,
  own_world,
)
from r2d2_jax.envs.make import (
  make_world as make_usual_world,
)
from r2d2_jax.factories import setting_of
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.compile_cache import keep_compiled
from r2d2_jax.system.metrics.display import run_display
from r2d2_jax.system.planning.preflight import check_run_fits
from r2d2_jax.system.run.build import Parts, build
from r2d2_jax.system.run.errors import RunError, explained, write_crash
from r2d2_jax.system.run.finished import TrainResult, find_finished
from r2d2_jax.system.run.interrupts import heard_signals
from r2d2_jax.system.run.lockstep import run_lockstep
from r2d2_jax.system.run.monitor import Columns, Monitor
from r2d2_jax.system.run.output import unfailing
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.threaded import HANG_SECONDS, run_threads
from r2d2_jax.system.storage.checkpoints import CheckpointError
from r2d2_jax.system.storage.rundir import claimed_run_dir

__all__ = ["RunError", "TrainResult", "train"]


def train(
  config: Config,
  *,
  run_dir: str | pathlib.Path,
  make_world: MakeWorld | None = None,
  make_agent: MakeAgent | None = None,
  on_row: Callable[[Columns], None] | None = None,
  stop: threading.Event | None = None,
  console: Console | None = None,
) -> TrainResult:
  """Trains, and at the end evaluates; everything lands in run_dir.

  The directory gets config.json, log.csv, TensorBoard's events, checkpoints/,
  best/, evaluation.csv and learning_curve.png. If it holds a checkpoint, the
  run goes on from the newest one: learner, replay, counters, logs. In lock-step
  mode it goes on as if it had never stopped (as long as the settings are the
  same); with threads the lanes begin new games.

  Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 saves and returns with `interrupted` set;
  one that the program ignores stays ignored. Until then their handlers are this
  function's, afterwards the program's own again. A second signal, more than
  five seconds after the first, ends the run without what it is doing; but
  nothing cuts short a last save where there is no other checkpoint. Only the
  main thread of a program hears signals. It works in any thread, and more than
  once in a process.

  Functions given as make_world and make_agent are written into config.json by
  their import path, by which the commands find them again (evaluate, record,
  plot, and train for going on).

  What JAX compiles from now on, in this process, is kept for later starts in
  the user's cache directory (`run.compile_cache_gib`), unless JAX has a cache
  already.

  A run that has reached `run.total_steps` or `run.max_minutes`, and was
  evaluated, has nothing left to do: it says so, writes nothing, and gives what
  it ended with.

  Args:
    config: all settings; checked first.
    run_dir: created if missing.
    make_world: environments of your own, as `envs.make.make_world`: (EnvConfig,
      seed=...) -> World. None takes what `env.make_world` and `env.task` name.
    make_agent: an agent of your own, as `make_r2d2_agent`: (EnvSpec, Config) ->
      Agent. None takes what `agent.make_agent` names, R2D2 by default.
    on_row: is called with each row of the log, a dict by column, in the thread
      that called train (in lock-step and with threads alike). What it raises
      ends the run.
    stop: when it is set the run saves and returns, as after a signal; in
      threads other than the main one the only way to stop it.
    console: where progress is shown; None shows nothing (a run with nothing
      left to do then warns). Output that cannot be written ends nothing.

  Raises:
    ConfigError: the settings cannot work, or run_dir cannot be used; nothing
      was started.
    CheckpointError: the directory's checkpoint cannot be read.
    RunError: the replay's server died, the training diverged, a thread failed,
      the last checkpoint could not be written, a second signal came; the
      message says where the run can go on from.
    KeyboardInterrupt: a signal came before the training began.
    Exception: whatever a world or a network raises while it is built; the
      traceback is in crash.txt too.
  """
  run_dir = pathlib.Path(run_dir)
  if make_world is not None:
    config = config.updated({"env.make_world": setting_of(make_world)})
  if make_agent is not None:
    config = config.updated({"agent.make_agent": setting_of(make_agent)})
  validate(config)
  doors = {
    "make_world": own_world(make_world) if make_world else make_usual_world,
    "make_agent": own_agent(make_agent) if make_agent else make_usual_agent,
  }
  if console is None:
    tell, console = warnings.warn, Console(quiet=True)
  else:
    tell = functools.partial(
      console.print, highlight=False, markup=False, soft_wrap=True
    )
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  with contextlib.ExitStack() as closers:
    request = closers.enter_context(heard_signals())
    closers.enter_context(request.deferred())
    closers.enter_context(unfailing(console))
    keep_compiled(config.run.compile_cache_gib)
    check_run_fits(config, run_dir, console=console, **doors)
    closers.enter_context(claimed_run_dir(run_dir, config))
    if finished := find_finished(config, run_dir, **doors):
      words, result = finished
      tell(words)
      return result
    stopping = Stop(request, stop)
    parts = _built(config, run_dir, doors, closers, say)
    closers.callback(stopping.ended.set)
    stopping.check()
    return run_parts(
      parts,
      stopping,
      loops=_lockstep if config.run.lockstep else run_threads,
      console=console,
      say=say,
      on_row=on_row,
    )


def _lockstep(parts: Parts, monitor: Monitor, stop: Stop) -> bool:
  run_lockstep(parts, monitor, stop)
  return False


def _built(config, run_dir, doors, closers, say) -> Parts:
  """The parts; an error that is not the user's leaves its traceback behind."""
  try:
    return build(config, run_dir, closers=closers, say=say, **doors)
  except (UserError, RunError):
    raise
  except ReplayError as error:
    raise explained(error, run_dir) from error
  except Exception as error:
    write_crash(error, run_dir)
    raise


def run_parts(
  parts: Parts,
  stop: Stop,
  *,
  loops: Callable[[Parts, Monitor, Stop], bool],
  console: Console,
  say: Callable[[str], None],
  on_row: Callable[[Columns], None] | None,
) -> TrainResult:
  """The training, the last save, the evaluation.

  Args:
    parts: of the run.
    stop: whether to end.
    loops: trains until the end or a stop; returns whether the environments
      hang.
    console: where progress is shown.
    say: takes a line for the user.
    on_row: see `train`.

  Raises:
    RunError: see `train`.
  """
  config, run_dir = parts.config, parts.run_dir
  actors_hang = False
  with run_display(console, config) as show:
    monitor = Monitor(parts, stop, say=say, show=show, on_row=on_row)
    try:
      with monitor.watchdog():
        actors_hang = loops(parts, monitor, stop)
      parts.report.end_training()
      parts.learner.flush()
      last_row = monitor.last_row()
      monitor.show_last(last_row)
      with monitor.protected_save():
        monitor.finish_background()
        # Asked here: a signal may have come while the last row was made.
        is_evaluated = bool(config.evaluation.num_episodes and not stop.asked)
        if not is_evaluated:
          monitor.write_last(last_row)
        parts.state.prepare_save()()
    except CheckpointError as error:
      raise RunError(str(error)) from error
    except (Exception, KeyboardInterrupt) as error:
      raise explained(error, run_dir) from error
    # Not before it: a terminal may hold what is written to it.
    say("saved")
    try:
      monitor.raise_background_errors()
    except Exception as error:
      raise explained(error, run_dir) from error
  if is_evaluated and actors_hang:
    monitor.write_last(last_row)
    raise RunError(
      f"the environments of {config.env.task!r} hang: what they were told to do"
      f" was not done within {HANG_SECONDS:.0f} seconds. The run is saved in"
      f" {run_dir}, its end is not evaluated: train again in this directory"
      " (run.run_dir)"
    )
  evaluation = None
  if is_evaluated:
    try:
      evaluation = monitor.evaluate()
    except KeyboardInterrupt:
      pass  # A second signal: all is saved.
    except Exception as error:
      raise explained(error, run_dir) from error
    finally:
      monitor.write_last(last_row)
  monitor.plot()
  if stop.asked:
    say(
      f"interrupted; saved in {run_dir}. To go on, train again in this"
      " directory (run.run_dir)"
    )
  return TrainResult(
    parts.learner.state(),
    parts.ratio.env_steps,
    evaluation,
    stop.asked,
    parts.ratio.measured(),
  )
