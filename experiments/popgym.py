"""Study 9: three of POPGym's memory tasks, with and without memory.

    python -m experiments.popgym
    python -m experiments.popgym --tasks RepeatPreviousEasy --seeds 1

Morad et al., "POPGym: Benchmarking Partially Observable Reinforcement
Learning", ICLR 2023. It needs `pip install popgym`. What to expect is in
docs/studies.md.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.studies.bases import FRUGAL, REPEATABLE, Size
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study, changed
from r2d2_jax.cli.command import run_command
from r2d2_jax.config import Config
from r2d2_jax.presets import control

_PREFIX, _SUFFIX = "gymnasium:popgym:popgym-", "-v0"
_TASKS = ("RepeatPreviousEasy", "CountRecallEasy", "AutoencodeEasy")
# An item holds an episode of the first two tasks, of 52 steps, and half of one
# of the third.
_BASE = REPEATABLE | FRUGAL | {
    "env.num_envs": 16,
    "network.torso": "mlp", "network.torso_channels": (128,),
    "network.core_units": 128, "network.head_units": 128,
    "network.core_memory_rows": 52,
    "agent.burn_in": 0, "agent.trace_length": 54, "agent.overlap": 27,
    "agent.learning_rate": 5e-4,
    "replay.replay_ratio": 4.0,
    "run.total_steps": 1_500_000, "run.actor_refresh_steps": 10,
    # It saves itself at its end alone: one that was stopped begins anew, which
    # is the same run.
    "log.period_updates": 50, "checkpoint.period_updates": 1_000_000,
    "checkpoint.save_replay": False,
    "evaluation.num_episodes": 200, "evaluation.num_lanes": 50,
}  # fmt: skip
ARMS = (
  Arm("r2d2"),
  Arm(
    "feedforward",
    {"network.core": "feedforward", "network.core_memory_rows": 0},
  ),
)


def _base(task: str, size: Size) -> Config:
  """The same in both sizes: the paper's runs have ten times the steps."""
  steps = {} if size == "small" else {"run.total_steps": 15_000_000}
  return changed(control(), _BASE | steps | {"env.task": task})


def _full_name(task: str) -> str:
  """POPGym's own short name, as `env.task` wants it."""
  return task if ":" in task else f"{_PREFIX}{task}{_SUFFIX}"


def _short_name(task: str) -> str:
  return task.removeprefix(_PREFIX).removesuffix(_SUFFIX)


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="popgym",
    base=lambda task: _base(task, size),
    tasks=tuple(map(_full_name, _TASKS)),
    arms=ARMS,
    seeds=lambda task: 3,
    columns=("eval_mean", "return_area"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Learning curves, a panel for each task.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  names = [arm.name for arm in ARMS]
  plots.draw_tasks(records, names, path, name=_short_name)


def popgym(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """POPGym's RepeatPreviousEasy, CountRecallEasy and AutoencodeEasy.

  R2D2 with and without memory. --tasks takes POPGym's short names, and those of
  any Gymnasium task. Tables, plot and runs are in --out; a study that was
  interrupted goes on with the same command.
  """
  tasks = tuple(map(_full_name, options.tasks))
  return run_study(
    study(options.size), dataclasses.replace(options, tasks=tasks), plot
  )


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    popgym, prog="python -m experiments.popgym", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
