"""Evaluates a run's newest checkpoint over whole games.

    python -m experiments.evaluate runs/Pong-laptop-... --episodes 30
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from r2d2_jax.config import ConfigError


def evaluate_run(
    run_dir: Annotated[pathlib.Path, tyro.conf.Positional],
    /,
    episodes: int = 30,
    epsilon: float = 0.001,
    lanes: int = 10,
    seed: int = 1_000_003,
) -> None:
  """Plays whole games with a run's newest checkpoint; scores are raw.

  No-op starts and the frame cap are those of the run's settings. Atari scores are
  also given in per cent of the human's, beside the published ones. The games are
  appended to evaluation.csv in the run's directory.

  Args:
    run_dir: directory that training printed.
    episodes: whole games to play.
    epsilon: chance of a random action at each step; 0 is greedy.
    lanes: environments that play side by side.
    seed: of the games and the random actions.
  """
  # pylint: disable=g-import-not-at-top
  import jax

  from experiments.scores import (
      game_of_task,
      human_normalised,
      published_scores,
  )
  from r2d2_jax.agent.learning import init_learner_state, make_optimizer
  from r2d2_jax.agent.networks import make_networks
  from r2d2_jax.config import validate
  from r2d2_jax.envs.make import make_world
  from r2d2_jax.system.checkpoints import Checkpoints
  from r2d2_jax.system.evaluation import evaluate, write_evaluation
  from r2d2_jax.system.report import summary
  from r2d2_jax.system.rundir import read_config

  if episodes < 1 or lanes < 1:
    raise ConfigError(
        f"expected episodes and lanes of at least 1, got {episodes}, {lanes}"
    )
  config = read_config(run_dir)
  config = dataclasses.replace(
      config,
      run=dataclasses.replace(
          config.run, eval_epsilon=epsilon, eval_lanes=lanes
      ),
  )
  validate(config)
  one_lane = dataclasses.replace(config.env, num_envs=1, batch_size=0)
  world = make_world(one_lane, seed=seed)
  spec = world.spec
  world.close()
  networks = make_networks(spec, config=config.network)
  checkpoints = Checkpoints(run_dir)
  restored = checkpoints.restore(
      init_learner_state(
          jax.random.key(0),
          networks=networks,
          optimizer=make_optimizer(config.agent),
      )
  )
  checkpoints.close()
  if restored is None:
    raise ConfigError(f"{run_dir} holds no checkpoint yet")
  state, counters = restored
  updates = int(state.num_updates)
  print(f"{config.env.task}: update {updates}, step {counters['steps']}")
  evaluation = evaluate(
      state.params,
      networks=networks,
      config=config,
      num_episodes=episodes,
      seed=seed,
  )
  write_evaluation(run_dir, evaluation, num_updates=updates)
  print(f"evaluation: {summary(evaluation.returns)}")
  if game := game_of_task(config.env.task):
    score = float(evaluation.returns.mean())
    print(f"human-normalised: {human_normalised(game, score):.1f} %")
    for name, value in published_scores()[game].items():
      print(
          f"  {name:15} {value:12.1f} {human_normalised(game, value):9.1f} %"
      )


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  try:
    tyro.cli(
        evaluate_run, args=arguments, prog="python -m experiments.evaluate"
    )
  # ValueError, ImportError: what the world says of the run's settings;
  # RuntimeError: a checkpoint that cannot be read.
  except (ValueError, ImportError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
