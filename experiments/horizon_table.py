"""The table of `experiments.memory_horizon`: a row for each run and k."""

import csv
import io
import math
import pathlib

from r2d2_jax.config import ConfigError, FileError
from r2d2_jax.system.storage.csv_log import RunLog

ALL = "all"  # k of the whole episode

_TEXTS = ("task", "run", "horizon", "returns")
_SETTINGS = ("episodes", "lanes", "epsilon", "seed")
_COLUMNS = (
  "task",
  "run",
  "updates",
  "horizon",
  *_SETTINGS,
  "return_mean",
  "max_q_gap",
  "max_q",
  "same_greedy",
  "rows",
  "frames",
  "returns",
)


def horizon_name(k: int | None) -> str:
  """What the table and the plot call it."""
  return ALL if k is None else str(k)


class HorizonTable:
  """Rows of one study, on disk as soon as they are written."""

  def __init__(self, path: pathlib.Path, settings: dict[str, float]):
    """Reads what is there; half a row, as a killed process leaves it, is none.

    Args:
      path: of the CSV, which need not exist; nothing is created yet.
      settings: episodes, lanes, epsilon and seed.

    Raises:
      ConfigError: its directory is a file, or it holds games played with other
        settings.
      FileError: it is no table of this kind.
    """
    if path.parent.exists() and not path.parent.is_dir():
      raise ConfigError(f"--out: expected a directory, got file {path.parent}")
    self.path = path
    self._settings = {n: _exact(settings[n]) for n in _SETTINGS}
    rows = _read(path)
    for name, value in self._settings.items():
      for row in rows:
        if row[name] != value:
          raise ConfigError(
            f"{path} holds games with {name} {row[name]}, now it is {value};"
            " give another --out, or the same settings"
          )
    self._rows = {(row["run"], row["horizon"]): row for row in rows}

  def open(self) -> None:
    """Creates the directory and the file, so that no game is played in vain."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.path.open("ab").close()

  def check_updates(self, run: pathlib.Path, num_updates: int) -> None:
    """Raises ConfigError if another checkpoint of the run is in the table."""
    row = self._any_row(run)
    if row and row["updates"] != str(num_updates):
      raise ConfigError(
        f"{self.path} holds games of {run} at update {row['updates']}, now it"
        f" is {num_updates}; give another --out, or --checkpoint"
        f" {row['updates']}"
      )

  def row(self, run: pathlib.Path, k: int | None) -> dict[str, str] | None:
    """The row, as text; None if there is none yet."""
    return self._rows.get((str(run), horizon_name(k)))

  def number(self, run: pathlib.Path, k: int | None, column: str) -> float:
    """A number of a row that is there."""
    return float(self._rows[str(run), horizon_name(k)][column])

  def write(self, run: pathlib.Path, k: int | None, agent, games) -> None:
    """Appends a row.

    Args:
      run: its directory.
      k: horizon; None for all.
      agent: the `SavedAgent` that played.
      games: `HorizonGames`.
    """
    returns = games.evaluation.returns
    self._append(
      {
        "task": agent.config.env.task,
        "run": str(run),
        "updates": str(agent.num_updates),
        "horizon": horizon_name(k),
        **self._settings,
        "return_mean": _exact(returns.mean()),
        "max_q_gap": f"{games.max_q_gap:.6g}",
        "max_q": f"{games.max_q:.6g}",
        "same_greedy": f"{games.same_greedy:.6g}",
        "rows": str(games.rows),
        "frames": str(sum(e.episode_frames for e in games.evaluation.episodes)),
        "returns": " ".join(map(_exact, returns)),
      }
    )

  def copy(self, run: pathlib.Path, k: int | None) -> bool:
    """Appends another horizon's row as this one's; False if there is none."""
    row = self._any_row(run)
    if row:
      self._append(row | {"horizon": horizon_name(k)})
    return row is not None

  def summary(self, run: pathlib.Path, k: int | None) -> str:
    """The row in a few words."""
    value = lambda column: self.number(run, k, column)
    return (
      f"return {value('return_mean'):.4g}, max-Q gap {value('max_q_gap'):.3g},"
      f" greedy action unchanged in {100 * value('same_greedy'):.1f} %"
    )

  def _any_row(self, run: pathlib.Path) -> dict[str, str] | None:
    rows = (row for row in self._rows.values() if row["run"] == str(run))
    return next(rows, None)

  def _append(self, row: dict[str, str]) -> None:
    RunLog(self.path).write(row)
    self._rows[row["run"], row["horizon"]] = row


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """The whole rows.

  Raises:
    FileError: it holds something else.
  """
  if not path.exists():
    return []
  try:
    data = path.read_bytes()
    reader = csv.DictReader(
      io.StringIO(data[: data.rfind(b"\n") + 1].decode(), newline="")
    )
    rows = list(reader)
    if reader.fieldnames and tuple(reader.fieldnames) != _COLUMNS:
      raise ValueError(f"its columns are {', '.join(reader.fieldnames)[:200]}")
    for row in rows:
      if None in row or None in row.values():
        raise ValueError(f"row {rows.index(row) + 1} is too long or too short")
      for column in set(_COLUMNS) - set(_TEXTS):
        if not math.isfinite(float(row[column])):
          raise ValueError(f"{column} is {row[column]}")
  except (csv.Error, UnicodeDecodeError, ValueError) as error:
    raise FileError(
      f"{path}: no table of this study, or damaged ({error}); move it away,"
      " or give another --out"
    ) from error
  return rows


def _exact(x: float) -> str:
  """All digits: scores go into the millions."""
  return f"{x:.12g}"
