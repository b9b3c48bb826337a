"""In what the settings of several runs differ, and which of them are alike."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

from r2d2_jax.config import Config, to_dict

# These say where a run writes, what it shows, what it saves and how often it is
# tested; not what it learns, from how much or for how long. A setting that is
# not named here counts.
_BESIDE_THE_TRAINING = frozenset(
  {
    "env.num_threads",
    "replay.port",
    "run.seed",
    "run.compile_cache_gib",
    "run.learner_devices",
    "run.run_dir",
    "log.period_seconds",
    "log.period_updates",
    "log.tensorboard",
    "log.wandb_project",
    "checkpoint.period_minutes",
    "checkpoint.period_updates",
    "checkpoint.save_replay",
    "checkpoint.max_to_keep",
    "limits.max_td_error",
    "limits.memory_gib",
    "evaluation.period_steps",
    "evaluation.num_episodes",
    "evaluation.num_lanes",
  }
)


def find_runs(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """The runs that are meant by directories of runs, or by parents of such.

  Args:
    paths: where one holds no run, those below it are meant.

  Returns:
    Each run once, in the order given, those of a parent by name. A directory
    without any stays as it is, for the error that reading it gives.
  """
  found: dict[pathlib.Path, pathlib.Path] = {}
  for path in paths:
    for run in _runs_below(path) or [path]:
      found.setdefault(run.resolve(), run)
  return list(found.values())


def _runs_below(path: pathlib.Path) -> list[pathlib.Path]:
  if (path / "config.json").exists():
    return [path]
  if not path.is_dir():
    return []
  runs = []
  for child in sorted(path.iterdir()):
    # Links to runs are as good as runs; other links may lead anywhere.
    if not child.is_symlink() or (child / "config.json").exists():
      runs += _runs_below(child)
  return runs


# Sections that say how a run goes on and what it shows, not what it learns.
_OF_THE_RUN = ("run", "log", "checkpoint", "evaluation", "limits")


def settings_of(config: Config) -> dict[str, Any]:
  """'section.name' -> value, without what is of the run: seeds, directories."""
  return {
    name: value
    for name, value in _flat(config).items()
    if name.partition(".")[0] not in _OF_THE_RUN
  }


def training_settings(config: Config) -> dict[str, Any]:
  """'section.name' -> value of all that decides what is trained, but the seed.

  Of the run that is how long (`run.total_steps`, `run.max_minutes`) and in
  which way (`run.lockstep`, `run.actor_refresh_steps`), and
  `evaluation.epsilon`, without which returns of evaluations cannot be compared.
  """
  flat = _flat(config)
  return {n: v for n, v in flat.items() if n not in _BESIDE_THE_TRAINING}


def _flat(config: Config) -> dict[str, Any]:
  return {
    f"{section}.{name}": value
    for section, fields in to_dict(config).items()
    for name, value in fields.items()
  }


def differing_settings(settings: Sequence[dict[str, Any]]) -> list[str]:
  """The names whose values are not the same in all of them."""
  first, *rest = settings
  return [n for n in first if any(other[n] != first[n] for other in rest)]


def same_runs(
  configs: Mapping[pathlib.Path, Config],
) -> list[list[pathlib.Path]]:
  """Runs with the same seed and `training_settings`, together; in their order.

  They are copies of one run, or a repetition of it: one seed, not several.
  """
  same: dict[tuple, list[pathlib.Path]] = {}
  for run, config in configs.items():
    key = (config.run.seed, *training_settings(config).values())
    same.setdefault(key, []).append(run)
  return list(same.values())


def group_runs(
  configs: Mapping[pathlib.Path, Config],
  names: Mapping[pathlib.Path, str] | None = None,
) -> dict[str, dict[str, list[pathlib.Path]]]:
  """Task -> label -> runs that differ in no `training_settings`: its seeds.

  The label names what differs within the task; where that are more than three
  settings, it is the directory of the first of these runs.

  Args:
    configs: directory of a run -> its settings.
    names: directory -> what its group is called; heeded within a task where
      they tell its groups apart.
  """
  names = names or {}
  tasks: dict[str, dict[pathlib.Path, dict[str, Any]]] = {}
  for run, config in configs.items():
    tasks.setdefault(config.env.task, {})[run] = training_settings(config)
  groups = {}
  for task, settings in tasks.items():
    differing = differing_settings(list(settings.values()))
    alike: dict[tuple, list[pathlib.Path]] = {}
    for run, values in settings.items():
      alike.setdefault(tuple(values[n] for n in differing), []).append(run)
    named = {
      name: runs for runs in alike.values() if (name := _shared(names, runs))
    }
    groups[task] = (
      named
      if len(named) == len(alike)
      else {_label(differing, v, runs[0]): runs for v, runs in alike.items()}
    )
  return groups


def _shared(names: Mapping[pathlib.Path, str], runs: list[pathlib.Path]) -> str:
  """The name that all runs have; empty if there is none."""
  found = {names.get(run, "") for run in runs}
  return found.pop() if len(found) == 1 else ""


def _label(names: list[str], values: tuple, run: pathlib.Path) -> str:
  if len(names) > 3:
    return str(run)
  return ", ".join(
    f"{n.split('.')[1]} {v}" for n, v in zip(names, values, strict=True)
  )
