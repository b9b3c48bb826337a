"""Leg `end_to_end`: whole runs of `train`, read off their own logs.

The reference work (the paper's network, the small batch) at 160 agent steps per
update, and the presets `laptop` and `gpu`: their rates as a share of what the
run's parts allow, which are measured alone just before and just after, and the
share of its time that the learner waits for data. Counted from the first row of
the log with an update in it: the filling of the replay and the compilations are
left out.
"""

import collections
import csv
import importlib.util
import itertools
import pathlib
import tempfile
from typing import NamedTuple

import jax

from experiments.benchmark.legs import Settings
from experiments.benchmark.parts import (
  Alone,
  allowed_steps,
  measure_alone,
)
from experiments.benchmark.results import (
  Comparison,
  LegResult,
  Spread,
  Table,
  at_least,
  less_than,
  scaled,
  spread,
)
from experiments.benchmark.workload import reference_config
from r2d2_jax.config import Config
from r2d2_jax.presets import gpu, laptop
from r2d2_jax.system.train import train

_STEPS_PER_UPDATE = 160
_AIM = 0.85  # of what the parts allow
_SHARES = (
  "environment",
  "inference",
  "write",
  "wait_for_learner",
  "step",
  "write_back",
  "wait_for_data",
  "wait_for_actors",
)


class _Run(NamedTuple):
  """One run of `train`."""

  name: str
  config: Config


def measure(settings: Settings) -> LegResult:
  """Steps and updates per second, and who waits for whom."""
  skipped = []
  backend = "reverb"
  if importlib.util.find_spec("reverb") is None:
    backend = "local"
    skipped.append(
      "end_to_end: Reverb is missing, all runs use the local replay"
    )
  comparisons, rows, parts = [], [], []
  rounds, seconds = (1, 0.05) if settings.toy else (2, 1.0)
  for run in _toy_runs() if settings.toy else _full_runs():
    alone = [measure_alone(run.config, rounds=rounds, seconds=seconds)]
    log = logged(run.config.updated({"replay.backend": backend}))
    alone.append(measure_alone(run.config, rounds=rounds, seconds=seconds))
    windows = windows_of(log)
    if not windows:
      skipped.append(f"end_to_end, {run.name}: no update in the time it had")
      continue
    alone = Alone(*(a + b for a, b in zip(*alone, strict=True)))
    new, row, part = _read(run, windows, alone)
    comparisons += new
    rows.append(row)
    parts.append(part)
  return LegResult(
    comparisons,
    [
      Table(
        f"Whole runs, backend {backend}",
        (
          "run",
          "lanes",
          "agent steps/s",
          "updates/s",
          "steps per update",
          "replay ratio",
          *(name.replace("_", " ") for name in _SHARES),
          "bound by",
        ),
        rows,
        "Rates: of the whole time after the first update, with the quartiles"
        " of the log's windows. Shares: of the wall-clock time, the actors'"
        " thread first, then the learner's. Bound by: what the log names most"
        " often.",
      ),
      Table(
        "Whole runs: what their parts do alone on the same cores",
        (
          "run",
          "lanes",
          "learner, updates/s",
          "world, agent steps/s",
          "inference, agent steps/s",
          "together, agent steps/s",
          "the run, agent steps/s",
        ),
        parts,
        "Each part before and after its run. Together: see"
        " docs/performance.md.",
      ),
    ],
    skipped,
  )


def _full_runs() -> list[_Run]:
  run = {
    "run.max_minutes": 0.7,
    "log.period_seconds": 4.0,
    "checkpoint.period_minutes": 60.0,
    "evaluation.num_episodes": 0,
  }
  reference = reference_config("small").updated(
    {"replay.min_sequences": 256, **run, "run.actor_refresh_steps": 25}
  )
  return [
    *(_reference_run(reference, lanes) for lanes in (16, 64)),
    _Run("preset laptop", laptop().updated(run)),
    # Its network is not for CPUs: a smaller replay is full in a minute, and a
    # few updates are enough to see who waits.
    _Run(
      "preset gpu, replay of 128 items at first",
      gpu().updated(
        {
          "env.full_action_space": False,
          "replay.min_sequences": 128,
          **run,
          "run.max_minutes": 2.5,
          "run.total_steps": 24_000,
        }
      ),
    ),
  ]


def _toy_runs() -> list[_Run]:
  config = reference_config("toy").updated(
    {
      "replay.min_sequences": 8,
      "run.total_steps": 2_000,
      "log.period_seconds": 0.1,
      "checkpoint.period_minutes": 60.0,
      "evaluation.num_episodes": 0,
      "run.max_minutes": 1.0,
    }
  )
  return [_reference_run(config, lanes=4)]


def _reference_run(config: Config, lanes: int) -> _Run:
  agent = config.agent
  # Trained rows are transitions: one fewer than rows.
  rows = agent.batch_size * (agent.trace_length - 1)
  return _Run(
    "reference network",
    config.updated(
      {"env.num_envs": lanes, "replay.replay_ratio": rows / _STEPS_PER_UPDATE}
    ),
  )


def logged(config: Config) -> list[dict[str, str]]:
  """A run in a directory that is gone afterwards; the rows of its log."""
  with tempfile.TemporaryDirectory() as directory:
    run_dir = pathlib.Path(directory) / "run"
    train(config, run_dir=run_dir)
    with (run_dir / "log.csv").open(newline="") as f:
      return list(csv.DictReader(f))


class Window(NamedTuple):
  """What happened between two rows of the log."""

  seconds: float
  steps: float
  updates: float
  row: dict[str, str]  # the later one: its shares are the window's


def windows_of(log: list[dict[str, str]]) -> list[Window]:
  """The windows after the first row with an update."""
  log = [row for row in log if int(row["updates"]) > 0]
  windows = []
  for before, after in itertools.pairwise(log):
    change = lambda name, a=after, b=before: float(a[name]) - float(b[name])
    window = Window(
      60 * change("minutes"), change("steps"), change("updates"), after
    )
    if window.seconds > 0:
      windows.append(window)
  return windows


def _read(
  run: _Run, windows: list[Window], alone: Alone
) -> tuple[list[Comparison], tuple, tuple]:
  """A run's comparisons, its row of the table, and that of its parts."""
  seconds = sum(w.seconds for w in windows)
  steps = rate_of([w.steps for w in windows], windows)
  updates = rate_of([w.updates for w in windows], windows)
  shares = {
    name: sum(w.seconds * float(w.row[f"share_{name}"]) for w in windows)
    / seconds
    for name in _SHARES
  }
  total_updates = sum(w.updates for w in windows)
  per_update = sum(w.steps for w in windows) / max(total_updates, 1)
  allowed = spread(
    [
      allowed_steps(
        *rates,
        steps_per_update=per_update,
        on_host=jax.default_backend() == "cpu",
      )
      for rates in zip(*alone, strict=True)
    ]
  )
  lanes = run.config.env.num_envs
  name = f"end_to_end, {run.name}, {lanes} lanes"
  waiting = spread([float(w.row["share_wait_for_data"]) for w in windows])
  comparisons = [
    at_least(
      f"{name}: agent steps/s, share of what the parts allow",
      scaled(steps, 1 / allowed.median),
      _AIM,
    ),
    less_than(
      f"{name}: share of its time that the learner waits for data",
      waiting._replace(median=shares["wait_for_data"]),
      0.05,
    ),
  ]
  bottlenecks = collections.Counter(w.row["bottleneck"] for w in windows)
  return (
    comparisons,
    (
      run.name,
      lanes,
      steps,
      updates,
      per_update if total_updates else "-",
      float(windows[-1].row["replay_ratio"]),
      *shares.values(),
      bottlenecks.most_common(1)[0][0],
    ),
    (run.name, lanes, *map(spread, alone), allowed, steps),
  )


def rate_of(counts: list[float], windows: list[Window]) -> Spread:
  """The rate over all windows, with the quartiles of single ones."""
  each = spread([n / w.seconds for n, w in zip(counts, windows, strict=True)])
  return each._replace(median=sum(counts) / sum(w.seconds for w in windows))
