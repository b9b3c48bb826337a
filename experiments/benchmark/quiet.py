"""Whether the machine is free for a measurement: waits for it, or warns."""

from collections.abc import Callable
import time

from experiments.benchmark import machine

# Cores that others may keep busy: the interrupts and daemons of a machine that
# is left alone take less.
BUSY_CORES = 0.2
_LOOKS = 3  # in a row that must find it quiet


def wait_until_quiet(
  minutes: float,
  *,
  say: Callable[[str], None],
  busy_cores: Callable[[], float] = machine.busy_cores,
  now: Callable[[], float] = time.monotonic,
) -> float:
  """Looks whether others work on these cores; says so where they do.

  Args:
    minutes: how long to wait for quiet, three looks in a row; 0 looks once.
    say: takes a line for the user: at the first look that finds others, and
      where it was in vain.
    busy_cores: a look, of about a second.
    now: the clock, in seconds.

  Returns:
    Cores that others kept busy at the last look.
  """
  end = now() + 60 * minutes
  busy = busy_cores()
  if busy <= BUSY_CORES:
    return busy
  quiet = 0
  if minutes > 0:
    say(
      f"others keep {busy:.1f} cores busy: waiting for quiet, at most"
      f" {minutes:g} minutes"
    )
    while now() < end:
      busy = busy_cores()
      quiet = quiet + 1 if busy <= BUSY_CORES else 0
      if quiet == _LOOKS:
        return busy
  say(
    f"warning: others keep {busy:.1f} cores busy: what is measured now says"
    " little; --wait-quiet MINUTES waits for them"
  )
  return busy
