"""Evaluates runs over whole games, from any of their checkpoints.

    python -m experiments.evaluate runs/Pong-laptop-... --episodes 30
    python -m experiments.evaluate runs/atari57/* --checkpoint best

docs/evaluation.md says what each number means.
"""

import pathlib
import sys
from typing import Annotated

import tyro

from r2d2_jax.cli.command import check_number, program, run_command
from r2d2_jax.config import ConfigError, FileError, UserError
from r2d2_jax.system.run.interrupts import heard_signals

# An Atari lane takes a megabyte and 50 ms to start.
_MAX_LANES = 4096


def evaluate_runs(
  run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
  /,
  checkpoint: str = "latest",
  episodes: int = 30,
  epsilon: float = 0.001,
  lanes: int = 10,
  seed: int = 2_000_003,
) -> None:
  """Plays whole games with a checkpoint of each run; scores are raw.

  No-op starts and the frame cap are those of the run's settings. The games of a
  run are appended to evaluation.csv in its directory as soon as all of them
  have ended; where that cannot be written, they are printed. In the end the
  scores of all runs are shown beside the published ones; runs of the same game
  are its seeds. Into the folder of an exported agent nothing is written.

  Args:
    run_dirs: directories of runs, or of exported agents; hub:owner/name is one
      on the Hugging Face Hub.
    checkpoint: 'latest'; 'best', the one that scored highest in training's own
      evaluations; or a number of updates.
    episodes: whole games of each run.
    epsilon: chance of a random action at each step; 0 is greedy.
    lanes: environments that play side by side.
    seed: of the games and the random actions. The default is far from the seeds
      of training's own evaluations, whose games chose the 'best' checkpoint.
  """
  from rich.console import Console

  from r2d2_jax.analysis.score_tables import show
  from r2d2_jax.analysis.standings import read_standings
  from r2d2_jax.system.evaluation import check_writable, read_last_evaluation
  from r2d2_jax.system.storage.exported import read_exported
  from r2d2_jax.system.storage.hub import fetched
  from r2d2_jax.system.storage.rundir import read_config

  check_number("--episodes", episodes, 1)
  check_number("--lanes", lanes, 1, _MAX_LANES)
  check_number("--seed", seed, 0)
  check_number("--epsilon", epsilon, 0, 1)
  if not run_dirs:
    raise ConfigError("expected at least one run directory, got none")
  run_dirs = tuple(map(fetched, run_dirs))
  for run_dir in run_dirs:  # a slip is told now, not after hours of games
    read_config(run_dir)
    if read_exported(run_dir):
      continue
    read_last_evaluation(run_dir)
    try:
      check_writable(run_dir)
    except FileError as error:
      print(f"warning: {error}; scores are printed only", file=sys.stderr)
  console = Console()
  played, written = [], []
  for number, run_dir in enumerate(run_dirs, 1):
    print(f"run {number} of {len(run_dirs)}: {run_dir}", flush=True)
    try:
      _play(
        run_dir,
        console,
        which=checkpoint,
        episodes=episodes,
        epsilon=epsilon,
        lanes=lanes,
        seed=seed,
      )
      played.append(run_dir)
      if not read_exported(run_dir):
        written.append(run_dir)
    except UserError as error:
      # One bad run of many should not cost the others their night.
      if len(run_dirs) == 1:
        raise
      print(f"error: {run_dir}: {error}", file=sys.stderr, flush=True)
  if written:
    show(read_standings(written), console)
  if len(played) < len(run_dirs):
    raise ConfigError(
      f"{len(run_dirs) - len(played)} of {len(run_dirs)} runs could not be"
      " evaluated, or their scores not be written: see above"
    )


def _play(run_dir, console, *, which, episodes, epsilon, lanes, seed) -> None:
  """Plays one run's games and writes them down."""
  from r2d2_jax.system.compile_cache import keep_compiled
  from r2d2_jax.system.evaluation import evaluate, write_evaluation
  from r2d2_jax.system.metrics.display import progress_display
  from r2d2_jax.system.metrics.report import summary
  from r2d2_jax.system.storage.agents import load_agent
  from r2d2_jax.system.storage.exported import read_exported

  agent = load_agent(run_dir, which=which)
  keep_compiled(agent.config.run.compile_cache_gib)
  config = agent.config.updated(
    {"evaluation.epsilon": epsilon, "evaluation.num_lanes": lanes}
  )
  print(
    f"{config.env.task}: update {agent.num_updates}, step {agent.steps}",
    flush=True,
  )
  with heard_signals() as stop, progress_display(console) as show_line:

    def show_progress(finished: int) -> None:
      # In a file every game would be a line: there, every tenth of them.
      if console.is_terminal or 10 * finished // episodes > (
        10 * (finished - 1) // episodes
      ):
        show_line(f"{finished} of {episodes} games")

    show_progress(0)
    evaluation = evaluate(
      agent.params,
      agent=agent.agent,
      config=config,
      num_episodes=episodes,
      seed=seed,
      should_stop=lambda: stop.asked,
      on_progress=show_progress,
    )
    stop.check()
  print(f"evaluation: {summary(evaluation.returns)}", flush=True)
  if read_exported(run_dir):
    return
  try:
    write_evaluation(
      run_dir, evaluation, num_updates=agent.num_updates, steps=agent.steps
    )
  except OSError as error:
    scores = " ".join(f"{x:.12g}" for x in evaluation.returns)
    raise FileError(
      f"the scores cannot be written ({error}); they are: {scores}"
    ) from error


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    evaluate_runs, prog=program("evaluate"), arguments=arguments
  )


if __name__ == "__main__":
  sys.exit(main())
