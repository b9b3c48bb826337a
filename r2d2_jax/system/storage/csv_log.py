"""The run's log: one CSV that grows row by row, and its reading."""

from collections.abc import Collection
import csv
import io
import pathlib

from r2d2_jax.config import FileError
from r2d2_jax.system.storage.files import (
  open_to_read,
  open_to_write,
  read_text,
  remove,
  replace_file,
)

Row = dict[str, float | int | str]


class RunLog:
  """Appends rows of numbers to a CSV; each row is on disk when `write` returns.

  The columns are those of the first row, and whatever later rows bring; a
  resumed run goes on in the same file.
  """

  def __init__(self, path: pathlib.Path):
    """Opens the log; one that is not there begins with its first row.

    Args:
      path: of the CSV; spreadsheets may have written it (a byte order mark,
        CRLF).

    Raises:
      FileError: what is there is no CSV.
      OSError: it cannot be read.
    """
    self._path = path
    self._columns: list[str] = []
    self._num_rows = 0
    self._size_bytes = 0  # of the whole rows
    if self._path.exists():
      self._columns, rows = self._read()
      self._num_rows = len(rows)

  @property
  def num_rows(self) -> int:
    """Whole rows in the file, the line of names not counted."""
    return self._num_rows

  def last_counts(self) -> tuple[float, ...]:
    """Steps and updates of the last row; () where there is none."""
    names = "steps", "updates"
    found = read_log(self._path, names) if self._num_rows else {}
    return tuple(found[name][-1] for name in names if name in found)

  def new_columns(self, columns: Collection[str]) -> list[str]:
    """Those that the file lacks; none where it has no row yet."""
    return [
      name for name in columns if self._columns and name not in self._columns
    ]

  def write(self, row: Row) -> None:
    """Appends one row, as `write_all`."""
    self.write_all([row])

  def write_all(self, rows: list[Row]) -> None:
    """Appends rows of the same columns, all of them in one piece.

    Columns that the file lacks are added to it, with NaN in the rows so far;
    columns that these rows lack are NaN in them.

    Raises:
      OSError: they could not be written; the rows before them are whole.
    """
    if not rows:
      return
    if self.new_columns(rows[0]):
      self._widen(list(rows[0]))
    columns = self._columns or list(rows[0])
    lines = [[_short(row.get(name, "nan")) for name in columns] for row in rows]
    data = _as_csv(lines if self._columns else [columns, *lines])
    with open_to_write(self._path, append=True) as file:
      # Away with what a killed process or a full disk left half-written.
      file.truncate(self._size_bytes)
      file.write(data)
    self._columns = columns
    self._num_rows += len(rows)
    self._size_bytes += len(data)

  def cut(self, max_rows: int | None = None, **last: int) -> None:
    """Drops what was written after a checkpoint.

    Args:
      max_rows: rows at the checkpoint: later ones go. None: it is not known.
      **last: by column, the value at the checkpoint: rows above it go. A column
        that the file lacks, or a NaN in it, drops nothing.

    Raises:
      FileError: it is damaged; nothing was changed.
      OSError: it could not be written; nothing was changed.
    """
    if not self._columns:
      return
    columns, rows = self._read()
    places = {
      columns.index(name): x for name, x in last.items() if name in columns
    }
    try:
      if last and not places:
        raise ValueError(f"it has none of the columns {', '.join(last)}")
      kept = [
        row
        for row in rows[:max_rows]
        if not any(float(row[i]) > x for i, x in places.items())
      ]
    except (ValueError, IndexError) as error:
      raise _damaged(self._path, error) from error
    if kept != rows:
      self._replace(columns, kept)

  def set_aside(self) -> None:
    """Begins anew: the old rows, if any, go to a file with .old at its end."""
    if self._columns:
      self._path.replace(self._path.with_name(f"{self._path.name}.old"))
    else:
      remove(self._path)
    self._columns, self._num_rows, self._size_bytes = [], 0, 0

  def _read(self) -> tuple[list[str], list[list[str]]]:
    """Names and whole rows; remembers where these end."""
    with open_to_read(self._path) as file:
      data = file.read()
    # A process that was killed may have left half a row.
    data = data[: data.rfind(b"\n") + 1]
    try:
      text = data.decode("utf-8-sig")
      columns, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except (csv.Error, ValueError) as error:
      raise _damaged(self._path, error) from error
    if rows and not columns:
      raise _damaged(self._path, ValueError("its first line is empty"))
    self._size_bytes = len(data) if columns else 0
    return columns, rows

  def _widen(self, columns: list[str]) -> None:
    """Adds columns; those that the file alone has come last."""
    before, rows = self._read()
    after = columns + [name for name in before if name not in columns]
    wide = [dict(zip(before, row, strict=False)) for row in rows]
    self._replace(
      after, [[row.get(name, "nan") for name in after] for row in wide]
    )

  def _replace(self, columns: list[str], rows: list[list[str]]) -> None:
    data = _as_csv([columns, *rows])
    replace_file(self._path, data)
    self._columns, self._num_rows = columns, len(rows)
    self._size_bytes = len(data)


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
    FileError: it is no CSV.
  """
  try:
    lines = io.StringIO(read_text(path), newline="")
    header, *rows = list(csv.reader(lines)) or [[]]
  except (csv.Error, UnicodeDecodeError) as error:
    raise _damaged(path, error) from error
  rows = [row for row in rows if len(row) == len(header)]
  return {
    name: [_number(row[i]) for row in rows]
    for i, name in enumerate(header)
    if rows and (columns is None or name in columns)
  }


def _as_csv(lines: list[list]) -> bytes:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(lines)
  return text.getvalue().encode()


def _damaged(path: pathlib.Path, error: Exception) -> FileError:
  return FileError(f"{path}: damaged ({error}); mend it or move it away")


def _short(value):
  return f"{value:.6g}" if isinstance(value, float) else value


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return float("nan")
