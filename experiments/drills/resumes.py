"""Runs that go on with other settings, on other devices, with an older log."""

import csv
import pathlib
import shutil
from typing import Any

from experiments.drills.drill import (
  check,
  check_logs,
  in_directory,
  rows,
  small_run,
  train,
)
from r2d2_jax.config import Config
from r2d2_jax.system.storage.checkpoints import list_checkpoints, read_record
from r2d2_jax.system.storage.rundir import checkpoints_dir

_TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
_STEPS = 3_000
_MORE_STEPS = 4_000


def other_settings(directory: pathlib.Path) -> str:
  """Other lanes, ratio, devices, columns: it goes on, both sides move.

  Returns:
    The ratios that were measured, in a line.
  """
  config = small_run(
    directory / "run", {"run.total_steps": _STEPS}, backend="reverb"
  )
  check(train(config).returncode == 0, "a first run ends well")
  measured = {}
  cases: list[tuple[str, dict[str, Any], bool]] = [
    ("fewer-lanes", {"env.num_envs": 4}, False),
    ("more-lanes", {"env.num_envs": 40}, False),
    ("smaller-ratio", {"replay.replay_ratio": 0.25}, False),
    ("larger-ratio", {"replay.replay_ratio": 4.0}, False),
    ("two-devices", {}, True),
    ("columns", {}, False),
  ]
  for name, settings, has_two in cases:
    run_dir = directory / name
    shutil.copytree(directory / "run", run_dir)
    if name == "columns":
      _rename_a_column(run_dir / "log.csv", "loss", "of_an_earlier_version")
    changed = in_directory(config, run_dir).updated(settings)
    said, measured[name] = _go_on(changed, two_devices=has_two)
    check(
      all(setting in said for setting in settings),
      "changed settings named",
      said,
    )
    if has_two:
      check("learner: 2 of 2 devices" in said, "two devices", said)
      # And back.
      _go_on(changed)
    if name == "columns":
      check("new columns, NaN so far: loss" in said, "it says so", said)
      log = rows(run_dir / "log.csv")
      check(
        log[0]["loss"] == "nan"
        and log[-1]["loss"] != "nan"
        and log[-1]["of_an_earlier_version"] == "nan",
        "columns of both versions",
        (log[0], log[-1]),
      )
  both = small_run(
    directory / "both", {"run.total_steps": _STEPS, "replay.row_states": True}
  )
  done = train(both, environ=_TWO_DEVICES)
  check(done.returncode == 0, "states of all rows on two devices", done.stderr)
  return ", ".join(f"{name} {ratio:.2f}" for name, ratio in measured.items())


def _go_on(config: Config, *, two_devices: bool = False) -> tuple[str, float]:
  """Some thousand steps more; what was said, and trained rows per step."""
  run_dir = pathlib.Path(config.run.run_dir)
  before = list_checkpoints(checkpoints_dir(run_dir))[-1]
  more = config.updated({"run.total_steps": before.steps + _MORE_STEPS})
  done = train(more, environ=_TWO_DEVICES if two_devices else None)
  check(done.returncode == 0, f"{run_dir.name} goes on", done.stderr)
  check(
    f"resuming from {before.path}" in done.stdout, "from there", done.stdout
  )
  check("filled anew" not in done.stdout, "with its replay", done.stdout)
  after = list_checkpoints(checkpoints_dir(run_dir))[-1]
  old, new = (
    read_record(checkpoint)["ratio"] for checkpoint in (before, after)
  )
  # With another ratio the count begins anew at the resume.
  is_anew = new["start_steps"] != old["start_steps"]
  trained_rows = new["trained_rows"] - (0 if is_anew else old["trained_rows"])
  ratio = trained_rows / (after.steps - before.steps)
  asked = config.replay.replay_ratio
  check(
    0.7 * asked < ratio < 1.3 * asked,
    f"{asked} trained rows per step since the resume",
    ratio,
  )
  check_logs(run_dir)
  return done.stdout, ratio


def _rename_a_column(log: pathlib.Path, old: str, new: str) -> None:
  """As if another version had written it."""
  found = rows(log)
  with log.open("w", newline="") as f:
    writer = csv.writer(f, lineterminator="\n")
    writer.writerow([new if name == old else name for name in found[0]])
    writer.writerows(row.values() for row in found)
