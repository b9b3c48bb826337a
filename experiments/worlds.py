"""Which of EnvPool's tasks run: tries them all, prints a table of families.

    python -m experiments.worlds

docs/environments.md holds the table. Every task is asked what it shows and
takes, and of all that show and take the same in a family one is played for some
steps (VizDoom's, which take seconds to start, are not).
"""

import collections
import re
import sys
from typing import NamedTuple

from r2d2_jax.cli.command import program, run_command
from r2d2_jax.config import EnvConfig, MissingPackageError, UserError
from r2d2_jax.envs.make import make_world, world_spec
from r2d2_jax.types import EnvSpec

_NUM_STEPS = 20
# What differs from task to task in a reason, beside the task's own name.
_DETAILS = re.compile(r"\(.*?\)|\[.*?\]|\b\d+")


class Verdict(NamedTuple):
  """Whether a task runs."""

  family: str
  task: str
  reason: str  # "" where it runs
  spec: EnvSpec | None


def verdicts(tasks: list[tuple[str, str]]) -> list[Verdict]:
  """Asks each task; plays one of each kind.

  Args:
    tasks: family and EnvPool's id.
  """
  found, played = [], {}
  for family, task in tasks:
    try:
      spec = world_spec(EnvConfig(task=task))
    except UserError as error:
      found.append(Verdict(family, task, reason_of(error, task), None))
      continue
    kind = family, spec
    if kind not in played:
      played[kind] = "" if family == "vizdoom" else _played(task)
    found.append(Verdict(family, task, played[kind], spec))
  return found


def _played(task: str) -> str:
  """ "" where the task can be played; else why not."""
  try:
    world = make_world(EnvConfig(task=task, num_envs=1), seed=0)
  except (UserError, RuntimeError) as error:
    return reason_of(error, task)
  try:
    world.reset()
    for _ in range(_NUM_STEPS):
      timestep = world.recv()
      world.send(timestep.env_id * 0, timestep.env_id)
  except (UserError, RuntimeError) as error:
    return reason_of(error, task)
  finally:
    world.close()
  return ""


def reason_of(error: Exception, task: str) -> str:
  """An error in some words that are the same for all tasks of its kind."""
  if isinstance(error, MissingPackageError):
    return "a library of the system is missing"
  text = str(error).partition(": R2D2")[0].partition(": the network")[0]
  text = text.partition(", EnvPool says")[0]
  text = text.replace(f"{task} ", "").partition(";")[0]
  return re.sub(r"\s+", " ", _DETAILS.sub("", text)).strip(" .:")[:70]


def table(found: list[Verdict]) -> str:
  """The families in markdown: how many of their tasks run, and why not all."""
  lines = ["| family | tasks | run | the others |", "|---|---|---|---|"]
  families = collections.defaultdict(list)
  for verdict in found:
    families[verdict.family].append(verdict)
  for family, all_of_it in sorted(families.items()):
    reasons = collections.Counter(v.reason for v in all_of_it if v.reason)
    words = "; ".join(f"{n}: {reason}" for reason, n in reasons.most_common())
    run = len(all_of_it) - sum(reasons.values())
    lines.append(f"| {family} | {len(all_of_it)} | {run} | {words} |")
  return "\n".join(lines)


def try_worlds(family: str = "") -> None:
  """Tries EnvPool's tasks and prints a table of their families.

  Args:
    family: only this one, such as 'atari' or 'minigrid'; empty for all.
  """
  try:
    import envpool
    from envpool.registration import registry
  except ImportError as error:
    raise MissingPackageError(
      "EnvPool cannot be imported here: pip install 'r2d2_jax[envpool]'"
    ) from error
  tasks = [
    (registry.specs[task][0].removeprefix("envpool.").partition(".")[0], task)
    for task in envpool.list_all_envs()
  ]
  print(table(verdicts([t for t in tasks if family in ("", t[0])])))


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(try_worlds, prog=program("worlds"), arguments=arguments)


if __name__ == "__main__":
  sys.exit(main())
