"""Study 1: in which recurrent state should a replayed item start?

    python -m experiments.start_state                 small
    python -m experiments.start_state --seeds 1 --tasks recall
    python -m experiments.start_state --size paper

Kapturowski et al., section 3 and figure 1; the talk, slides 35 to 37. What it
measures and what to expect is in docs/studies.md.
"""

from collections.abc import Sequence
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.studies.bases import Size, base_config, usual_seeds
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study, changed
from r2d2_jax.cli.command import run_command

ARMS = (
  Arm("zero", {"agent.start_state": "zero", "agent.burn_in": 0}),
  Arm("zero_burn_in", {"agent.start_state": "zero"}),
  Arm("stored", {"agent.burn_in": 0}),
  Arm("stored_burn_in"),
)
TASKS = {
  # Three that need memory (the second can do with less), one that hardly does.
  "small": (
    "recall",
    "MiniGrid-MemoryS7-v0",
    "MiniGrid-MemoryS11-v0",
    "MsPacman",
  ),
  "paper": (
    "MiniGrid-MemoryS11-v0",
    "MiniGrid-MemoryS13-v0",
    "MsPacman",
    "Seaquest",
  ),
}
# dQ at any row needs the state that the actor had there.
_BASE = {"replay.row_states": True}


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="start_state",
    base=lambda task: changed(base_config(task, size), _BASE),
    tasks=TASKS[size],
    arms=ARMS,
    seeds=lambda task: usual_seeds(task, size),
    columns=("eval_mean", "return_area", "dq_first", "dq_last"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Learning curves, and dQ at the first and last trained row, a line per task.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  tasks = plots.by_task(records)
  colors = {arm.name: f"C{i}" for i, arm in enumerate(ARMS)}
  figure, grid = plots.new_figure(len(tasks), 3, panel_inches=(3.4, 2.4))
  for (task, arms), (returns, first, last) in zip(
    tasks.items(), grid, strict=True
  ):
    last.sharey(first)
    for axes in (first, last):
      axes.set_yscale("log", nonpositive="mask")
    for arm in colors:
      style = dict(
        color=colors[arm],
        label=arm.replace("_", " "),
        # In short games it is the same run as the other one with burn-in.
        linestyle="--" if arm == "stored_burn_in" else "-",
      )
      for axes, column, smooth in (
        (returns, "return_mean", 1),
        (first, "dq_first", 9),
        (last, "dq_last", 9),
      ):
        plots.draw_curve(
          axes, arms.get(arm, []), column, smooth=smooth, **style
        )
    returns.set_title(f"{task}: raw return, all lanes", fontsize="medium")
    first.set_ylabel("dQ")
    # Not on a logarithmic axis.
    first.set_title("dQ, first trained row (stored: 0)", fontsize="medium")
    last.set_title("dQ, last trained row", fontsize="medium")
    for axes in (returns, first, last):
      axes.grid(alpha=0.3)
      plots.label_frames(axes, arms)
  plots.legend_below(figure, grid.flat, columns=4)
  figure.savefig(path, dpi=130)


def start_state(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """Start states of replayed items: zero or stored, with and without burn-in.

  dQ, how much the actor's state and the learner's differ in their values, at
  the first and at the last trained row, and the learning curves. Tables, plot
  and runs are in --out; a study that was interrupted goes on with the same
  command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    start_state, prog="python -m experiments.start_state", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
