"""The live line: one line that is rewritten on a terminal, or plain lines."""

import contextlib
from typing import Iterator, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r2d2_jax.config import Config


class Printer(Protocol):
  """Shows the latest state of the run."""

  def __call__(self, line: str) -> None: ...


@contextlib.contextmanager
def progress_display(console: Console) -> Iterator[Printer]:
  """A function that shows its argument as the run's current line."""
  if not console.is_terminal:
    # No wrapping: a log file's line is one line.
    yield lambda line: console.print(line, soft_wrap=True, highlight=False)
    return
  with Live(console=console, auto_refresh=False) as live:
    yield lambda line: live.update(Text(line), refresh=True)


def progress_line(row: dict, config: Config) -> str:
  """What a person wants to know at a glance, from a row of the log."""
  left = row["minutes_left"]
  if row["updates"]:
    learning = (
        f"{row['updates_per_second']:.2f} updates/s"
        f" | ratio {row['replay_ratio']:.2f}/{config.replay.replay_ratio:g}"
    )
  else:
    learning = (
        f"filling replay {row['replay_size']}/{config.replay.min_sequences}"
    )
  return (
      f"{row['minutes']:.1f} min"
      f" | {_count(row['steps'])} steps {_count(row['frames'])} frames"
      f" | {row['frames_per_second']:.0f} frames/s"
      f" | {learning}"
      f" | return {_or_dash(row['return_exploit'])}"
      f" (all lanes {_or_dash(row['return_mean'])})"
      f" | replay {100 * row['replay_size'] / config.replay.capacity_sequences:.0f}%"
      f" | limited by {row['bottleneck']}"
      f" | {'-' if left != left else f'{left:.0f} min'} left"
  )


def _count(x: float) -> str:
  for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if x >= limit:
      return f"{x / limit:.2f}{unit}"
  return str(int(x))


def _or_dash(x: float) -> str:
  return "-" if x != x else f"{x:.1f}"
