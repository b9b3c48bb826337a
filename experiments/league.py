"""The league table: what the runs of each task came to, beside yardsticks.

    python -m experiments.league
    python -m experiments.league docs/results/pong docs/results/recall
    python -m experiments.league --out docs/results/league.md

It reads archives of runs (experiments.archive), so that everybody who has the
repository can make the table anew.
"""

from collections.abc import Mapping, Sequence
import functools
import math
import pathlib
import sys
import tempfile
import textwrap
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from experiments import archive, memory_chain
from experiments.studies.study import arm_of
from r2d2_jax.analysis.comparison import find_runs, group_runs
from r2d2_jax.analysis.yardsticks import yardsticks_of
from r2d2_jax.cli.command import run_command, writing
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.tasks import chain_length
from r2d2_jax.system.evaluation import read_last_evaluation
from r2d2_jax.system.metrics.learning_curve import rounded
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.origin import read_starts
from r2d2_jax.system.storage.rundir import read_config

_RESULTS = pathlib.Path("docs/results")
# Of the studies those whose tasks have a public yardstick.
_STUDIES = ("memory_chain", "popgym")
_NAMES = {"r2d2": "R2D2", "impala": "IMPALA", "a3c": "A3C"}
_REPETITIONS = 2000
_COMMIT_DIGITS = 7
_COLUMNS = 100

_HEAD = (
  "task", "agent", "seeds", "steps", "score [95 %]", "yardstick", "commit",
)  # fmt: skip


class Entry(NamedTuple):
  """One agent on one task."""

  task: str
  agent: str
  returns: list[np.ndarray]  # of each seed: its games, or its one score
  steps: list[float]  # agent steps of each seed
  commits: list[str]  # at which its runs were started; [] where not recorded


def bootstrap_interval(
  returns: Sequence[np.ndarray], *, seed: int = 0
) -> tuple[float, float]:
  """95 % percentile interval of the mean over seeds of their mean returns.

  Seeds are drawn anew with replacement, and in each of them its games: it is
  the spread that other seeds and other games would give, as far as these tell.
  Of one seed it is that of its games alone.

  Args:
    returns: raw returns, one array for each seed.
    seed: of the drawing.
  """
  rng = np.random.default_rng(seed)
  means = [
    np.mean(
      [
        rng.choice(returns[i], len(returns[i])).mean()
        for i in rng.integers(len(returns), size=len(returns))
      ]
    )
    for _ in range(_REPETITIONS)
  ]
  low, high = np.percentile(means, [2.5, 97.5])
  return float(low), float(high)


def read_entries(paths: Sequence[pathlib.Path]) -> list[Entry]:
  """The entries of archives, in their order.

  Runs that differ in nothing but their seed are one entry. All lengths of
  memory-chain are one task, whose score is bsuite's; what was not played with
  every length is left out.

  Args:
    paths: directories, each with an archive.
  """
  entries = []
  for path in paths:
    with tempfile.TemporaryDirectory() as directory:
      archive.unpack(path / archive.FILE_NAME, pathlib.Path(directory))
      runs = find_runs([pathlib.Path(directory)])
      configs = {run: read_config(run) for run in runs}
      chains = {r for r in runs if chain_length(configs[r].env.task)}
      entries += _games({r: c for r, c in configs.items() if r not in chains})
      entries += _chains({r: c for r, c in configs.items() if r in chains})
  return entries


def _games(configs: Mapping[pathlib.Path, Config]) -> list[Entry]:
  names = {run: arm_of(run, config) for run, config in configs.items()}
  entries = []
  for task, groups in group_runs(configs, names).items():
    for label, members in groups.items():
      evaluations = {run: read_last_evaluation(run) for run in members}
      evaluated = {run: e for run, e in evaluations.items() if e is not None}
      if not evaluated:
        continue
      name = _NAMES[configs[members[0]].agent.algorithm]
      entries.append(
        Entry(
          task,
          # README has no more than 100 columns.
          f"{name}, {label.removeprefix('core ')}" if label else name,
          [e.returns for e in evaluated.values()],
          [_steps(run, e.num_updates) for run, e in evaluated.items()],
          _commits(list(evaluated)),
        )
      )
  return entries


def _chains(configs: Mapping[pathlib.Path, Config]) -> list[Entry]:
  arms: dict[str, dict[int, list[pathlib.Path]]] = {}
  for run, config in configs.items():
    seeds = arms.setdefault(arm_of(run, config), {})
    seeds.setdefault(config.run.seed, []).append(run)
  entries = []
  for arm, seeds in arms.items():
    ratios = [
      {
        chain_length(configs[run].env.task): memory_chain.regret_ratio(
          {name: np.array(x) for name, x in read_log(run / "log.csv").items()}
        )
        for run in runs
      }
      for runs in seeds.values()
    ]
    # A score over fewer lengths is not bsuite's.
    whole = [set(seed) == set(memory_chain.LENGTHS) for seed in ratios]
    if all(whole):
      entries.append(
        Entry(
          "memory-chain",
          f"R2D2, {arm}" if arm != "r2d2" else "R2D2",
          [np.array([memory_chain.bsuite_score(seed)]) for seed in ratios],
          [sum(map(_steps, runs)) for runs in seeds.values()],
          _commits([run for runs in seeds.values() for run in runs]),
        )
      )
  return entries


def _steps(run: pathlib.Path, num_updates: float = math.inf) -> float:
  """Of the first row with so many updates; of the last one without it."""
  log = read_log(run / "log.csv")
  rows = zip(log["steps"], log["updates"], strict=True)
  reached = (steps for steps, updates in rows if updates >= num_updates)
  return next(reached, log["steps"][-1])


def _commits(runs: Sequence[pathlib.Path]) -> list[str]:
  """Of all starts of the runs, once each; '+' where the clone was changed."""
  commits = {}
  for run in runs:
    for start in read_starts(run):
      commit = start.get("commit")
      if isinstance(commit, str):
        changed = "+" if start.get("modified") else ""
        commits[commit[:_COMMIT_DIGITS] + changed] = None
  return list(commits)


def table(entries: Sequence[Entry]) -> str:
  """The table as Markdown, tasks in their order, the best agent first."""
  tasks = list(dict.fromkeys(e.task for e in entries))
  ordered = sorted(
    entries, key=lambda e: (tasks.index(e.task), -_score(e), e.agent)
  )
  rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, ordered)]
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _score(entry: Entry) -> float:
  return float(np.mean([returns.mean() for returns in entry.returns]))


def _row(entry: Entry) -> tuple[str, ...]:
  low, high = bootstrap_interval(entry.returns)
  return (
    entry.task,
    entry.agent,
    str(len(entry.returns)),
    rounded(float(np.mean(entry.steps))),
    f"{_score(entry):.3g} [{low:.3g}, {high:.3g}]",
    next((f"{y.score:g}, {y.name}" for y in yardsticks_of(entry.task)), "-"),
    ", ".join(entry.commits) or "-",
  )


def sources(entries: Sequence[Entry]) -> str:
  """All yardsticks of the entries' tasks with their sources, as a list."""
  items = [
    f"- {yardstick.task}: {yardstick.label} ({yardstick.source})."
    for task in dict.fromkeys(e.task for e in entries)
    for yardstick in yardsticks_of(task)
  ]
  wrap = functools.partial(
    textwrap.fill, width=_COLUMNS, subsequent_indent="  "
  )
  return "".join(f"{wrap(item)}\n" for item in items)


def _all_archives() -> tuple[pathlib.Path, ...]:
  tasks = sorted(_RESULTS.glob(f"*/{archive.FILE_NAME}"))
  studies = (_RESULTS / "studies" / s / archive.FILE_NAME for s in _STUDIES)
  return tuple(
    p.parent for p in (*tasks, *filter(pathlib.Path.exists, studies))
  )


def league(
  archives: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional] = (),
  /,
  out: pathlib.Path | None = None,
) -> None:
  """Makes the league table of archives of runs.

  The score is the mean over the seeds of the mean raw return of the last
  evaluation, with a 95 % interval; of memory-chain it is bsuite's score. The
  commit is that at which the runs were started, with a + where files were
  changed, and a dash for runs that did not record it.

  Args:
    archives: directories that hold an archive; none means those in
      docs/results, and of its studies memory_chain and popgym.
    out: a file for the table and the yardsticks' sources, written anew,
      besides the terminal.
  """
  paths = archives or _all_archives()
  if not paths:
    raise ConfigError(
      f"expected archives of runs in {_RESULTS}/*, found none: run it in a"
      " clone, or name directories that hold an archive"
    )
  entries = read_entries(paths)
  text = f"{table(entries)}\n{sources(entries)}"
  if out is not None:
    with writing("--out", out):
      out.write_text(text)
  print(text, end="")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    league, prog="python -m experiments.league", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
