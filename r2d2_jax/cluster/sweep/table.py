"""What a sweep shows: a table on a terminal; elsewhere lines."""

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from r2d2_jax.cluster.sweep.jobs import Job
from r2d2_jax.system.metrics.display import can_redraw

# Those in which there is something left to do.
OPEN = ("waits", "starts", "trains")
_PERIOD_SECONDS = 60.0
_MOST_LINES = 40
# Which lines to drop last where there are too many.
_ORDER = ("trains", "failed", "starts", "saved", "done", "skipped", "waits")
_NUMBERS = ("steps", "frames/s", "return", "evaluated", "minutes left")
_NAN = float("nan")


class Line:
  """A run of the sweep, as the table has it."""

  def __init__(self, job: Job):
    """It waits."""
    self.job = job
    self.state = "waits"
    self.words = ""  # why it failed
    self.steps = 0
    self.deaths = 0
    self.frames_per_second = _NAN
    self.return_exploit = _NAN
    self.minutes_left = _NAN
    self.score = _NAN  # mean of the last evaluation

  def note(self, row: dict) -> None:
    """Takes a row of the run's log; {} says nothing."""
    if row:
      self.steps = row["steps"]
      self.frames_per_second = row["frames_per_second"]
      self.return_exploit = row["return_exploit"]
      self.minutes_left = row["minutes_left"]
      if row["eval_return"] == row["eval_return"]:
        self.score = row["eval_return"]


def counts(lines: Sequence[Line]) -> str:
  """'3 train, 2 done, 1 failed', and so on; of 6 runs."""
  number = collections.Counter(line.state for line in lines)
  parts = [f"{number[state]} {state}" for state in _ORDER if number[state]]
  return f"{', '.join(parts)}; {len(lines)} runs"


def draw(lines: Sequence[Line]) -> Table:
  """The table; of many runs those that matter now."""
  table = Table(
    title=counts(lines), title_justify="left", box=None, pad_edge=False
  )
  for name in ("run", "task", "seed", "state", *_NUMBERS):
    is_text = name in ("task", "state")
    table.add_column(name, justify="left" if is_text else "right")
  shown = sorted(lines, key=lambda line: _ORDER.index(line.state))
  for line in sorted(shown[:_MOST_LINES], key=lambda line: line.job.index):
    table.add_row(
      str(line.job.index),
      line.job.task,
      str(line.job.seed),
      line.state,
      str(line.steps),
      _number(line.frames_per_second, 0),
      _number(line.return_exploit, 2),
      _number(line.score, 2),
      _number(line.minutes_left, 0),
    )
  if len(lines) > _MOST_LINES:
    table.caption = f"and {len(lines) - _MOST_LINES} more"
  return table


@contextlib.contextmanager
def sweep_display(
  console: Console,
) -> Iterator[Callable[[Sequence[Line]], None]]:
  """A function that shows the runs as they are now.

  On a terminal a table that stays below what is printed to the console;
  elsewhere a line when a run's state changes, and one for each that trains
  every minute.
  """
  if can_redraw(console):
    with Live(console=console, auto_refresh=False) as live:
      yield lambda lines: live.update(draw(lines), refresh=True)
    return
  states: dict[int, str] = {}
  told_at = time.monotonic()

  def show(lines: Sequence[Line]) -> None:
    nonlocal told_at
    is_time = time.monotonic() - told_at >= _PERIOD_SECONDS
    if is_time:
      told_at = time.monotonic()
    for line in lines:
      changed = states.get(line.job.index, "waits") != line.state
      states[line.job.index] = line.state
      if changed or (is_time and line.state == "trains"):
        console.print(
          _in_words(line), highlight=False, markup=False, soft_wrap=True
        )

  yield show


def _in_words(line: Line) -> str:
  parts = [f"{line.job.name} {line.state}"]
  if line.steps:
    parts.append(f"{line.steps} steps")
  if line.state == "trains" and line.return_exploit == line.return_exploit:
    parts.append(f"return {line.return_exploit:.2f}")
  if line.score == line.score:
    parts.append(f"evaluated {line.score:.2f}")
  return ", ".join(parts)


def _number(x: float, digits: int) -> str:
  return "" if x != x else f"{x:.{digits}f}"
