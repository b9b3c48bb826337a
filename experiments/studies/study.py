"""A study, declared: tasks, and arms that say in what they differ from them.

Nothing here imports jax: a command line can read it in milliseconds.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from r2d2_jax.config import Config, ConfigError


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way of doing it: what differs from the task's configuration."""

  name: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """'section.name' -> value, or a function of the task's configuration that
  gives the value; all else is the task's."""
  suits: Callable[[Config], bool] = lambda config: True
  """Whether the arm makes sense for a task (lives, whole episodes)."""


@dataclasses.dataclass(frozen=True)
class Study:
  """Every arm on every task with several seeds."""

  name: str
  base: Callable[[str], Config]
  """Name of a task -> the configuration that the arms change."""
  tasks: tuple[str, ...]
  """Played where the command line names none; `base` may know more."""
  arms: tuple[Arm, ...]
  seeds: Callable[[str], int]
  """Name of a task -> runs of each arm, where the command line has none."""
  columns: tuple[str, ...]
  """Of the results (`results.COLUMNS`), those shown on the terminal."""


class Run(NamedTuple):
  """One training of a study."""

  task: str
  arm: str
  seed: int
  config: Config  # with its seed and directory

  @property
  def directory(self) -> pathlib.Path:
    """Where it trains."""
    return pathlib.Path(self.config.run.run_dir)

  @property
  def out(self) -> pathlib.Path:
    """Directory of the study."""
    return self.directory.parents[2]

  @property
  def output(self) -> pathlib.Path:
    """What it prints; beside the directory, which must be empty at first."""
    return self.directory.with_name(f"output-seed{self.seed}.txt")

  @property
  def title(self) -> str:
    """For people."""
    return f"{self.task} {self.arm} seed {self.seed}"


def arm_of(directory: pathlib.Path, config: Config) -> str:
  """The arm, if the directory looks like that of a study's run; else empty."""
  seed, arm, task, *_ = *reversed(directory.parts), "", "", ""
  return (
    arm if (task, seed) == (config.env.task, f"seed{config.run.seed}") else ""
  )


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
  """A copy with other settings, as `Arm.settings` writes them."""
  return config.updated(
    {
      name: value(config) if callable(value) else value
      for name, value in settings.items()
    }
  )


def make_runs(
  study: Study,
  *,
  out: pathlib.Path,
  seeds: int = 0,
  tasks: tuple[str, ...] = (),
  arms: tuple[str, ...] = (),
  total_steps: int = 0,
  max_minutes: float = 0.0,
) -> list[Run]:
  """All runs in the order in which they are made: all arms' first seed first.

  Args:
    study: what is asked.
    out: directory of the study; a run's is OUT/TASK/ARM/seedK.
    seeds: how many of each arm; 0 leaves the study's.
    tasks: names; none means the study's.
    arms: names; none means all of them.
    total_steps: agent steps of the task's configuration; 0 leaves the study's.
    max_minutes: wall-clock limit of each run; 0 leaves the study's.

  Raises:
    ConfigError: there is no such arm, or none of the arms suits a task.
  """
  known = [arm.name for arm in study.arms]
  if unknown := [name for name in arms if name not in known]:
    raise ConfigError(
      f"--arms: expected some of {', '.join(known)}, got {', '.join(unknown)}"
    )
  runs = []
  tasks = tuple(dict.fromkeys(tasks or study.tasks))
  seeds_of = {task: seeds or study.seeds(task) for task in tasks}
  for seed in range(max(seeds_of.values())):
    for task in tasks:
      if seed >= seeds_of[task]:
        continue
      base = study.base(task)
      base = changed(
        base,
        {
          # Before the arms, some of which ask for a multiple.
          "run.total_steps": total_steps or base.run.total_steps,
          "run.max_minutes": max_minutes or base.run.max_minutes,
        },
      )
      suitable = [
        arm
        for arm in study.arms
        if arm.suits(base) and (not arms or arm.name in arms)
      ]
      if not suitable:
        raise ConfigError(
          f"--arms: expected some that suit {task}, got {', '.join(arms)}"
        )
      for arm in suitable:
        config = changed(base, arm.settings)
        runs.append(
          Run(
            task,
            arm.name,
            seed,
            changed(
              config,
              {
                "run.seed": seed,
                "run.run_dir": str(out / task / arm.name / f"seed{seed}"),
              },
            ),
          )
        )
  return runs
