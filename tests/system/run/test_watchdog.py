"""A run that stands still is noticed."""

import threading

from r2d2_jax.system.run.watchdog import watchdog


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
