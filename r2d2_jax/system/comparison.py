"""In what the settings of several runs differ, and which of them are alike."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from r2d2_jax.config import Config, to_dict


# Sections that say how a run goes on and what it shows, not what it learns.
_OF_THE_RUN = ("run", "log", "checkpoint", "evaluation", "limits")


def settings_of(config: Config) -> dict[str, Any]:
  """'section.name' -> value, without what is of the run: seeds, directories."""
  return {
      f"{section}.{name}": value
      for section, fields in to_dict(config).items()
      if section not in _OF_THE_RUN
      for name, value in fields.items()
  }


def differing_settings(settings: Sequence[dict[str, Any]]) -> list[str]:
  """The names whose values are not the same in all of them."""
  first, *rest = settings
  return [n for n in first if any(other[n] != first[n] for other in rest)]


def group_runs(
    configs: Mapping[pathlib.Path, Config],
    names: Mapping[pathlib.Path, str] | None = None,
) -> dict[str, dict[str, list[pathlib.Path]]]:
  """Task -> label -> runs that differ in nothing but section `run`.

  The label names what differs within the task; where that are more than three
  settings, it is the directory of the first of these runs.

  Args:
    configs: directory of a run -> its settings.
    names: directory -> what its group is called; heeded within a task where they
      tell its groups apart.
  """
  names = names or {}
  tasks: dict[str, dict[pathlib.Path, dict[str, Any]]] = {}
  for run, config in configs.items():
    tasks.setdefault(config.env.task, {})[run] = settings_of(config)
  groups = {}
  for task, settings in tasks.items():
    differing = differing_settings(list(settings.values()))
    alike: dict[tuple, list[pathlib.Path]] = {}
    for run, values in settings.items():
      alike.setdefault(tuple(values[n] for n in differing), []).append(run)
    named = {name: runs for runs in alike.values() if (name := _shared(names, runs))}
    groups[task] = named if len(named) == len(alike) else {
        _label(differing, v, runs[0]): runs for v, runs in alike.items()
    }
  return groups


def _shared(names: Mapping[pathlib.Path, str], runs: list[pathlib.Path]) -> str:
  """The name that all runs have; empty if there is none."""
  found = {names.get(run, "") for run in runs}
  return found.pop() if len(found) == 1 else ""


def _label(names: list[str], values: tuple, run: pathlib.Path) -> str:
  if len(names) > 3:
    return str(run)
  return ", ".join(f"{n.split('.')[1]} {v}" for n, v in zip(names, values))
