"""The benchmark's results as JSON, as Markdown, and on the terminal."""

import json
import pathlib
from typing import Any

from rich.console import Console

from experiments.benchmark.results import (
  Comparison,
  LegResult,
  Table,
  cell,
)
from r2d2_jax.analysis.tables import print_table

_COMPARISONS = ("comparison", "measured", "aim", "met")


def write(directory: pathlib.Path, about: dict, legs: dict[str, dict]) -> None:
  """Writes benchmark.json and benchmark.md, over those of an earlier call.

  Args:
    directory: exists.
    about: of `machine.describe`, and what the command adds.
    legs: name -> {"result": LegResult, "seconds", "load_average"} or {"error"}.
  """
  everything = {"about": about, "legs": _plain(legs)}
  (directory / "benchmark.json").write_text(
    json.dumps(everything, indent=1) + "\n"
  )
  (directory / "benchmark.md").write_text(_markdown(about, legs))


def show(console: Console, result: LegResult) -> None:
  """Prints a leg's tables, as wide as they are."""
  for table in _tables(result):
    print_table(
      console, table.title, table.columns, [map(cell, r) for r in table.rows]
    )
  for line in result.skipped:
    console.print(
      f"left out: {line}", markup=False, highlight=False, soft_wrap=True
    )


def _tables(result: LegResult) -> list[Table]:
  """A leg's tables, the comparisons first."""
  if not result.comparisons:
    return result.tables
  return [_comparison_table(result.comparisons), *result.tables]


def _comparison_table(comparisons: list[Comparison]) -> Table:
  return Table(
    "Against the aims",
    _COMPARISONS,
    [(c.name, c.value, c.aim, "yes" if c.met else "no") for c in comparisons],
  )


def _markdown(about: dict, legs: dict[str, dict]) -> str:
  versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
  lines = [
    "# Benchmark",
    "",
    f"{about['date']}, `{about['command']}`. {about['processor']},"
    f" {about['cores']} cores, {about['memory_gib']} GiB; Python"
    f" {about['python']}; {versions}. Load average at the start:"
    f" {about['load_average']}.",
    "",
    "Entries are medians [first quartile, third quartile].",
  ]
  if about["toy"]:
    lines += ["", "Toy sizes: the numbers mean nothing."]
  for name, leg in legs.items():
    lines += ["", f"## {name}", ""]
    if "error" in leg:
      lines.append(f"Failed: {leg['error']}")
      continue
    lines.append(
      f"{leg['seconds']:.0f} s; load average before: {leg['load_average']}."
    )
    for table in _tables(leg["result"]):
      lines += ["", f"**{table.title}**", ""]
      lines += [_line(table.columns), _line(["---"] * len(table.columns))]
      lines += [_line([cell(x) for x in row]) for row in table.rows]
      if table.note:
        lines += ["", table.note]
    for line in leg["result"].skipped:
      lines += ["", f"Left out: {line}"]
  return "\n".join(lines) + "\n"


def _line(cells) -> str:
  return f"| {' | '.join(cells)} |"


def _plain(value: Any) -> Any:
  """Named tuples as dicts: what JSON can hold, with every round's value."""
  if hasattr(value, "_asdict"):
    return {k: _plain(v) for k, v in value._asdict().items()}
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  return value
