"""Signals: noted, obeyed between two steps, insisted on after a while."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from r2d2_jax.system.run import interrupts
from r2d2_jax.system.run.interrupts import SIGNALS, heard_signals


@pytest.fixture(name="clock")
def _clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
  return now


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process():
  """Handlers as Python sets them; pytest's own afterwards."""
  before = {number: signal.getsignal(number) for number in SIGNALS}
  for number in SIGNALS:
    signal.signal(number, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


def _send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_deferred_the_first_is_noted_and_a_later_one_interrupts(number, clock):
  with heard_signals() as stop, stop.deferred():
    stop.check()
    _send(number)
    assert stop.asked
    with pytest.raises(KeyboardInterrupt):
      stop.check()
    clock[0] += interrupts.SECOND_WISH_SECONDS  # at most: the same wish
    _send(signal.SIGTERM)
    clock[0] += 0.1
    with pytest.raises(KeyboardInterrupt):
      _send(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_is_deferred_the_first_one_interrupts(number):
  with heard_signals() as stop:
    with pytest.raises(KeyboardInterrupt):
      _send(number)
    assert stop.asked


def test_shielded_nothing_interrupts(clock):
  with heard_signals() as stop:
    with stop.shielded():
      _send(signal.SIGTERM)
      clock[0] += 100
      _send(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
      _send(signal.SIGTERM)


def test_the_user_is_told_what_a_second_signal_does(clock, capfd):
  with heard_signals() as stop:
    with stop.deferred(), stop.shielded():
      _send(signal.SIGINT)
      assert (
        "another signal after 5 seconds ends at once" in capfd.readouterr().err
      )
      clock[0] += 6
      _send(signal.SIGINT)
      assert "no other checkpoint" in capfd.readouterr().err


def test_an_exception_that_a_destructor_drops_is_not_forgotten():
  class Garbage:
    def __del__(self):
      _send(signal.SIGINT)
      for _ in range(1000):  # the handler runs between two of these
        pass

  dropped = []
  hook, sys.unraisablehook = sys.unraisablehook, dropped.append
  try:
    with heard_signals() as stop:
      Garbage()
      assert dropped[0].exc_type is KeyboardInterrupt
      with pytest.raises(KeyboardInterrupt):
        stop.check()
  finally:
    sys.unraisablehook = hook


def test_nested_the_request_is_the_same_and_handlers_are_put_back():
  mine = lambda number, frame: None
  signal.signal(signal.SIGUSR1, mine)
  before = {number: signal.getsignal(number) for number in SIGNALS}
  with heard_signals() as outer, outer.deferred():
    _send(signal.SIGUSR1)
    with heard_signals() as inner:
      assert inner is outer and inner.asked
    assert signal.getsignal(signal.SIGTERM) == outer.handle
  assert {number: signal.getsignal(number) for number in SIGNALS} == before
  with heard_signals() as stop:
    assert not stop.asked


def test_what_is_ignored_stays_ignored_unless_asked_for():
  for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
  with heard_signals(even_ignored=(signal.SIGINT,)) as stop, stop.deferred():
    _send(signal.SIGHUP)
    assert not stop.asked
    _send(signal.SIGINT)
    assert stop.asked
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_thread_that_is_not_the_main_one_hears_nothing():
  found = []

  def run():
    with heard_signals() as stop:
      found.append((stop.asked, signal.getsignal(signal.SIGTERM)))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found == [(False, signal.SIG_DFL)]


def test_the_handler_waits_for_no_reader_of_its_words():
  """A pipe to which nothing more can be written, and two signals."""
  code = (
    "import os, signal, fcntl\n"
    "from r2d2_jax.system.run.interrupts import heard_signals\n"
    "os.set_blocking(2, False)\n"
    "try:\n"
    "  while True: os.write(2, bytes(4096))\n"
    "except BlockingIOError: os.set_blocking(2, True)\n"
    "with heard_signals() as stop, stop.deferred():\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  print('asked', stop.asked)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.wait(timeout=60) == 0
    assert process.stdout.read() == "asked True\n"
  finally:
    process.kill()
    process.stdout.close()
    process.stderr.close()
