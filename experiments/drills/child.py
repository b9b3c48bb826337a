"""A training process in which something goes wrong at a chosen moment.

python -m experiments.drills.child SETTINGS --sabotage kill-update --at 17
"""

from collections.abc import Callable
import json
import os
import pathlib
import signal
import sys
import traceback
from typing import Annotated, Any, Literal

import tyro

from r2d2_jax.cli.train import launch
from r2d2_jax.config import from_dict

Sabotage = Literal[
  "none", "kill-update", "kill-save", "nan", "dead-server", "environment"
]


# Printed behind each of several trainings, with the exit code before it.
END = "\n--- end of a drill's training ---\n"


def _before(cls: type, name: str, hook: Callable[..., None]) -> None:
  """Calls `hook(self, *arguments)` before a method."""
  method = getattr(cls, name)

  def wrapper(self, *args, **kwargs):
    hook(self, *args)
    return method(self, *args, **kwargs)

  setattr(cls, name, wrapper)


def _at_call(number: int, action: Callable[..., None]) -> Callable[..., None]:
  """Acts at the number-th call, counted from 1."""
  calls = [0]

  def hook(*args) -> None:
    calls[0] += 1
    if calls[0] == number:
      action(*args)

  return hook


def _kill(*args) -> None:
  del args
  os.kill(os.getpid(), signal.SIGKILL)


def _poison(learner: Any, batch: Any) -> None:
  """A reward that is not a number."""
  del learner
  sequence = batch.on_device.sequence
  r_t = sequence.inputs.r_t.at[0].set(float("nan"))
  inputs = sequence.inputs._replace(r_t=r_t)
  sequence = sequence._replace(inputs=inputs)
  batch.on_device = batch.on_device._replace(sequence=sequence)


def _stop_server(learner: Any, batch: Any) -> None:
  del batch
  learner._replay._server.stop()


def _fail(*args) -> None:
  del args
  raise RuntimeError("the emulator crashed (a drill)")


def _prepare(sabotage: Sabotage, at: int, keys: pathlib.Path | None) -> None:
  if sabotage == "none" and keys is None:
    return  # importing is the run's own affair, with an ear for signals
  from r2d2_jax.replay.local import LocalReplay
  from r2d2_jax.system.loops.actor import ActorLoop
  from r2d2_jax.system.loops.learner import LearnerLoop
  from r2d2_jax.system.storage import checkpoints

  learner_actions = {
    "kill-update": _kill,
    "nan": _poison,
    "dead-server": _stop_server,
  }
  if sabotage in learner_actions:
    _before(LearnerLoop, "step", _at_call(at, learner_actions[sabotage]))
  elif sabotage == "environment":
    _before(ActorLoop, "step", _at_call(at, _fail))
  elif sabotage == "kill-save":
    # The files are there, the checkpoint is not yet one.
    flush = checkpoints.flush_to_disk
    die = _at_call(at, _kill)

    def die_or_flush(path: pathlib.Path) -> None:
      # Not the best one's, which has no replay.
      if path.name.endswith(checkpoints.PARTIAL) and path.parent.name != "best":
        die()
      flush(path)

    checkpoints.flush_to_disk = die_or_flush
  if keys is not None:
    sample = LocalReplay.sample

    def sample_and_tell(self, batch_size, timeout_seconds, **more):
      batch = sample(self, batch_size, timeout_seconds, **more)
      if timeout_seconds:  # not the probe's
        with keys.open("a") as f:
          print(*batch.keys, file=f)
      return batch

    LocalReplay.sample = sample_and_tell


def main(
  settings: Annotated[tuple[str, ...], tyro.conf.Positional],
  sabotage: Sabotage = "none",
  at: int = 1,
  keys: pathlib.Path | None = None,
  each: bool = False,
) -> int:
  """Trains; returns the exit code of `experiments.train`.

  Args:
    settings: JSON as in a run's config.json, with run.run_dir.
    sabotage: what goes wrong: before an update, in a save, in an actor's step.
    at: at which update (of this process), save or step.
    keys: file to which the keys of each batch sampled from a local replay are
      appended, a line each.
    each: train several, one after the other, and tell how each one ended.
  """
  _prepare(sabotage, at, keys)
  if not each:
    (only,) = settings
    return launch(from_dict(json.loads(only)))
  for text in settings:
    try:
      code = launch(from_dict(json.loads(text)))
    except Exception:
      traceback.print_exc()
      code = 1
    print(f"\n{code}", end=END, flush=True)
    print(end=END, file=sys.stderr, flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(tyro.cli(main))
