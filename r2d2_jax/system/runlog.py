"""The run's log: one CSV that grows row by row, and its reading."""

import csv
import pathlib


class RunLog:
  """Appends rows of numbers to a CSV; each row is on disk when `write` returns.

  The columns are those of the first row; a resumed run goes on in the same file.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._columns: list[str] | None = None
    if path.exists() and path.stat().st_size:
      with path.open(newline="") as f:
        self._columns = next(csv.reader(f))

  def write(self, row: dict[str, float | int | str]) -> None:
    """Appends one row.

    Raises:
      ValueError: its columns are not those of the file.
    """
    new = self._columns is None
    if new:
      self._columns = list(row)
    if list(row) != self._columns:
      raise ValueError(
          f"{self._path} has columns {self._columns}, got {list(row)}; it was"
          " written by another version: use another run directory"
      )
    with self._path.open("a", newline="") as f:
      writer = csv.writer(f)
      if new:
        writer.writerow(self._columns)
      writer.writerow(_short(v) for v in row.values())


def read_log(path: pathlib.Path) -> dict[str, list[float]]:
  """The columns of a log, as floats; what is no number is NaN."""
  with path.open(newline="") as f:
    rows = list(csv.DictReader(f))
  return {
      name: [_number(row[name]) for row in rows]
      for name in (rows[0] if rows else {})
  }


def _short(value):
  return f"{value:.6g}" if isinstance(value, float) else value


def _number(text: str) -> float:
  try:
    return float(text)
  except (TypeError, ValueError):
    return float("nan")
