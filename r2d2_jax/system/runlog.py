"""The run's log: one CSV that grows row by row, and its reading."""

from collections.abc import Collection
import csv
import io
import pathlib


class RunLog:
  """Appends rows of numbers to a CSV; each row is on disk when `write` returns.

  The columns are those of the first row; a resumed run goes on in the same file.
  """

  def __init__(self, path: pathlib.Path):
    """Opens the log, or begins one."""
    self._path = path
    self._columns: list[str] | None = None
    self._size_bytes = 0  # of the whole rows
    if not path.exists():
      return
    # A process that was killed may have left half a row.
    self._size_bytes = path.read_bytes().rfind(b"\n") + 1
    if self._size_bytes:
      with path.open(newline="") as f:
        self._columns = next(csv.reader(f))

  def write(self, row: dict[str, float | int | str]) -> None:
    """Appends one row.

    Raises:
      ValueError: its columns are not those of the file.
      OSError: it could not be written; the rows before it are whole.
    """
    new = self._columns is None
    if not new and list(row) != self._columns:
      raise ValueError(
          f"{self._path} has columns {self._columns}, got {list(row)}; it was"
          " written by another version: use another run directory"
      )
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if new:
      writer.writerow(row)
    writer.writerow(_short(v) for v in row.values())
    with self._path.open("ab") as f:
      # Away with what a killed process or a full disk left half-written.
      f.truncate(self._size_bytes)
      f.write(lines.getvalue().encode())
    self._columns = list(row)
    self._size_bytes = self._path.stat().st_size


def cut_log(path: pathlib.Path, **last: int) -> None:
  """Drops the rows of a log that were written after a checkpoint.

  Args:
    path: of the CSV; need not exist.
    **last: by column, the value at the checkpoint: rows above it go.

  Raises:
    ValueError: it is damaged; nothing was changed.
  """
  if not path.exists():
    return
  try:
    # The last piece is empty, or half a row.
    lines = path.read_text().split("\n")[:-1]
    columns = lines[0].split(",") if lines else []
    kept = lines[:1] + [
        line
        for line in lines[1:]
        if all(
            float(line.split(",")[columns.index(name)]) <= value
            for name, value in last.items()
        )
    ]
  except (ValueError, IndexError) as error:
    raise _damaged(path, error) from error
  if kept != lines:
    new = path.with_name(f"{path.name}.partial")
    new.write_text("".join(f"{line}\n" for line in kept))
    new.replace(path)


def read_log(
    path: pathlib.Path, columns: Collection[str] | None = None
) -> dict[str, list[float]]:
  """The columns of a log, as floats; what is no number is NaN.

  Half a row, as a killed process leaves it, is left out.

  Args:
    path: of the CSV.
    columns: which of its columns, those that it lacks left out; None for all. A
      log of some days has a million numbers.

  Returns:
    Columns by name; {} where there is no row yet.

  Raises:
    ValueError: it is no CSV.
  """
  try:
    with path.open(newline="") as f:
      header, *rows = list(csv.reader(f)) or [[]]
  except (csv.Error, UnicodeDecodeError) as error:
    raise _damaged(path, error) from error
  rows = [row for row in rows if len(row) == len(header)]
  return {
      name: [_number(row[i]) for row in rows]
      for i, name in enumerate(header)
      if rows and (columns is None or name in columns)
  }


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(f"{path}: damaged ({error}); mend it or move it away")


def _short(value):
  return f"{value:.6g}" if isinstance(value, float) else value


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return float("nan")
