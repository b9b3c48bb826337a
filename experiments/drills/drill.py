"""What the drills have in common: training processes, and checks that can fail."""

from collections.abc import Mapping
import csv
import json
import pathlib
import signal
import subprocess
import sys
from typing import Any

from r2d2_jax.presets import smoke
from r2d2_jax.config import Config, to_dict

KILLED = -signal.SIGKILL
# Columns that tell of the wall clock: never the same twice.
_CLOCK = ("minutes", "per_second", "share_", "bottleneck")


class DrillFailed(Exception):
  """The program did not do what it promises."""


def check(ok: bool, promise: str, found: object = "") -> None:
  """Raises DrillFailed where a promise is broken."""
  if not ok:
    raise DrillFailed(f"expected: {promise}; found: {found}")


def small_run(
    run_dir: pathlib.Path,
    settings: Mapping[str, Any] | None = None,
    *,
    backend: str = "local",
) -> Config:
  """The smoke preset in a directory, with some settings changed."""
  return smoke().updated({
      "replay.backend": backend,
      "run.run_dir": str(run_dir),
      "log.period_seconds": 0.5,
      "log.tensorboard": False,
      "evaluation.num_episodes": 2,
      **(settings or {}),
  })


def command(config: Config, **options) -> list[str]:
  """The command line of `experiments.drills.child`; its options by name."""
  settings = json.dumps(to_dict(config))
  flags = [f"--{name}={value}" for name, value in options.items()]
  return [sys.executable, "-m", "experiments.drills.child", settings, *flags]


def train(
    config: Config, *, timeout_seconds: float = 300.0, **options
) -> subprocess.CompletedProcess[str]:
  """Runs it to its end, however it ends."""
  return subprocess.run(
      command(config, **options),
      capture_output=True, text=True, check=False, timeout=timeout_seconds,
  )  # fmt: skip


def rows(path: pathlib.Path, *, clock: bool = True) -> list[dict[str, str]]:
  """A log's rows; without the columns of the wall clock if asked."""
  with path.open(newline="") as f:
    return [
        {
            name: value
            for name, value in row.items()
            if clock or not any(c in name for c in _CLOCK)
        }
        for row in csv.DictReader(f)
    ]
