"""Study 8: two choices where the paper is silent: do they matter?

    python -m experiments.deviations
    python -m experiments.deviations --tasks recall --seeds 1

docs/deviations.md, 1 and 2: the sum or the mean of an item's squared errors;
the returns of its last rows, shortened or complete. What to expect is in
docs/studies.md.
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
from r2d2_jax.config import Config

# The paper's optimiser: with another epsilon the scale of the loss would matter
# less, or more.
_BASE = {"agent.adam_epsilon": Config().agent.adam_epsilon}


def _times_rows(name: str):
  """A setting times the number of trained transitions of an item."""
  return lambda base: base.setting(name) * (base.agent.trace_length - 1)


ARMS = (
  Arm("r2d2"),
  # A mean is the sum divided by m. Adam's step m_t / (sqrt(v_t) + epsilon) and
  # the clip of the norm at c are those of the sum with m epsilon and m c.
  Arm(
    "mean_over_time",
    {
      "agent.adam_epsilon": _times_rows("agent.adam_epsilon"),
      "agent.max_grad_norm": _times_rows("agent.max_grad_norm"),
    },
  ),
  Arm(
    "full_returns",
    {"agent.lookahead_rows": lambda base: base.agent.n_step - 1},
    # Else the replay's blocks would be of a row or two.
    suits=lambda base: base.agent.overlap % (base.agent.n_step - 1) == 0,
  ),
)
TASKS = {
  "small": ("recall", "stateless-cartpole"),
  "paper": ("MsPacman", "Seaquest"),
}


def study(size: Size) -> Study:
  """The study in one of its sizes."""
  return Study(
    name="deviations",
    base=lambda task: changed(base_config(task, size), _BASE),
    tasks=TASKS[size],
    arms=ARMS,
    seeds=lambda task: usual_seeds(task, size),
    columns=("eval_mean", "eval_median", "return_area"),
  )


def plot(records: Sequence, path: pathlib.Path) -> None:
  """Learning curves, a panel for each task.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  from experiments.studies import plots

  names = [arm.name for arm in ARMS]
  plots.draw_tasks(records, names, path)


def deviations(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """Where the paper is silent: the loss over time, and an item's last returns.

  R2D2 as it is here, with a mean over an item's rows in place of the sum, and
  with complete returns in its last rows. Tables, plot and runs are in --out; a
  study that was interrupted goes on with the same command.
  """
  return run_study(study(options.size), options, plot)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    deviations,
    prog="python -m experiments.deviations",
    arguments=arguments,
  )


if __name__ == "__main__":
  sys.exit(main())
