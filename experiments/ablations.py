"""Study 3: what each part of the agent is worth: one switch at a time.

    python -m experiments.ablations                   small
    python -m experiments.ablations --tasks Breakout \\
      --arms agent life_roll life_reset
    python -m experiments.ablations --size paper

Kapturowski et al., figures 4, 7 and 8. What to expect is in docs/studies.md.
"""

from collections.abc import Sequence
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.studies.bases import Size, base_config, is_atari, usual_seeds
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study
from r2d2_jax.cli.command import run_command

AGENT = "agent"


def _gamma(discount: float) -> Arm:
  """The paper's 0.997, or what came before; where it isn't the task's own."""
  return Arm(
    f"gamma_{discount}",
    {"agent.discount": discount},
    suits=lambda base: base.agent.discount != discount,
  )


ARMS = (
  Arm(AGENT),
  Arm("clipping", {"agent.value_rescaling": False, "agent.reward_clip": 1.0}),
  _gamma(0.997),
  _gamma(0.99),
  Arm("feedforward", {"network.core": "feedforward"}),
  Arm("life_roll", {"env.life_loss": "roll"}, suits=is_atari),
  Arm("life_reset", {"env.life_loss": "reset"}, suits=is_atari),
  # The submission; the paper's exponent is 0.6.
  Arm("importance_0", {"agent.importance_exponent": 0.0}),
  Arm("no_previous_action", {"network.use_previous_action": False}),
  Arm("no_previous_reward", {"network.use_previous_reward": False}),
)
TASKS = {
  "small": ("recall", "Catch-v0", "MsPacman"),
  # Games with long and with short lives, dense and sparse rewards.
  "paper": ("MsPacman", "Breakout", "Seaquest", "BeamRider", "Qbert"),
}


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="ablations",
    base=lambda task: base_config(task, size),
    tasks=TASKS[size],
    arms=ARMS,
    seeds=lambda task: usual_seeds(task, size),
    columns=("eval_mean", "eval_median", "return_area"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Final score of each arm minus the agent's, and learning curves.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  tasks = plots.by_task(records)
  colors = {arm.name: f"C{i}" for i, arm in enumerate(ARMS)}
  figure, grid = plots.new_figure(len(tasks), 2, panel_inches=(4.8, 3.0))
  for (task, arms), (bars, curves) in zip(tasks.items(), grid, strict=True):
    agent = plots.spread(arms.get(AGENT, []), "eval_mean")
    drawn = [arm for arm in colors if arm in arms]
    for place, arm in enumerate(drawn):
      plots.draw_curve(
        curves, arms[arm], "return_mean", color=colors[arm], label=arm
      )
      score = plots.spread(arms[arm], "eval_mean")
      if agent is None or score is None:
        continue
      bars.barh(
        [place],
        [score.mean - agent.mean],
        color=colors[arm],
        xerr=plots.error_bars([score]),
        ecolor="0.3",
      )
    bars.set_yticks(range(len(drawn)), drawn)
    bars.invert_yaxis()
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_xlabel("final score minus the agent's mean, range of the seeds")
    known = "" if agent is None else f" (agent: {agent.mean:.3g})"
    bars.set_title(f"{task}{known}", fontsize="medium")
    curves.set_title(f"{task}: raw return, all lanes", fontsize="medium")
    plots.label_frames(curves, arms)
    for axes in (bars, curves):
      axes.grid(alpha=0.3)
      plots.note_empty(axes)
  plots.legend_below(figure, grid.flat, columns=5)
  figure.savefig(path, dpi=130)


def ablations(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """What each part of the agent is worth: one switch at a time.

  Clipped rewards instead of rescaled values, a shorter horizon, no memory, life
  loss as the end of an episode, no importance weights, no previous action, no
  previous reward. Tables, plot and runs are in --out; a study that was
  interrupted goes on with the same command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    ablations, prog="python -m experiments.ablations", arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
