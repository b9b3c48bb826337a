"""Periodic chores, background jobs and the watchdog."""

import threading

import pytest

from r2d2_jax.system.run import chores as chores_module
from r2d2_jax.system.run.background import Background
from r2d2_jax.system.run.chores import Chores
from r2d2_jax.system.run.watchdog import watchdog


def test_counts_are_due_at_multiples_also_when_they_start_in_between():
  count, done = [7], []
  chores = Chores()
  chores.add_by_count(lambda: done.append(count[0]), 5, lambda: count[0])
  for count[0] in (8, 9, 10, 11, 14, 17, 18, 31, 32):
    chores.do()
  # 10; 17 is past 15; 31 is past 20, 25 and 30: once.
  assert done == [10, 17, 31]


def test_seconds_are_due_by_the_clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(chores_module.time, "monotonic", lambda: now[0])
  done = []
  chores = Chores()
  chores.add_by_seconds(lambda: done.append("log"), 10)
  chores.add_by_seconds(lambda: done.append("save"), 25)
  assert chores.seconds_to_next() == 10
  now[0] += 9
  chores.do()
  assert not done and chores.seconds_to_next() == 1
  now[0] += 16.5
  chores.do()
  assert done == ["log", "save"] and chores.seconds_to_next() == 4.5


def test_a_background_job_runs_beside_and_its_error_is_raised_once():
  release = threading.Event()
  job = Background("test")
  assert not job.is_busy
  job.start(release.wait)
  assert job.is_busy
  release.set()
  job.join()
  assert not job.is_busy

  def fail():
    raise OSError("disk")

  job.start(fail)
  job.join()
  with pytest.raises(OSError, match="disk"):
    job.raise_error()
  job.raise_error()


def test_the_watchdog_speaks_while_nothing_moves_and_only_then():
  said, looks = [], []
  at_rest, done = [1, 1, 1], threading.Event()

  def progress():
    looks.append(1)
    if len(looks) > 20:
      done.set()
    # Moves, rests for two further looks, moves again.
    return at_rest if 5 <= len(looks) < 8 else object()

  with watchdog(progress, said.append, period_minutes=1e-5):
    assert done.wait(60)
  assert said == [1e-5, 2e-5]
