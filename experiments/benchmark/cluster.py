"""Leg `cluster`: whole runs in one process and in several, on the same cores.

The same settings, in turns. A run's rate is that of its second half, in which
everything is compiled and the replay is filled. Bytes are those of the
loopback, which Reverb and Ray use here; what else uses it meanwhile counts as
well.
"""

import pathlib
import tempfile
import time

from experiments.benchmark.children import in_child
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import (
  LegResult,
  Table,
  at_least,
  ratio,
  spread,
)
from r2d2_jax.cluster.run import train_on_cluster
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import Config
from r2d2_jax.presets import laptop, smoke
from r2d2_jax.system.train import train

_ROUNDS = 3
_MINUTES = 2.0
_AIM = 0.85  # of one process's steps per second
_SHAPES = {
  "1 actor host": ClusterConfig(actors=1, evaluators=0),
  "2 actor hosts": ClusterConfig(actors=2, evaluators=0),
}


def measure(settings: Settings) -> LegResult:
  """Steps per second beside those of one process, the ratio, bytes per step."""
  toy = settings.toy
  base = smoke() if toy else laptop()
  config = base.updated(
    {
      "replay.backend": "reverb",
      "replay.min_sequences": 64,
      "run.total_steps": 4_000 if toy else 10**9,
      "run.max_minutes": 0.0 if toy else _MINUTES,
      "evaluation.num_episodes": 0,
      "checkpoint.save_replay": False,
      "log.period_seconds": 0.5 if toy else 2.0,
      "log.tensorboard": False,
    }
  )
  shapes = dict(list(_SHAPES.items())[:1]) if toy else _SHAPES
  runs: dict[str, list[tuple[float, float, float]]] = {"one process": []}
  runs |= {name: [] for name in shapes}
  for _ in range(1 if toy else _ROUNDS):
    runs["one process"].append(in_child(_run, config, None))
    for name, cluster in shapes.items():
      runs[name].append(in_child(_run, config, cluster))
  rates = {name: [r[0] for r in several] for name, several in runs.items()}
  return LegResult(
    [
      at_least(
        f"steps/s, {name} / one process",
        ratio(rates[name], rates["one process"]),
        _AIM,
      )
      for name in shapes
    ],
    [
      Table(
        f"Runs in several processes: {config.env.task}",
        ("processes", "agent steps/s", "replay ratio", "loopback bytes/step"),
        [
          (
            name,
            spread(rates[name]),
            spread([r[1] for r in several]),
            spread([r[2] for r in several]),
          )
          for name, several in runs.items()
        ],
        f"Asked for: a ratio of {config.replay.replay_ratio:g}.",
      )
    ],
    [],
  )


def _run(
  config: Config, cluster: ClusterConfig | None
) -> tuple[float, float, float]:
  """Steps per second in the second half, the ratio, loopback bytes per step."""
  rows: list[tuple[float, float, float]] = []

  def note(row: dict) -> None:
    if row["updates"]:
      rows.append((time.monotonic(), row["steps"], _loopback_bytes()))

  with tempfile.TemporaryDirectory() as directory:
    run_dir = pathlib.Path(directory) / "run"
    if cluster is None:
      result = train(config, run_dir=run_dir, on_row=note)
    else:
      result = train_on_cluster(config, cluster, run_dir=run_dir, on_row=note)
  # The last row is written when all is saved: its time says nothing.
  rows = rows[:-1] if len(rows) > 2 else rows
  first, last = rows[len(rows) // 2 - 1 if len(rows) > 1 else 0], rows[-1]
  seconds = max(last[0] - first[0], 1e-9)
  steps = last[1] - first[1]
  return (
    steps / seconds,
    result.replay_ratio,
    (last[2] - first[2]) / max(steps, 1),
  )


def _loopback_bytes() -> float:
  for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
    name, _, counts = line.partition(":")
    if name.strip() == "lo":
      return float(counts.split()[0])
  return float("nan")
