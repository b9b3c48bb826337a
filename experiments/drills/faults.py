"""Parts that break while the run goes on: noticed, explained, resumed."""

import pathlib
import time

from experiments.drills.drill import check, small_run, train
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.rundir import checkpoints_dir


def not_a_number(directory: pathlib.Path) -> None:
  """A reward that is NaN: a diagnosis, and the last good checkpoint."""
  message = _fails(directory / "nan", sabotage="nan", at=150)
  check("mean |td error| of a batch is nan" in message, "what", message)
  check("not finite: rewards" in message, "a diagnosis", message)


def environment_that_raises(directory: pathlib.Path) -> None:
  """An error in the actors: named, its traceback kept."""
  message = _fails(directory / "environment", sabotage="environment", at=400)
  check("the emulator crashed" in message, "what", message)
  check("Traceback" not in message, "no traceback on the screen", message)
  text = (directory / "environment" / "crash.txt").read_text()
  check("Traceback" in text, "a traceback in crash.txt", text)


def dead_server(directory: pathlib.Path) -> None:
  """Reverb's server dies: its calls block, the run notices by itself."""
  start = time.monotonic()
  message = _fails(
    directory / "server", backend="reverb", sabotage="dead-server", at=300
  )
  check("dead or out of reach" in message, "what", message)
  # Compilation and imports included; the heartbeat alone takes 10 at most.
  check(time.monotonic() - start < 90, "noticed within seconds", message)


def _fails(
  run_dir: pathlib.Path, *, sabotage: str, at: int, backend: str = "local"
) -> str:
  """Runs into the fault, checks what is said, goes on; returns the message."""
  config = small_run(
    run_dir,
    {"run.total_steps": 10**9, "checkpoint.period_updates": 5},
    backend=backend,
  )
  result = train(config, sabotage=sabotage, at=at)
  check(result.returncode == 1, "exit code 1", result)
  saved = list_checkpoints(checkpoints_dir(run_dir))
  check(bool(saved), "a checkpoint", result.stdout)
  check(
    f"last good checkpoint: {saved[-1].path}" in result.stderr,
    "the last good checkpoint named",
    result.stderr,
  )
  steps = saved[-1].steps + 1_000
  again = train(config.updated({"run.total_steps": steps}))
  check(again.returncode == 0, "the same command goes on", again.stderr)
  check(f"resuming from {saved[-1].path}" in again.stdout, "from there")
  return result.stderr
