"""Study 4: how old are the parameters behind a sampled row, and does it matter?

    python -m experiments.parameter_lag               small
    python -m experiments.parameter_lag --tasks recall --seeds 1
    python -m experiments.parameter_lag --size paper

Kapturowski et al., figure 6: lag and dQ against the number of actors. What to
expect is in docs/studies.md.
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

ACTORS = (16, 64, 256)
_USUAL = 64  # where both families meet
_PACE = "own_pace_"


def _same_ratio(actors: int) -> Arm:
  """More actors, each of them slower: as many rows are trained on per step."""
  return Arm(str(actors), {"env.num_envs": actors})


def _own_pace(actors: int) -> Arm:
  """More actors of the same speed beside a learner of the same speed.

  As in the paper: the learner does as many updates while they bring more steps.
  """
  return Arm(
    f"{_PACE}{actors}",
    {
      "env.num_envs": actors,
      "replay.replay_ratio": lambda base: (
        base.replay.replay_ratio * _USUAL / actors
      ),
      "run.total_steps": lambda base: base.run.total_steps * actors // _USUAL,
    },
  )


ARMS = (
  *map(_same_ratio, ACTORS),
  *(_own_pace(n) for n in ACTORS if n != _USUAL),
)
TASKS = {
  "small": ("recall", "MiniGrid-MemoryS7-v0"),
  "paper": ("MiniGrid-MemoryS13-v0", "MsPacman", "Seaquest"),
}
_BASE = {
  "env.num_envs": _USUAL,
  # dQ at any row needs the state that the actor had there.
  "replay.row_states": True,
  # Enough for both, and the family with its own pace takes four times as many.
  "run.total_steps": lambda base: base.run.total_steps // 2,
}


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="parameter_lag",
    base=lambda task: changed(base_config(task, size), _BASE),
    tasks=TASKS[size],
    arms=ARMS,
    seeds=lambda task: usual_seeds(task, size),
    columns=(
      "lag_p10",
      "lag_p50",
      "lag_p90",
      "dq_first",
      "dq_last",
      "eval_mean",
    ),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Lag, and dQ at the first and last trained row, against the actors' number.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  tasks = plots.by_task(records)
  figure, grid = plots.new_figure(len(tasks), 2, panel_inches=(4.2, 2.8))
  families = {
    "same replay ratio": {n: str(n) for n in ACTORS},
    "actors at their own pace": {
      n: str(n) if n == _USUAL else f"{_PACE}{n}" for n in ACTORS
    },
  }
  for (task, arms), (lag, dq) in zip(tasks.items(), grid, strict=True):
    for i, (family, names) in enumerate(families.items()):
      for axes, column, style in (
        (lag, "lag_p50", "o-"),
        (lag, "lag_p90", "^:"),
        (lag, "lag_p10", "v:"),
        (dq, "dq_first", "o-"),
        (dq, "dq_last", "s--"),
      ):
        spreads = {
          n: plots.spread(arms.get(arm, []), column) for n, arm in names.items()
        }
        spreads = {n: s for n, s in spreads.items() if s is not None}
        if spreads:
          axes.errorbar(
            list(spreads),
            [s.mean for s in spreads.values()],
            yerr=plots.error_bars(list(spreads.values())),
            fmt=style,
            color=f"C{i}",
            capsize=3,
            label=family,
          )
    lag.set_title(f"{task}: lag, 10 %, median, 90 %", fontsize="medium")
    lag.set_ylabel("updates")
    dq.set_title("dQ, first (circles) and last trained row", fontsize="medium")
    dq.set_yscale("log", nonpositive="mask")
    for axes in (lag, dq):
      axes.set_xscale("log", base=2)
      axes.set_xticks(ACTORS, [str(n) for n in ACTORS])
      axes.set_xlabel("actors")
      axes.grid(alpha=0.3)
      plots.note_empty(axes)
  plots.legend_below(figure, grid.flat, columns=2)
  figure.savefig(path, dpi=130)


def parameter_lag(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """Parameter lag and dQ against the number of actors.

  Two families of arms: the actors share the same pace (the replay ratio stays),
  or each has its own (more of them bring more steps for an update). Tables,
  plot and runs are in --out; a study that was interrupted goes on with the same
  command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    parameter_lag,
    prog="python -m experiments.parameter_lag",
    arguments=arguments,
  )


if __name__ == "__main__":
  sys.exit(main())
