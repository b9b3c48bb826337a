"""Study 5: what memory is worth when half of the observations go blank.

    python -m experiments.flicker                     small
    python -m experiments.flicker --tasks Pong --steps 2500000 --seeds 1
    python -m experiments.flicker --size paper

The talk, slide 31; DRQN (Hausknecht & Stone, 2015). What DRQN's arms take over
from it, what not, and what to expect is in docs/studies.md.
"""

from collections.abc import Sequence
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.studies.bases import (
  EPISODE_ROWS,
  Size,
  base_config,
  batch_of,
  usual_seeds,
)
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study
from r2d2_jax.cli.command import run_command
from r2d2_jax.config import Config

# An item of that many rows holds any of them.
_WHOLE_EPISODE_ROWS = 12
_RANDOM_ROWS = 10  # DRQN's number of steps unrolled

_BLANK = {"env.flicker_probability": 0.5}
_FEEDFORWARD = {"network.core": "feedforward"}
_DRQN = {
  "agent.start_state": "zero",
  "agent.burn_in": 0,
  "agent.n_step": 1,
  "agent.value_rescaling": False,
  "agent.reward_clip": 1.0,
  "agent.discount": lambda base: min(base.agent.discount, 0.99),
  "agent.importance_exponent": 0.0,
  "replay.priority_exponent": 0.0,
  "network.frame_stack": 1,
  "network.use_previous_action": False,
  "network.use_previous_reward": False,
}


def _random_rows(base: Config) -> int:
  return min(_RANDOM_ROWS, base.agent.trace_length // 2)


def _items_for_rows(items: int, base: Config) -> int:
  """Items that hold as many steps where each step begins one."""
  agent = base.agent
  return min(1_000_000, items * (agent.trace_length - agent.overlap))


# Sub-sequences from a zero state that begin in any row.
_RANDOM = _DRQN | {
  "agent.trace_length": _random_rows,
  "agent.overlap": lambda base: _random_rows(base) - 1,
  "agent.batch_size": lambda base: batch_of(_random_rows(base), base),
  "replay.capacity_sequences": lambda base: _items_for_rows(
    base.replay.capacity_sequences, base
  ),
  "replay.min_sequences": lambda base: _items_for_rows(
    base.replay.min_sequences, base
  ),
}
# One item is one whole episode, so the zero state is the one that it began in.
_SEQUENTIAL = _DRQN | {
  "agent.trace_length": _WHOLE_EPISODE_ROWS,
  "agent.batch_size": lambda base: batch_of(_WHOLE_EPISODE_ROWS, base),
}
ARMS = (
  Arm("r2d2"),
  Arm("r2d2_flicker", _BLANK),
  Arm("feedforward", _FEEDFORWARD),
  Arm("feedforward_flicker", _FEEDFORWARD | _BLANK),
  Arm("drqn_random_flicker", _RANDOM | _BLANK),
  Arm(
    "drqn_sequential_flicker",
    _SEQUENTIAL | _BLANK,
    suits=lambda base: base.env.task in EPISODE_ROWS,
  ),
)
TASKS = {
  "small": ("Catch-v0", "recall", "MsPacman"),
  "paper": ("Pong", "Frostbite", "BeamRider", "MsPacman"),
}


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="flicker",
    base=lambda task: base_config(task, size),
    tasks=TASKS[size],
    arms=ARMS,
    seeds=lambda task: usual_seeds(task, size),
    columns=("eval_mean", "eval_median", "return_area"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Final score with and without flicker by agent, and learning curves.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  tasks = plots.by_task(records)
  agents = list(dict.fromkeys(a.name.removesuffix("_flicker") for a in ARMS))
  figure, grid = plots.new_figure(len(tasks), 2, panel_inches=(4.4, 2.8))
  for (task, arms), (bars, curves) in zip(tasks.items(), grid, strict=True):
    width = 0.8 / len(agents)
    for i, agent in enumerate(agents):
      style = dict(color=f"C{i}", label=agent.replace("_", " "))
      for group, arm in enumerate((agent, f"{agent}_flicker")):
        # What has no score has no bar: at 0 it would be taken for one.
        if score := plots.spread(arms.get(arm, []), "eval_mean"):
          bars.errorbar(
            [group + (i - (len(agents) - 1) / 2) * width],
            [score.mean],
            yerr=plots.error_bars([score]),
            fmt="o",
            capsize=4,
            **style,
          )
        plots.draw_curve(
          curves,
          arms.get(arm, []),
          "return_mean",
          linestyle="--" if group else "-",
          **style,
        )
    bars.set_xticks([0, 1], ["all observations", "half of them blank"])
    bars.set_xlim(-0.6, 1.6)
    bars.set_title(
      f"{task}: final score, range of the seeds", fontsize="medium"
    )
    curves.set_title(
      "raw return, all lanes (dashed: flicker)", fontsize="medium"
    )
    plots.label_frames(curves, arms)
    for axes in (bars, curves):
      axes.grid(alpha=0.3)
      plots.note_empty(axes)
  plots.legend_below(figure, grid.flat, columns=4)
  figure.savefig(path, dpi=130)


def flicker(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """R2D2, its feed-forward variant and DRQN where half of the frames go blank.

  DRQN's two update schemes: random sub-sequences from a zero state, and whole
  episodes (where episodes are short). Tables, plot and runs are in --out; a
  study that was interrupted goes on with the same command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    flicker, prog="python -m experiments.flicker", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
