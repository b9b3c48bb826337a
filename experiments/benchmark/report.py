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


def write(directory: pathlib.Path, about: dict, legs: dict[str, dict]) -> dict:
  """Writes benchmark.json and benchmark.md, over those of an earlier call.

  Args:
    directory: exists.
    about: of `origin.describe`, and what the command adds.
    legs: name -> {"result": LegResult, "seconds", "busy_cores"} or {"error"}.

  Returns:
    What benchmark.json holds.
  """
  everything = {"about": about, "legs": _plain(legs)}
  (directory / "benchmark.json").write_text(
    json.dumps(everything, indent=1) + "\n"
  )
  (directory / "benchmark.md").write_text(_markdown(about, legs))
  return everything


def write_compared(
  directory: pathlib.Path, tables: list[Table], differences: list[str]
) -> None:
  """Adds to benchmark.md how the results compare with earlier ones."""
  lines = ["", "## Compared", "", *(f"- {line}" for line in differences)]
  for table in tables:
    lines += _table_lines(table)
  with (directory / "benchmark.md").open("a") as f:
    f.write("\n".join(lines) + "\n")


def show_tables(console: Console, tables: list[Table]) -> None:
  """Prints tables, as wide as they are."""
  for table in tables:
    print_table(
      console,
      table.title,
      table.columns,
      [[cell(x) for x in row] for row in table.rows],
    )


def show(console: Console, result: LegResult) -> None:
  """Prints a leg's tables, and what it left out."""
  show_tables(console, _tables(result))
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
      f"{leg['seconds']:.0f} s; cores that others kept busy before it:"
      f" {leg['busy_cores']}."
    )
    for table in _tables(leg["result"]):
      lines += _table_lines(table)
    for line in leg["result"].skipped:
      lines += ["", f"Left out: {line}"]
  return "\n".join(lines) + "\n"


def _table_lines(table: Table) -> list[str]:
  lines = ["", f"**{table.title}**", ""]
  lines += [_line(table.columns), _line(["---"] * len(table.columns))]
  lines += [_line([cell(x) for x in row]) for row in table.rows]
  return [*lines, "", table.note] if table.note else lines


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
