"""Signals at random moments: what is at hand is saved, and the run ends."""

import pathlib

from experiments.drills.drill import check, rows, small_run, train
from experiments.drills.phases import (
  Phase,
  copies_of,
  signal_in,
  steps_of,
  told,
)
from r2d2_jax.config import Config
from r2d2_jax.system.storage.checkpoints import PARTIAL, list_checkpoints
from r2d2_jax.system.storage.rundir import checkpoints_dir

_NEVER_MINUTES = 1e6


def at_start_up(
  directory: pathlib.Path,
  *,
  tries: int = 4,
  at_a_time: int = 2,
  seed: int = 0,
) -> str:
  """While it imports, compiles, restores: it ends, and what was saved is there.

  Returns:
    What was counted, in a line.
  """
  base = small_run(
    directory / "base", {"run.total_steps": 1_500}, backend="reverb"
  )
  check(train(base).returncode == 0, "a first run ends well")
  steps = steps_of(directory / "base")
  phase = Phase(
    copies_of(base, base.updated({"run.total_steps": steps + 5_000})),
    lambda run_dir, text: True,
    lambda run_dir, text: "updates/s" in text,
    lambda run_dir, text: check(
      steps_of(run_dir) >= steps, "no checkpoint is lost", text
    ),
    lambda number, moments: None,
  )
  return told(
    "a start",
    *signal_in(directory, phase, tries=tries, at_a_time=at_a_time, seed=seed),
  )


def in_the_last_save(
  directory: pathlib.Path,
  *,
  tries: int = 4,
  at_a_time: int = 2,
  seed: int = 0,
) -> str:
  """In the only save there is; every other time a second signal close behind.

  Returns:
    What was counted, in a line.
  """
  said = []
  for backend, share in (("local", tries // 2), ("reverb", -(-tries // 2))):
    if not share:
      continue
    place = directory / backend
    place.mkdir(exist_ok=True)

    def run(name: str, place=place, backend=backend) -> Config:
      settings = {
        "run.total_steps": 1_500,
        "checkpoint.period_minutes": _NEVER_MINUTES,
      }
      return small_run(place / name, settings, backend=backend)

    phase = Phase(
      run,
      lambda run_dir, text: any(checkpoints_dir(run_dir).glob(f"*{PARTIAL}")),
      lambda run_dir, text: bool(list_checkpoints(checkpoints_dir(run_dir))),
      lambda run_dir, text: check(
        steps_of(run_dir) >= 1_500, "all of it saved", text
      ),
      lambda number, moments: moments.uniform(0.2, 0.5) if number % 2 else None,
    )
    seconds, ends = signal_in(
      place, phase, tries=share, at_a_time=at_a_time, seed=seed
    )
    said.append(told(f"a save ({backend})", seconds, ends))
  return "; ".join(said)


def in_the_evaluation(
  directory: pathlib.Path,
  *,
  tries: int = 4,
  at_a_time: int = 2,
  seed: int = 0,
) -> str:
  """In the last evaluation: it is left out, whole, and done at the next start.

  Returns:
    What was counted, in a line.
  """
  base = small_run(
    directory / "base", {"run.total_steps": 1_500, "evaluation.num_episodes": 0}
  )
  check(train(base).returncode == 0, "a first run ends well")
  num_games = 2_000

  def games(run_dir: pathlib.Path) -> int:
    return len(rows(run_dir / "evaluation.csv"))

  def check_games(run_dir: pathlib.Path, text: str) -> None:
    found = games(run_dir)
    check(found in (0, num_games), "all games or none written down", found)
    check(bool(found) == ("evaluation: " in text), "as it says", text)

  phase = Phase(
    copies_of(base, base.updated({"evaluation.num_episodes": num_games})),
    lambda run_dir, text: "evaluating" in text,
    lambda run_dir, text: "evaluation: " in text,
    check_games,
    lambda number, moments: None,
  )
  seconds, ends = signal_in(
    directory, phase, tries=tries, at_a_time=at_a_time, seed=seed
  )
  last = games(directory / f"signal-{tries - 1}")
  check(last == num_games, "the next start has evaluated, once", last)
  num_left_out = sum("evaluation: " not in end.text for end in ends)
  return told("an evaluation", seconds, ends, f", {num_left_out} left it out")
