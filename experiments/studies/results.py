"""What the runs of a study came to: rows, tables, their files.

Nothing of the wall clock is in results.csv and summary.csv, so that they are
the same however often the study was interrupted; minutes.csv has the minutes.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.studies.study import Run
from r2d2_jax.analysis.comparison import differing_settings, settings_of
from r2d2_jax.config import ConfigError
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.rundir import read_config

_KEY = ("task", "arm", "seed")
# Means over the last quarter of the steps, of the columns of log.csv.
LATE_COLUMNS = (
  "return_mean",
  "dq_first",
  "dq_last",
  "lag_p10",
  "lag_p50",
  "lag_p90",
  "td_abs_mean",
  "q_max_mean",
  "replay_ratio",
)
COLUMNS = (
  "steps",
  "frames",
  "updates",
  "eval_mean",
  "eval_median",
  "eval_games",
  "return_area",
  *LATE_COLUMNS,
)
# Settings of section `run` that change what a run is, or its table.
_RUN_SETTINGS = (
  "run.seed",
  "run.lockstep",
  "run.actor_refresh_steps",
  "log.period_updates",
  "evaluation.num_episodes",
  "evaluation.epsilon",
  "evaluation.num_lanes",
)
_TAIL_BYTES = 1 << 14  # more than a row of the log
_NAN = float("nan")


class Record(NamedTuple):
  """A run that has begun, as it is now."""

  run: Run
  finished: bool
  log: dict[str, np.ndarray]  # columns of log.csv
  values: dict[str, float]  # COLUMNS
  minutes: float  # of training

  @property
  def arm(self) -> str:
    """Name of its arm."""
    return self.run.arm


def is_finished(run: Run) -> bool:
  """Whether it has trained as long as it should, and was evaluated then."""
  steps, minutes = last_log_row(run)
  settings = run.config.run
  over = steps >= settings.total_steps or 0 < settings.max_minutes <= minutes
  if not over:
    return False
  evaluation = _read_last_evaluation(run)
  return (
    evaluation is not None
    and len(evaluation.returns) == run.config.evaluation.num_episodes
    and evaluation.num_updates == int(_read_log(run)["updates"][-1])
  )


def last_log_row(run: Run) -> tuple[float, float]:
  """Steps and minutes in the last row of a run's log; zeros before the first.

  Only the file's end is read: a log of some days is long, and this is asked
  often.
  """
  try:
    with (run.directory / "log.csv").open("rb") as f:
      header = f.readline()
      end = f.seek(0, io.SEEK_END)
      f.seek(max(len(header), end - _TAIL_BYTES))
      # Half a row, being written, comes after the last line break.
      lines = f.read().split(b"\n")[:-1]
  except FileNotFoundError:
    return 0.0, 0.0
  if not lines:
    return 0.0, 0.0
  row = dict(
    zip(
      header.decode().strip().split(","),
      lines[-1].decode().split(","),
      strict=False,
    )
  )
  return float(row["steps"]), float(row["minutes"])


def read_records(runs: Sequence[Run]) -> list[Record]:
  """Those of the runs that have a row in their log."""
  return [_read(run) for run in runs if last_log_row(run)[0]]


def _read(run: Run) -> Record:
  log = _read_log(run)
  finished = is_finished(run)
  steps = log["steps"]
  # Whatever came after a run's end was that of another start of it.
  late = steps >= 0.75 * steps[-1]
  values = {
    name: float(log[name][-1]) for name in ("steps", "frames", "updates")
  }
  values |= dict.fromkeys(("eval_mean", "eval_median", "eval_games"), _NAN)
  if finished:
    returns = _read_last_evaluation(run).returns
    values["eval_mean"] = float(returns.mean())
    values["eval_median"] = float(np.median(returns))
    values["eval_games"] = float(len(returns))
  values["return_area"] = _mean_over_steps(steps, log["return_mean"])
  values |= {name: _mean(log[name][late]) for name in LATE_COLUMNS}
  values = {name: values[name] for name in COLUMNS}
  return Record(run, finished, log, values, float(log["minutes"][-1]))


def _read_log(run: Run) -> dict[str, np.ndarray]:
  """The log, one row for each moment.

  A run that ends logs its last moment again with its evaluation, and again if
  it is evaluated anew because it was stopped meanwhile: the first row counts.
  """
  columns = {
    name: np.array(values)
    for name, values in read_log(run.directory / "log.csv").items()
  }
  moments = np.stack([columns["steps"], columns["updates"]], axis=1)
  is_new = np.append(True, (moments[1:] != moments[:-1]).any(axis=1))
  return {name: values[is_new] for name, values in columns.items()}


def _read_last_evaluation(run: Run):
  # Imports jax, which --help should not.
  from r2d2_jax.system.evaluation import read_last_evaluation

  return read_last_evaluation(run.directory)


def _mean(values: np.ndarray) -> float:
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else _NAN


def _mean_over_steps(steps: np.ndarray, values: np.ndarray) -> float:
  """The area under a curve, divided by its length: the mean height."""
  known = np.isfinite(values)
  steps, values = steps[known], values[known]
  if len(steps) < 2:
    return _NAN
  heights = (values[1:] + values[:-1]) / 2
  return float(np.average(heights, weights=np.diff(steps)))


def check_settings(runs: Sequence[Run], out: pathlib.Path) -> None:
  """Refuses to mix runs of other settings with those of this study.

  Args:
    runs: of the study.
    out: the study's directory as the user gave it; where its runs were unpacked
      from an archive they are read elsewhere.

  Raises:
    ConfigError: a directory holds a run that differs, or is longer.
  """
  for run in runs:
    if not (run.directory / "config.json").exists():
      continue
    there = read_config(run.directory)
    settings = [settings_of(config) for config in (there, run.config)]
    differing = differing_settings(settings)
    differing += [
      name
      for name in _RUN_SETTINGS
      if there.setting(name) != run.config.setting(name)
    ]
    if there.run.total_steps > run.config.run.total_steps:
      differing.append("run.total_steps")
    if differing:
      raise ConfigError(
        f"{out / run.directory.relative_to(run.out)} holds a run with another"
        f" {', '.join(differing)}; give another --out, or move it away"
      )


def write_tables(records: Sequence[Record], out: pathlib.Path) -> None:
  """Writes results.csv, summary.csv and minutes.csv.

  results.csv has a row for each run that has begun; evaluations only where it
  is finished. summary.csv has one for each task and arm: over the seeds that
  are finished their number, and mean, least and greatest of each column.
  """
  ordered = sorted(records, key=lambda r: (*_order(records, r), r.run.seed))
  _write(
    out / "results.csv",
    [_key(r) | {"finished": int(r.finished)} | r.values for r in ordered],
  )
  _write(out / "summary.csv", summarise(ordered))
  _write(
    out / "minutes.csv", [_key(r) | {"minutes": r.minutes} for r in ordered]
  )


def _order(records: Sequence[Record], record: Record) -> tuple[int, int]:
  """Tasks and arms as they are declared, whichever has begun first."""
  tasks = list(dict.fromkeys(r.run.task for r in records))
  arms = list(dict.fromkeys(r.arm for r in records))
  return tasks.index(record.run.task), arms.index(record.arm)


def summarise(records: Sequence[Record]) -> list[dict[str, float | int | str]]:
  """The rows of summary.csv."""
  groups: dict[tuple[str, str], list[Record]] = {}
  for record in records:
    if record.finished:
      groups.setdefault((record.run.task, record.arm), []).append(record)
  rows = []
  for (task, arm), members in groups.items():
    row = {"task": task, "arm": arm, "seeds": len(members)}
    for name in COLUMNS:
      values = np.array([member.values[name] for member in members])
      row |= {
        name: values.mean(),
        f"{name}_min": values.min(),
        f"{name}_max": values.max(),
      }
    rows.append(row)
  return rows


def _key(record: Record) -> dict[str, str | int]:
  return dict(zip(_KEY, record.run, strict=False))


def _write(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
  text = io.StringIO()
  if rows:
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
      writer.writerow(
        {
          name: f"{value:.6g}" if isinstance(value, float) else value
          for name, value in row.items()
        }
      )
  # Never half of it: someone may be looking.
  new = path.with_name(f"{path.name}.partial")
  new.write_text(text.getvalue())
  new.replace(path)
