"""Study 7: how far a bit can be carried: bsuite's memory_len, every length.

    python -m experiments.memory_chain
    python -m experiments.memory_chain --arms r2d2 --seeds 1
    python -m experiments.memory_chain --tasks memory-chain-50 memory-chain-100

Osband et al., "Behaviour Suite for Reinforcement Learning", ICLR 2020: 10 000
episodes with each of 23 lengths, and a score that counts exploration too. What
to expect is in docs/studies.md.
"""

from collections.abc import Mapping, Sequence
import csv
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.studies.bases import FRUGAL, REPEATABLE, Size, batch_of
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study, changed
from r2d2_jax.cli.command import run_command
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.tasks import chain_length
from r2d2_jax.presets import control

if TYPE_CHECKING:  # --help is quick without it
  import numpy as np

# bsuite's experiment: lengths, episodes, and the bar for a length.
LENGTHS = (*range(1, 11), 12, 14, 17, 20, 25, *range(30, 101, 10))
EPISODES = 10_000
REGRET_BAR = 0.75
# A guess is wrong every other time.
_CHANCE_REGRET = 0.5

# One agent for all lengths: an item holds the longest episode, since nothing
# but the answer's own reward says that the bit is worth keeping.
_WHOLE_ROWS = max(LENGTHS) + 2
_SHORT_ROWS = 20
_RANDOM_ROWS = 10  # DRQN's number of steps unrolled
_BASE = REPEATABLE | FRUGAL | {
    "env.num_envs": 16,
    "agent.burn_in": 0, "agent.trace_length": _WHOLE_ROWS,
    "agent.overlap": _WHOLE_ROWS // 2,
    # Of a gradient through gates as usual nothing is left after 100 rows.
    "network.core_memory_rows": max(LENGTHS),
    "replay.capacity_sequences": 10_000, "run.actor_refresh_steps": 10,
    "log.period_updates": 20, "checkpoint.period_updates": 1000,
    "evaluation.num_episodes": 200, "evaluation.num_lanes": 50,
}  # fmt: skip


def _short(rows: int, overlap: int) -> Mapping[str, Any]:
  """Items of few rows; an update trains as many rows as it does otherwise."""
  return {
    "agent.trace_length": rows,
    "agent.overlap": overlap,
    "agent.batch_size": lambda base: batch_of(rows, base),
    "replay.min_sequences": lambda base: max(
      base.replay.min_sequences, batch_of(rows, base)
    ),
  }


_BURN_IN = {"agent.burn_in": _SHORT_ROWS // 2}
_ZERO = {"agent.start_state": "zero"}
ARMS = (
  Arm("r2d2"),
  Arm("stored", _short(_SHORT_ROWS, _SHORT_ROWS // 2) | _BURN_IN),
  Arm("zero", _short(_SHORT_ROWS, _SHORT_ROWS // 2) | _BURN_IN | _ZERO),
  Arm(
    "drqn_random",
    _short(_RANDOM_ROWS, _RANDOM_ROWS - 1)
    | _ZERO
    | {
      "agent.n_step": 1,
      "agent.importance_exponent": 0.0,
      "replay.priority_exponent": 0.0,
    },
  ),
  Arm("usual_gates", {"network.core_memory_rows": 0}),
  Arm(
    "feedforward",
    {"network.core": "feedforward", "network.core_memory_rows": 0},
  ),
)


def _base(task: str, size: Size) -> Config:
  """The same in both sizes: it is a protocol."""
  del size
  length = chain_length(task)
  if length is None:
    raise ConfigError(
      f"--tasks: expected memory-chain-LENGTH, such as memory-chain-30, got"
      f" {task}"
    )
  return changed(
    control(),
    _BASE | {"env.task": task, "run.total_steps": EPISODES * (length + 1)},
  )


def study(size: Size) -> Study:
  """The study; both sizes are alike."""
  return Study(
    name="memory_chain",
    base=lambda task: _base(task, size),
    tasks=tuple(f"memory-chain-{length}" for length in LENGTHS),
    arms=ARMS,
    seeds=lambda task: 3,
    columns=("eval_mean", "return_area"),
  )


def regret_ratio(log: "Mapping[str, np.ndarray]") -> float:
  """Wrong answers in the first 10 000 episodes, relative to those of guessing.

      (wrong answers / episodes) / 0.5

  1 is chance, 0 would be perfect from the first episode on. bsuite's
  memory_len/analysis.py: total regret over the episodes' number and base rate.

  Args:
    log: columns episodes and return_total of a run's log.csv. An episode's
      return is +1 or -1, all lanes count, whatever they explore.

  Returns:
    NaN of a log without an episode.
  """
  import numpy as np

  episodes, total = log["episodes"], log["return_total"]
  known = np.isfinite(total) & (episodes > 0)
  if not known.any():
    return float("nan")
  last = min(EPISODES, episodes[known][-1])
  # Between two rows, as if their games came alike.
  wrong = (last - np.interp(last, episodes[known], total[known])) / 2
  return float(wrong / last / _CHANCE_REGRET)


def bsuite_score(ratios: Mapping[int, float]) -> float:
  """The share of lengths whose regret ratio is below 0.75.

  Args:
    ratios: length -> `regret_ratio` of one seed.
  """
  return sum(ratio < REGRET_BAR for ratio in ratios.values()) / len(ratios)


def seeds_of(records: Sequence) -> dict[str, dict[int, dict[int, float]]]:
  """Arm -> seed -> length -> regret ratio, of the finished runs."""
  arms: dict[str, dict[int, dict[int, float]]] = {}
  for record in records:
    length = chain_length(record.run.task)
    if record.finished and length is not None:
      seeds = arms.setdefault(record.arm, {})
      seeds.setdefault(record.run.seed, {})[length] = regret_ratio(record.log)
  return arms


def report(records: Sequence, path: pathlib.Path) -> None:
  """Regret and final score against length; and bsuite's score, in score.csv.

  Args:
    records: of `results.read_records`.
    path: the PNG to write.
  """
  arms = seeds_of(records)
  with path.with_name("score.csv").open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", "lengths", "score", "worst_regret_ratio"])
    for arm, seeds in arms.items():
      for seed, ratios in sorted(seeds.items()):
        worst = max(ratios.values())
        writer.writerow([
          arm, seed, len(ratios), f"{bsuite_score(ratios):.4g}", f"{worst:.4g}"
        ])  # fmt: skip
  _plot(arms, records, path)


def _plot(
  arms: Mapping[str, Mapping[int, Mapping[int, float]]],
  records: Sequence,
  path: pathlib.Path,
) -> None:
  import numpy as np

  from experiments.studies import plots
  from r2d2_jax.analysis.plots import draw_range

  figure, ((regret, final),) = plots.new_figure(1, 2, panel_inches=(4.8, 3.6))
  tasks = plots.by_task(records)
  for i, (arm, seeds) in enumerate(arms.items()):
    style: dict[str, Any] = dict(color=f"C{i}", label=arm, marker=".")
    # Lengths that all of its seeds have finished.
    lengths = sorted(set.intersection(*map(set, seeds.values())))
    if not lengths:
      continue
    values = [[seed[length] for length in lengths] for seed in seeds.values()]
    draw_range(regret, np.array(lengths), np.array(values), **style)
    scores = [
      [
        r.values["eval_mean"]
        for r in tasks[f"memory-chain-{length}"][arm]
        if r.finished
      ]
      for length in lengths
    ]
    draw_range(final, np.array(lengths), np.array(scores).T, **style)
  regret.axhline(REGRET_BAR, color="gray", linestyle=":", linewidth=1)
  regret.set_title(
    "regret of 10 000 episodes; bsuite's bar is 0.75", fontsize="medium"
  )
  regret.set_ylabel("relative to guessing")
  final.set_title("final score of 200 games", fontsize="medium")
  for axes in (regret, final):
    axes.set_xlabel("length")
    axes.grid(alpha=0.3)
    plots.note_empty(axes)
  plots.legend_below(figure, (regret, final), columns=5)
  figure.savefig(path, dpi=130)


def memory_chain(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
  """Memory against length: bsuite's memory_len with all its 23 lengths.

  R2D2 with items that hold whole episodes, with short items from stored and
  from zero states, DRQN's random updates, and no memory. Tables, bsuite's
  score, plot and runs are in --out; a study that was interrupted goes on with
  the same command.
  """
  return run_study(study(options.size), options, report)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    memory_chain,
    prog="python -m experiments.memory_chain",
    arguments=arguments,
  )


if __name__ == "__main__":
  sys.exit(main())
