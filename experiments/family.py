"""Study 6: the road from DQN to R2D2: what each step of it bought.

    python -m experiments.family                      small
    python -m experiments.family --tasks recall --seeds 1 --arms dqn r2d2
    python -m experiments.family --size paper

The talk's road; its members are the presets of `r2d2_jax.family`. What to
expect is in docs/studies.md.
"""

from collections.abc import Mapping, Sequence
import pathlib
import sys
from typing import Annotated, Any

import tyro

from experiments.studies.bases import (
  EPISODE_ROWS,
  Size,
  base_config,
  usual_seeds,
)
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study, changed
from r2d2_jax.cli.command import run_command
from r2d2_jax.config import Config, to_dict
from r2d2_jax.family import FAMILY, MEMBERS, switches
from r2d2_jax.presets import paper, smoke

# As the talk tells it. Members that are not named here come last.
_TALK = (
  "dqn", "double-dqn", "dueling", "n-step", "prioritized", "drqn-sequential",
  "drqn-random", "a3c", "ape-x", "impala", "r2d2-feedforward", "r2d2",
)  # fmt: skip
ROAD = tuple(
  sorted(MEMBERS, key=lambda m: _TALK.index(m) if m in _TALK else len(_TALK))
)
_LOOKAHEAD = "r2d2-lookahead"
# The task's and the study's own, the same in all arms.
_COMMON = (
  "env.task",
  "env.max_episode_frames",
  "run.total_steps",
  "run.seed",
  "run.run_dir",
  "evaluation.epsilon",
)


def _settings(name: str, size: Size) -> Mapping[str, Any]:
  """What makes a member of a task's configuration: whole sections, and more.

  How it learns and what it replays are the preset's, whatever the task. Of the
  network, the actors and the loops it brings what it changes in the preset that
  it is made of: an image needs another torso than a vector does.
  """
  if size == "small":
    member, origin = FAMILY[f"{name}-small"](), smoke()
  else:
    member, origin = FAMILY[name](), paper()
  before = to_dict(origin)
  return {
    f"{section}.{key}": value
    for section, settings in to_dict(member).items()
    for key, value in settings.items()
    if f"{section}.{key}" not in _COMMON
    and (
      section in ("agent", "replay")
      or f"{section}.{key}" in switches(name)
      or (
        section in ("env", "network", "run") and value != before[section][key]
      )
    )
  }


def _suits(name: str, size: Size):
  """Small sequential updates need tasks whose episodes an item holds."""
  if name == "drqn-sequential" and size == "small":
    return lambda base: base.env.task in EPISODE_ROWS
  return lambda base: True


def _arms(size: Size) -> tuple[Arm, ...]:
  """The members, and R2D2 with the full returns of docs/deviations.md, 2."""
  r2d2 = _settings("r2d2", size)
  return (
    *(Arm(name, _settings(name, size), _suits(name, size)) for name in ROAD),
    Arm(
      _LOOKAHEAD,
      dict(r2d2) | {"agent.lookahead_rows": r2d2["agent.n_step"] - 1},
      # In an item that ends with its episode no return is cut.
      suits=lambda base: base.env.task not in EPISODE_ROWS,
    ),
  )


TASKS = {
  # One frame says all; what a frame said must be remembered; a state without
  # velocities; pixels.
  "small": ("Catch-v0", "recall", "stateless-cartpole", "MsPacman"),
  "paper": ("Pong", "Breakout", "MsPacman", "Seaquest"),
}
# Frames of the table that the papers from DQN to Rainbow share: 200 million.
_PAPER_STEPS = 50_000_000


def _base(task: str, size: Size) -> Config:
  steps = {} if size == "small" else {"run.total_steps": _PAPER_STEPS}
  return changed(base_config(task, size), steps)


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="family",
    base=lambda task: _base(task, size),
    tasks=TASKS[size],
    arms=_arms(size),
    seeds=lambda task: usual_seeds(task, size),
    columns=("eval_mean", "eval_median", "return_area"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """The road: final scores in the order of the talk; and learning curves.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from matplotlib import colormaps
  import numpy as np

  from experiments.studies import plots

  tasks = plots.by_task(records)
  names = [*ROAD, _LOOKAHEAD]
  # Along the road: ten colours would not do.
  shades = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
  colors = dict(zip(names, shades, strict=True))
  figure, grid = plots.new_figure(len(tasks), 2, panel_inches=(4.8, 3.2))
  for (task, arms), (road, curves) in zip(tasks.items(), grid, strict=True):
    drawn = [name for name in names if name in arms]
    for place, name in enumerate(drawn):
      style: dict[str, Any] = dict(color=colors[name], label=name)
      plots.draw_curve(curves, arms[name], "return_mean", **style)
      # What has no score has no point: at 0 it would be taken for one.
      if score := plots.spread(arms[name], "eval_mean"):
        road.errorbar(
          [score.mean],
          [place],
          xerr=plots.error_bars([score]),
          fmt="o",
          capsize=4,
          **style,
        )
    road.set_yticks(range(len(drawn)), drawn)
    road.set_ylim(len(drawn) - 0.5, -0.5)
    road.set_title(
      f"{task}: final score, range of the seeds", fontsize="medium"
    )
    curves.set_title(f"{task}: raw return, all lanes", fontsize="medium")
    plots.label_frames(curves, arms)
    for axes in (road, curves):
      axes.grid(alpha=0.3)
      plots.note_empty(axes)
  plots.legend_below(figure, grid.flat, columns=5)
  figure.savefig(path, dpi=130)


def family(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """The road from DQN to R2D2: every member on the same tasks.

  The arms are the members of the family, and R2D2 with full returns in an
  item's last rows. All have the same number of frames. Tables, plot and runs
  are in --out; a study that was interrupted goes on with the same command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    family, prog="python -m experiments.family", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
