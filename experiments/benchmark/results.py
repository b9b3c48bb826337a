"""What a leg of the benchmark hands back: spreads, comparisons, tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
  """A quantity as it came out in several rounds."""

  median: float
  quartile_1: float
  quartile_3: float
  values: tuple[float, ...]  # one for each round

  def __str__(self) -> str:
    return (
      f"{number(self.median)} [{number(self.quartile_1)},"
      f" {number(self.quartile_3)}]"
    )


Cell = str | int | float | Spread


class Comparison(NamedTuple):
  """A ratio, or another number that has an aim."""

  name: str
  value: Spread
  aim: str  # "at least 0.85"
  met: bool


class Table(NamedTuple):
  """Rows of numbers, to be read by people."""

  title: str
  columns: tuple[str, ...]
  rows: list[tuple[Cell, ...]]
  note: str = ""


class LegResult(NamedTuple):
  """What one leg measured, and what it had to leave out."""

  comparisons: list[Comparison]
  tables: list[Table]
  skipped: list[str]


def spread(values: Sequence[float]) -> Spread:
  """Median and quartiles of one number per round."""
  quartile_1, median, quartile_3 = np.percentile(values, (25, 50, 75))
  return Spread(
    float(median),
    float(quartile_1),
    float(quartile_3),
    tuple(float(x) for x in values),
  )


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
  """Median over median; the quartiles are those of the rounds' own ratios.

  Both sides of a round were taken one right after the other, so that what else
  the machine did weighs on both.
  """
  each = spread(np.divide(numerators, denominators))
  return each._replace(
    median=float(np.median(numerators) / np.median(denominators))
  )


def scaled(values: Spread, factor: float) -> Spread:
  """All of it times a number: a rate as a share of another, and the like."""
  return spread([factor * x for x in values.values])._replace(
    median=factor * values.median,
    quartile_1=factor * values.quartile_1,
    quartile_3=factor * values.quartile_3,
  )


def at_least(name: str, value: Spread, aim: float) -> Comparison:
  """A comparison whose median should be `aim` or more."""
  return Comparison(name, value, f"at least {number(aim)}", value.median >= aim)


def less_than(name: str, value: Spread, aim: float) -> Comparison:
  """A comparison whose median should be below `aim`."""
  return Comparison(name, value, f"less than {number(aim)}", value.median < aim)


def number(x: float) -> str:
  """Three significant digits; whole numbers from 100 on."""
  return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cell(x: Cell) -> str:
  """A table's entry as text."""
  if isinstance(x, (str, Spread)):
    return str(x)
  return f"{x:,}" if isinstance(x, int) else number(x)
