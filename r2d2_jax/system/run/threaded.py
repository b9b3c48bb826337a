"""Threads: actors, prefetcher, learner side by side, or workers; the caller
watches."""

from collections.abc import Callable
import functools
import queue
import threading
import time

from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.workers import Worker, Workers
from r2d2_jax.system.metrics.health import DivergedError, Heartbeat
from r2d2_jax.system.run.build import Parts
from r2d2_jax.system.run.errors import EXPLAINED
from r2d2_jax.system.run.monitor import Monitor
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.turns import (
  act,
  is_over,
  learn,
  replay_is_filled,
  wait_for_actors_turn,
  wait_for_learners_turn,
  work,
)

# How long a blocked thread waits before it looks whether the run has stopped.
_TURN_SECONDS = 0.2
# How often the replay is asked for a sign of life, and how long it has for it.
_HEARTBEAT_SECONDS = 5.0
# How long what was told to stop may take for the step at hand.
HANG_SECONDS = 10.0


def run_threads(parts: Parts, monitor: Monitor, stop: Stop) -> bool:
  """Runs the loops until the end or a stop; the first error ends all of them.

  Returns:
    Whether the actors hang in a step that they were told to end.
  """
  failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

  def guarded(loop: Callable[[Parts, Stop], None]) -> None:
    try:
      loop(parts, stop)
    except BaseException as error:
      failures.put(error)
      stop.ended.set()

  acting, others = _loops(parts)
  threads = [
    # Daemons: one that hangs behind a dead server must not keep the process
    # alive once the failure has been reported.
    threading.Thread(target=guarded, args=[loop], name=name, daemon=True)
    for name, loop in (acting | others).items()
  ]
  for thread in threads:
    thread.start()
  chores = monitor.chores()
  # Calls of a dead server block without an error: so it is asked.
  heartbeat = Heartbeat(
    lambda: parts.replay.check_alive(timeout_seconds=_HEARTBEAT_SECONDS)
  )
  chores.add_by_seconds(heartbeat.ask, _HEARTBEAT_SECONDS)
  try:
    # A signal does not wake a thread that waits.
    while not (
      stop.ended.wait(min(_TURN_SECONDS, chores.seconds_to_next()))
      or stop.asked
    ):
      chores.do()
      # The actors ask as well, at every step; but they may hang in one.
      if is_over(parts):
        stop.ended.set()
      if not stop.ended.is_set():  # else they are told after the last save
        monitor.raise_background_errors()
  finally:
    stop.ended.set()
    deadline = time.monotonic() + HANG_SECONDS
    for thread in threads:
      thread.join(timeout=max(0.0, deadline - time.monotonic()))
  if not failures.empty():
    errors = [failures.get() for _ in range(failures.qsize())]
    raise _root_cause(parts, errors)
  return any(thread.is_alive() for thread in threads[: len(acting)])


_Loops = dict[str, Callable[[Parts, Stop], None]]


def _loops(parts: Parts) -> tuple[_Loops, _Loops]:
  """The threads' bodies by name: those that step environments, the others."""
  if isinstance(parts.actors, Workers):
    return {
      f"worker {i}": functools.partial(_worker_thread, worker)
      for i, worker in enumerate(parts.actors.workers)
    }, {}
  return {"actors": _actor_thread}, {
    "prefetcher": _prefetcher_thread,
    "learner": _learner_thread,
  }


def _root_cause(parts: Parts, errors: list[BaseException]) -> BaseException:
  """The first one, or the learner's: actors may stumble over that first."""
  if not any(isinstance(e, EXPLAINED) for e in errors):
    try:
      parts.learner.flush()
    except DivergedError as diverged:
      return diverged
  return next((e for e in errors if isinstance(e, DivergedError)), errors[0])


def _actor_thread(parts: Parts, stop: Stop) -> None:
  assert isinstance(parts.actors, ActorLoop)
  while not stop.ended.is_set():
    if is_over(parts):
      stop.ended.set()
      return
    with parts.actors.timer.leg("wait_for_learner"):
      may_step = wait_for_actors_turn(parts, _TURN_SECONDS)
    if may_step:
      act(parts)


def _worker_thread(worker: Worker, parts: Parts, stop: Stop) -> None:
  while not stop.ended.is_set():
    if is_over(parts):
      stop.ended.set()
      return
    work(parts, worker)


def _prefetcher_thread(parts: Parts, stop: Stop) -> None:
  while not replay_is_filled(parts):
    if stop.ended.wait(0.05):
      return
  assert parts.prefetcher is not None
  parts.prefetcher.run(stop.ended)


def _learner_thread(parts: Parts, stop: Stop) -> None:
  batch = None
  assert parts.prefetcher is not None
  while not stop.ended.is_set():
    if batch is None:
      with parts.learner.timer.leg("wait_for_data"):
        batch = parts.prefetcher.get(_TURN_SECONDS)
      if batch is None:
        continue
    with parts.learner.timer.leg("wait_for_actors"):
      may_train = wait_for_learners_turn(parts, _TURN_SECONDS)
    if may_train:
      learn(parts, batch)
      batch = None
