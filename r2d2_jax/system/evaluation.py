"""Evaluation: whole games, in worlds and states of its own."""

import dataclasses
import pathlib
from typing import Callable, NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.acting import init_actor_state, make_actor
from r2d2_jax.agent.networks import Networks
from r2d2_jax.config import Config
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.system.runlog import RunLog
from r2d2_jax.types import Params


class Evaluation(NamedTuple):
  """The games played, in order of their lanes."""

  episodes: list[EpisodeReport]

  @property
  def returns(self) -> np.ndarray:
    """Raw undiscounted whole-game returns, float64 [episodes]."""
    return np.array([e.episode_return for e in self.episodes])


def evaluate(
    params: Params,
    *,
    networks: Networks,
    config: Config,
    num_episodes: int,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
  """Plays whole games with `run.eval_epsilon`, scored raw.

  Every lane plays the same number of games, so that short games are not
  over-represented, and plays them to their end (game over or the frame cap).
  No-op starts are those of the task's settings; the loss of a life never ends a
  game here. Nothing of the training's state is touched.

  Args:
    params: of the network to be judged.
    networks: from `make_networks`.
    config: the run's settings; env and run.eval_* are read.
    num_episodes: how many games; the lanes play a multiple of their number and
      the last games of the last lanes are left out.
    seed: of the worlds and of the random actions.
    should_stop: asked at every step; True ends the evaluation early.

  Returns:
    The games; fewer than num_episodes only if stopped early.
  """
  lanes = min(config.run.eval_lanes, num_episodes)
  games_per_lane = -(-num_episodes // lanes)
  world = make_world(
      dataclasses.replace(
          config.env, num_envs=lanes, batch_size=0, life_loss="ignore"
      ),
      seed=seed,
  )
  try:
    actor = make_actor(networks=networks)
    state = init_actor_state(jax.random.key(seed), lanes, networks=networks)
    epsilon = np.full(lanes, config.run.eval_epsilon, np.float32)
    played: list[list[EpisodeReport]] = [[] for _ in range(lanes)]
    world.reset()
    while min(map(len, played)) < games_per_lane and not should_stop():
      timestep = world.recv()
      state, output = actor(params, state, timestep, epsilon)
      world.send(np.asarray(output.a_t), timestep.env_id)
      for episode in world.pop_episodes():
        played[episode.env_id].append(episode)
  finally:
    world.close()
  episodes = [e for lane in played for e in lane[:games_per_lane]]
  return Evaluation(episodes[:num_episodes])


def write_evaluation(
    run_dir: pathlib.Path, evaluation: Evaluation, *, num_updates: int
) -> None:
  """Appends the games to the run's evaluation.csv, a row each."""
  log = RunLog(run_dir / "evaluation.csv")
  for game, episode in enumerate(evaluation.episodes):
    log.write({
        "updates": num_updates,
        "game": game,
        "return": episode.episode_return,
        "frames": episode.episode_frames,
        "truncated": int(episode.truncated),
    })
