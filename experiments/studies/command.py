"""The command of every study: options in; runs, tables and a plot out."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import tempfile
import time
from typing import Any

from experiments import archive
from experiments.studies.bases import Size
from experiments.studies.study import Run, Study, make_runs
from r2d2_jax.cli.command import check_number, writing
from r2d2_jax.config import ConfigError

# Plain lines, where nothing can be redrawn, are for a file.
_LINE_SECONDS = 60.0
_REDRAW_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Options:
  """What can be said of any study."""

  size: Size = "small"
  """small: two cores, under an hour for a whole study; paper: accelerators."""
  tasks: tuple[str, ...] = ()
  """Tasks; none means those of the study. Any of the 57 Atari games, MiniGrid
  tasks and tasks with flat observations will do."""
  arms: tuple[str, ...] = ()
  """Names of arms; none means all."""
  seeds: int = 0
  """Runs of each arm; all first seeds come before the second ones. 0 leaves the
  size's: three, but one of an Atari game in the small size."""
  out: pathlib.Path | None = None
  """Directory of the study; none means runs/STUDY-SIZE. The same again goes
  on."""
  steps: int = 0
  """Agent steps of each run; 0 leaves the size's. More makes finished runs go
  on."""
  max_minutes_per_run: float = 0.0
  """Wall-clock limit of each run; 0 for none."""
  jobs: int = 0
  """Runs that go on at the same time; 0 leaves it to the kind of run: one for
  each processor in lock-step (small tasks), one alone with threads."""
  report_only: bool = False
  """Write tables and plot of what is there, and start nothing. Where --out has
  an archive of the runs (experiments.archive) but not their directories, the
  archive is read."""


def run_study(
  study: Study,
  options: Options,
  plot: Callable[[Sequence[Any], pathlib.Path], None],
) -> int:
  """Makes the runs that are missing, and the report after each of them.

  Args:
    study: declared, of the size that is asked for.
    options: of the command line.
    plot: draws records into a PNG.

  Returns:
    0; 1 if a run failed: the others were made all the same.

  Raises:
    ConfigError: before anything starts: settings that cannot work, a directory
      that holds other runs, or an archive of runs, which cannot go on.
    KeyboardInterrupt: Ctrl-C; the same command goes on.
  """
  from rich.console import Console

  from experiments.studies import results
  from experiments.studies.runner import carry_out
  from r2d2_jax.system.metrics.display import progress_display
  from r2d2_jax.system.run.interrupts import heard_signals

  check_number("--seeds", options.seeds, 0)
  check_number("--jobs", options.jobs, 0)
  check_number("--steps", options.steps, 0, 2**53)
  check_number("--max-minutes-per-run", options.max_minutes_per_run, 0)
  out = options.out or pathlib.Path("runs", f"{study.name}-{options.size}")
  runs_in = functools.partial(
    make_runs,
    study,
    seeds=options.seeds,
    tasks=options.tasks,
    arms=options.arms,
    total_steps=options.steps,
    max_minutes=options.max_minutes_per_run,
  )
  runs = runs_in(out=out)
  _check_configs(runs)
  console = Console()

  def say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

  def report(runs: Sequence[Run]) -> None:
    records = results.read_records(runs)
    with writing("--out", out):
      results.write_tables(records, out)
      if records:
        plot(records, out / f"{study.name}.png")

  if options.report_only:
    with _unpacked(out, runs) as runs_dir:
      there = runs_in(out=runs_dir)
      results.check_settings(there, out)
      with writing("--out", out):
        out.mkdir(parents=True, exist_ok=True)
      report(there)
      say("\n".join([*_summary_lines(study, there), f"wrote {out}"]))
    return 0

  if _is_packed(out, runs):
    raise ConfigError(
      f"{out} holds an archive of runs, which cannot go on: give another"
      " --out, or unpack it with"
      f" python -m experiments.archive unpack {out} {out}"
    )
  results.check_settings(runs, out)
  with writing("--out", out):
    out.mkdir(parents=True, exist_ok=True)

  # Counted, not looked up at every redraw: logs of some days are long.
  done = sum(map(results.is_finished, runs))

  def ended(run, failure) -> None:
    nonlocal done
    if failure is None:
      done += 1
      say(f"finished {run.title}")
    else:
      say(
        f"failed: {run.title}, exit code {failure.returncode}; what it said is"
        f" in {run.output}. Its last line: {_last_line(run.output)}"
      )
    report(runs)

  say(f"{study.name}: {len(runs)} runs, {done} of them finished; in {out}")
  try:
    with heard_signals() as stop, progress_display(console) as show_line:
      shown = _Throttled(
        lambda going: show_line(_progress(runs, done, going, options.jobs)),
        _REDRAW_SECONDS if console.is_terminal else _LINE_SECONDS,
      )

      def show(going: list[Run]) -> None:
        stop.check()
        shown.show(going)

      failures = carry_out(runs, jobs=options.jobs, show=show, ended=ended)
  except KeyboardInterrupt:
    report(runs)
    say("stopped; the same command goes on")
    raise
  report(runs)
  say("\n".join([*_summary_lines(study, runs), f"wrote {out}"]))
  if failures:
    say(f"{len(failures)} runs failed; the same command tries them again")
  return 1 if failures else 0


def _is_packed(out: pathlib.Path, runs: Sequence[Run]) -> bool:
  """Whether the runs are in an archive alone: directories come before it."""
  return (out / archive.FILE_NAME).is_file() and not any(
    run.directory.exists() for run in runs
  )


@contextlib.contextmanager
def _unpacked(out: pathlib.Path, runs: Sequence[Run]) -> Iterator[pathlib.Path]:
  """Where the runs of a study can be read: `out`, or a temporary directory."""
  if not _is_packed(out, runs):
    yield out
    return
  with tempfile.TemporaryDirectory() as directory:
    archive.unpack(out / archive.FILE_NAME, pathlib.Path(directory))
    yield pathlib.Path(directory)


def _check_configs(runs: Sequence[Run]) -> None:
  """Refuses, before hours of work, settings and tasks that cannot work."""
  # Imports EnvPool, where a task needs it.
  from r2d2_jax.config import validate
  from r2d2_jax.envs.make import world_spec

  for env in dict.fromkeys(run.config.env for run in runs):
    world_spec(env)
  for run in runs:
    validate(run.config)


class _Throttled:
  """Shows no more often than every so many seconds."""

  def __init__(self, show: Callable[[list[Run]], None], seconds: float):
    self._show, self._seconds = show, seconds
    self._due = 0.0

  def show(self, going: list[Run]) -> None:
    """Shows, if it is time."""
    if time.monotonic() >= self._due:
      self._show(going)
      self._due = time.monotonic() + self._seconds


def _progress(
  runs: Sequence[Run], done: int, going: Sequence[Run], jobs: int
) -> str:
  """Runs done, those going on, time left."""
  from experiments.studies.results import last_log_row
  from experiments.studies.runner import minutes_left

  parts = [f"{done}/{len(runs)} runs"]
  for run in going:
    steps, minutes = last_log_row(run)
    share = steps / run.config.run.total_steps
    parts.append(f"{run.title}: {share:.0%} after {minutes:.1f} min")
  left = minutes_left(runs, jobs)
  # NaN: nothing is known yet.
  parts.append(f"about {left:.0f} min left" if left == left else "time left: ?")
  return " | ".join(parts)


def _last_line(path: pathlib.Path) -> str:
  lines = path.read_text(errors="replace").split("\n")
  return next((line for line in reversed(lines) if line.strip()), "nothing")


def _summary_lines(study: Study, runs: Sequence[Run]) -> list[str]:
  """The columns that the study is about: mean over seeds, and their range."""
  from experiments.studies import results

  table = [("task", "arm", "seeds", *study.columns)]
  for row in results.summarise(results.read_records(runs)):
    table.append(
      (
        row["task"],
        row["arm"],
        str(row["seeds"]),
        *(
          f"{row[name]:.3g}"
          + (
            f" [{row[f'{name}_min']:.3g}, {row[f'{name}_max']:.3g}]"
            if row["seeds"] > 1
            else ""
          )
          for name in study.columns
        ),
      )
    )
  if len(table) == 1:
    return ["no run is finished"]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
