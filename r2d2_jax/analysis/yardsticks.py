"""What others reached on a task, or what chance does, to compare with.

They are in yardsticks.csv beside this file, each with its source; the first one
of a task is the one to be shown where there is place for one. A yardstick was
taken at a number of steps of its own: the label says at how many.
"""

import csv
import functools
import pathlib
from typing import NamedTuple

from r2d2_jax.envs.tasks import plain_name
from r2d2_jax.system.metrics.learning_curve import rounded

_PATH = pathlib.Path(__file__).parent / "yardsticks.csv"


class Yardstick(NamedTuple):
  """One score to compare with."""

  task: str
  name: str  # whose it is
  score: float  # raw return of whole games, or the task's own score
  steps: int | None  # agent steps after which; None where that says nothing
  source: str

  @property
  def label(self) -> str:
    """Name, steps and score, for a legend."""
    after = f" after {rounded(self.steps)} steps" if self.steps else ""
    return f"{self.name}{after}: {self.score:g}"


@functools.cache
def _all() -> tuple[Yardstick, ...]:
  with _PATH.open(newline="") as f:
    return tuple(
      Yardstick(
        row["task"],
        row["name"],
        float(row["score"]),
        int(row["steps"]) if row["steps"] else None,
        row["source"],
      )
      for row in csv.DictReader(f)
    )


def yardsticks_of(task: str) -> list[Yardstick]:
  """Those of a task, in the file's order; 'Pong-v5' is 'Pong'."""
  return [y for y in _all() if plain_name(y.task) == plain_name(task)]


def draw_yardsticks(axes, task: str) -> None:
  """Draws a labelled horizontal line for each of a task's yardsticks."""
  for yardstick in yardsticks_of(task):
    axes.axhline(yardstick.score, color="gray", linestyle=":", linewidth=1)
    axes.annotate(
      yardstick.label,
      (0.01, yardstick.score),
      xycoords=axes.get_yaxis_transform(),
      xytext=(0, 2),
      textcoords="offset points",
      fontsize="x-small",
      color="dimgray",
    )
