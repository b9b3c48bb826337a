"""Tables for people, on a terminal or through a pipe."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def print_table(
  console: Console,
  title: str,
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
) -> None:
  """Prints a table as wide as it needs to be: numbers are never cut.

  Args:
    console: where to; its width is not heeded.
    title: above it.
    columns: heads; the first column is of names, the others of numbers.
    rows: as many cells each.
  """
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  for i, column in enumerate(columns):
    table.add_column(column, justify="right" if i else "left", no_wrap=True)
  for row in rows:
    table.add_row(*row)
  wide = Console(
    file=console.file,
    force_terminal=console.is_terminal,
    width=1000,
    markup=False,
  )
  wide.print(title, highlight=False)
  wide.print(table, highlight=False)
