"""Evaluation: whole games, in worlds and states of its own."""

from collections.abc import Callable
import dataclasses
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.acting import compile_actor
from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config, FileError
from r2d2_jax.envs.make import MakeWorld
from r2d2_jax.envs.make import make_world as make_usual_world
from r2d2_jax.envs.rows import check_rows
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.system.storage.csv_log import RunLog, read_log
from r2d2_jax.types import Array, Params

_FILE = "evaluation.csv"


class Evaluation(NamedTuple):
  """The games played, in order of their lanes."""

  episodes: list[EpisodeReport]

  @property
  def returns(self) -> np.ndarray:
    """Raw undiscounted whole-game returns, float64 [episodes]."""
    return np.array([e.episode_return for e in self.episodes])


class Player(NamedTuple):
  """Something that plays: how its lanes begin, and a step of them."""

  init: Callable[[Array, int], Any]  # key, lanes -> the state of all lanes
  step: Callable[..., tuple[Any, Any]]  # as `compile_actor`; its output has a_t


def ordinary_player(agent: Agent) -> Player:
  """Acts as training's actors do."""
  return Player(agent.initial_actor_state, compile_actor(agent.actor_step))


def evaluate(
  params: Params,
  *,
  agent: Agent,
  config: Config,
  num_episodes: int,
  seed: int,
  should_stop: Callable[[], bool] = lambda: False,
  on_progress: Callable[[int], None] = lambda finished: None,
  player: Player | None = None,
  on_rows: Callable[[Any, np.ndarray], None] = lambda output, scored: None,
  make_world: MakeWorld = make_usual_world,
) -> Evaluation:
  """Plays whole games with `evaluation.epsilon`, scored raw.

  Every lane has its share of the games beforehand, so that short games are not
  over-represented, and plays them to their end (game over or the frame cap).
  No-op starts are those of the task's settings; the loss of a life never ends a
  game here. Nothing of the training's state is touched.

  Args:
    params: of the network to be judged.
    agent: whose they are.
    config: the run's settings; sections env and evaluation are read.
    num_episodes: how many games; where the lanes do not divide them, the first
      lanes play one more.
    seed: of the worlds and of the random actions.
    should_stop: asked at every step; True ends the evaluation early.
    on_progress: told how many of the games have ended, when one has.
    player: who plays; None for `ordinary_player`.
    on_rows: given the player's output for each step's rows, and which of them
      decide something in a game that is scored, bool [lanes]: a game's last row
      does not, nor does a game beyond its lane's share.
    make_world: as `envs.make.make_world`.

  Returns:
    The games; fewer than num_episodes only if stopped early.

  Raises:
    BadRowsError: the world gave rows that cannot be used, see `check_rows`.
  """
  lanes = min(config.evaluation.num_lanes, num_episodes)
  share = [len(range(lane, num_episodes, lanes)) for lane in range(lanes)]
  world = make_world(
    dataclasses.replace(
      config.env, num_envs=lanes, batch_size=0, life_loss="ignore"
    ),
    seed=seed,
  )
  try:
    player = player or ordinary_player(agent)
    state = player.init(jax.random.key(seed), lanes)
    epsilon = np.full(lanes, config.evaluation.epsilon, np.float32)
    played: list[list[EpisodeReport]] = [[] for _ in range(lanes)]
    world.reset()
    while sum(map(len, played)) < num_episodes and not should_stop():
      timestep = world.recv()
      check_rows(timestep, spec=world.spec, task=config.env.task)
      state, output = player.step(params, state, timestep, epsilon)
      scored = [len(played[lane]) < share[lane] for lane in timestep.env_id]
      on_rows(output, np.array(scored) & ~timestep.is_last_t)
      world.send(np.asarray(output.a_t), timestep.env_id)
      for episode in world.pop_episodes():
        if len(played[episode.env_id]) < share[episode.env_id]:
          played[episode.env_id].append(episode)
          on_progress(sum(map(len, played)))
  finally:
    world.close()
  return Evaluation([episode for lane in played for episode in lane])


def open_evaluations(run_dir: pathlib.Path) -> RunLog:
  """The run's evaluation.csv."""
  return RunLog(run_dir / _FILE)


def check_writable(run_dir: pathlib.Path) -> None:
  """Raises FileError where `write_evaluation` cannot write; changes nothing."""
  path = run_dir / _FILE
  try:
    if path.exists():
      path.open("ab").close()
    else:
      tempfile.TemporaryFile(dir=run_dir).close()
  except OSError as error:
    raise FileError(
      f"{path} cannot be written: {error.strerror or error}"
    ) from error


def write_evaluation(
  run_dir: pathlib.Path,
  evaluation: Evaluation,
  *,
  num_updates: int,
  steps: int,
) -> None:
  """Appends the games to the run's evaluation.csv, a row each: all or none.

  Args:
    run_dir: directory of the run.
    evaluation: its games.
    num_updates: of the parameters that played.
    steps: agent steps that these were trained for.

  Raises:
    FileError: evaluation.csv is no CSV.
    OSError: it cannot be written.
  """
  open_evaluations(run_dir).write_all(
    [
      {
        "updates": num_updates,
        "steps": steps,
        "game": game,
        # As text, for all its digits: scores go into the millions.
        "return": f"{episode.episode_return:.12g}",
        "frames": episode.episode_frames,
        "truncated": int(episode.truncated),
      }
      for game, episode in enumerate(evaluation.episodes)
    ]
  )


class PastEvaluation(NamedTuple):
  """One evaluation, read back."""

  num_updates: int  # of the parameters that played
  returns: np.ndarray  # raw whole-game returns, float64 [episodes]


def read_last_evaluation(
  run_dir: pathlib.Path, *, num_updates: int | None = None
) -> PastEvaluation | None:
  """The evaluation that was written last; None if there was none yet.

  Args:
    run_dir: directory of a run.
    num_updates: of the parameters that played; None for any.

  Raises:
    FileError: evaluation.csv does not hold what `write_evaluation` writes.
  """
  path = run_dir / _FILE
  log = read_log(path) if path.exists() else {}
  if not log:
    return None
  if not {"updates", "game", "return"} <= set(log):
    raise FileError(
      f"{path}: expected columns updates, game and return, got {list(log)}"
    )
  updates = np.array(log["updates"])
  asked = updates == (updates if num_updates is None else num_updates)
  # NaN, as what is damaged is read, differs from itself: not to be left out.
  asked |= np.isnan(updates)
  if not asked.any():
    return None
  games, returns, updates = (
    np.array(log[name])[asked] for name in ("game", "return", "updates")
  )
  # Each evaluation counts its games from 0.
  (starts,) = np.nonzero(games == 0)
  last = starts[-1] if starts.size else 0
  numbers = np.append(returns[last:], updates[last])
  if not starts.size or not np.isfinite(numbers).all():
    raise FileError(f"{path}: damaged; mend or remove it, evaluate again")
  return PastEvaluation(int(updates[last]), returns[last:])
