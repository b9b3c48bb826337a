"""kill -9, and what is left."""

from collections.abc import Sequence
import dataclasses
import pathlib
import random
import time
from typing import Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.drills.drill import (
  DEADLINE_SECONDS,
  KILLED,
  check,
  check_logs,
  each_of,
  exit_code,
  forked,
  rows,
  small_run,
  train,
  wait_until,
)
from r2d2_jax.config import Config
from r2d2_jax.system.storage.checkpoints import list_checkpoints, read_record
from r2d2_jax.system.storage.rundir import checkpoints_dir


def lockstep_run(run_dir: pathlib.Path, task: str) -> Config:
  """A run in lock-step that logs, saves and evaluates at fixed counts."""
  config = small_run(
    run_dir,
    {
      "run.lockstep": True,
      "run.total_steps": 6_000,
      "log.period_updates": 3,
      "checkpoint.period_updates": 7,
      "evaluation.period_steps": 2_000,
      "run.actor_refresh_steps": 13,
    },
  )
  network = config.network
  if task != "recall":
    network = dataclasses.replace(network, torso_channels=(16,))
  return dataclasses.replace(
    config,
    env=dataclasses.replace(config.env, task=task, flicker_probability=0.1),
    network=network,
  )


def kill_in_lockstep(
  directory: pathlib.Path,
  *,
  task: str = "recall",
  sabotage: Literal["kill-update", "kill-save"] = "kill-update",
  at: int = 17,
) -> None:
  """N updates, kill -9, resume: equals a run that nobody disturbed."""
  straight = lockstep_run(directory / f"straight-{task}", task)
  if not pathlib.Path(straight.run.run_dir).exists():
    done = train(straight, keys=directory / f"straight-{task}.keys")
    check(done.returncode == 0, "the undisturbed run ends well", done.stderr)
  name = f"{task}-{sabotage}-{at}"
  config = lockstep_run(directory / name, task)
  run_dir, keys = directory / name, directory / f"{name}.keys"
  killed = train(config, sabotage=sabotage, at=at, keys=keys)
  check(killed.returncode == KILLED, "a process killed by itself", killed)
  saved = list_checkpoints(checkpoints_dir(run_dir))
  check(bool(saved), "a checkpoint before the kill", killed.stdout)
  # A line for each update: those after the checkpoint will be done again.
  lines = keys.read_text().splitlines(keepends=True)
  check(len(lines) > saved[-1].num_updates, "work after the save", len(lines))
  keys.write_text("".join(lines[: saved[-1].num_updates]))
  resumed = train(config, keys=keys)
  check(resumed.returncode == 0, "the resumed run ends well", resumed.stderr)
  check(
    f"resuming from {saved[-1].path}" in resumed.stdout
    and "exactly" in resumed.stdout,
    "it says where from",
    resumed.stdout,
  )

  expected = pathlib.Path(straight.run.run_dir)
  check(
    keys.read_text() == (directory / f"straight-{task}.keys").read_text(),
    "the same sampled keys",
  )
  for log in ("log.csv", "evaluation.csv"):
    mine, other = (rows(d / log, clock=False) for d in (run_dir, expected))
    check(len(mine) > 5 and mine == other, f"the same rows in {log}", mine[-1])
  jax.tree.map(
    np.testing.assert_array_equal, _learner(run_dir), _learner(expected)
  )


def _learner(run_dir: pathlib.Path):
  """The arrays of the newest checkpoint."""
  path = list_checkpoints(checkpoints_dir(run_dir))[-1].path / "learner"
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
    return checkpointer.restore(path)


def kill_threads(
  directory: pathlib.Path,
  *,
  backend: Literal["reverb", "local"] = "reverb",
  tries: int = 5,
  at_a_time: int = 2,
  seed: int = 0,
) -> str:
  """kill -9 at random moments: no more is lost than since the last save.

  A third of them in the middle of a save, a third at any moment of a start, the
  others some time after a save. The logs tell of one life all along.

  Args:
    directory: where to.
    backend: of the replay.
    tries: kills, of all runs together.
    at_a_time: runs beside each other, each killed again and again.
    seed: of the moments.

  Returns:
    What was counted, in a line.
  """
  num_runs = min(at_a_time, tries)

  def kill_one(number: int) -> int:
    return _kill_again_and_again(
      directory / f"threads-{backend}-{number}",
      backend,
      range(number, tries, num_runs),
      random.Random(f"{seed} {number}"),
    )

  num_rows = each_of(kill_one, range(num_runs), num_runs)
  return f"{tries} kills of {num_runs} runs, {sum(num_rows)} rows in order"


def _kill_again_and_again(
  run_dir: pathlib.Path,
  backend: str,
  kills: Sequence[int],
  moments: random.Random,
) -> int:
  """Kills one run at each number of `kills`; the rows of its log at the end."""
  config = small_run(
    run_dir,
    {
      "run.total_steps": 10**9,
      "checkpoint.period_minutes": 0.02,
      "evaluation.period_steps": 2_000,
    },
    backend=backend,
  )
  before, start_seconds = -1, 10.0
  for count, kill in enumerate(kills):
    # The first one has nothing to go on from.
    kind = ("later", "save", "start")[kill % 3 if count else 0]
    options = {"sabotage": "kill-save", "at": 2} if kind == "save" else {}
    log = run_dir.with_name(f"{run_dir.name}-{count}.txt")
    begin = time.monotonic()
    with forked(config, log, **options) as process:
      if kind == "start":
        process.join(moments.uniform(0.0, 1.2 * start_seconds))
      else:
        _wait_for_save(run_dir, before, process, log)
        start_seconds = time.monotonic() - begin
        process.join(DEADLINE_SECONDS if options else moments.uniform(0.0, 3.0))
      process.kill()
      process.join()
      check(process.exitcode == KILLED, "no other end", log.read_text()[-2000:])
    saved = list_checkpoints(checkpoints_dir(run_dir))
    check(saved[-1].steps >= before, "no checkpoint is lost", saved)
    if kind != "start":
      check(saved[-1].steps > before, "it went on from the save", saved)
    before = saved[-1].steps
    for checkpoint in saved:
      read_record(checkpoint)
    check_logs(run_dir)
  config = config.updated({"run.total_steps": before + 2_000})
  done = train(config)
  check(done.returncode == 0, "the last start ends well", done.stderr)
  check(f"step {before}" in done.stdout, "it says where from", done.stdout)
  check("filled anew" not in done.stdout, "its replay is there", done.stdout)
  return check_logs(run_dir)


def _wait_for_save(run_dir, before, process, log) -> None:
  """Until there is a newer checkpoint than that at step `before`."""

  def is_saved() -> bool:
    saved = list_checkpoints(checkpoints_dir(run_dir))
    return bool(saved) and saved[-1].steps > before

  def is_saved_or_killed() -> bool:
    return is_saved() or exit_code(process) == KILLED

  wait_until(is_saved_or_killed, "a save in time", process, log)
