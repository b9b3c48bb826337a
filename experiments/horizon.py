"""Whole games with a memory of the last k rows alone, and what that changes."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.agent.diagnostics import (
  compare_q,
  init_horizon_state,
  make_horizon_actor,
)
from r2d2_jax.agent.networks import Networks
from r2d2_jax.config import Config, NetworkConfig
from r2d2_jax.envs.make import MakeWorld
from r2d2_jax.envs.make import make_world as make_usual_world
from r2d2_jax.system.evaluation import Evaluation, Player, evaluate
from r2d2_jax.types import Params

# Floats that the compiled step was measured to need beside the states, for each
# LSTM: 9 per unit of the core, and then, those being free again, 2 per unit of
# the heads (k = 64 and 1024, 256 and 512 units). Other cores are taken for
# LSTMs.
_PER_CORE_UNIT, _PER_HEAD_UNIT = 9, 2
_FLOAT_BYTES = 4


def horizon_bytes(horizon: int, *, lanes: int, config: NetworkConfig) -> int:
  """Memory that acting with this horizon takes: mostly k + 2 carries a lane."""
  if config.core == "feedforward":
    return 0
  floats = 2 * config.core_units + max(
    _PER_CORE_UNIT * config.core_units, _PER_HEAD_UNIT * config.head_units
  )
  return _FLOAT_BYTES * lanes * (horizon + 2) * floats


class HorizonGames(NamedTuple):
  """What was played with one horizon; means are over all rows of the games."""

  evaluation: Evaluation
  rows: int  # in which an action was decided
  max_q_gap: float  # mean, rescaled unit; see `compare_q`
  max_q: float  # mean |max_a q| with the whole memory, to relate the gap to
  same_greedy: float  # share of the rows, 0 to 1


def play_with_horizon(
  params: Params,
  *,
  agent: Agent,
  config: Config,
  horizon: int | None,
  num_episodes: int,
  seed: int,
  on_progress: Callable[[int], None] = lambda finished: None,
  make_world: MakeWorld = make_usual_world,
) -> HorizonGames:
  """Plays whole games on the values of a short memory, as `evaluate` does.

  The agent acts on these values, so that it meets the states that they lead to;
  there they are compared with those of the whole episode's memory. With a
  horizon as long as the game, and with None, the games are evaluation's own.

  Source: section 5, figure 5 (see `horizon_actor_step`).

  Args:
    params: of the network to be judged.
    agent: whose they are.
    config: the run's settings; env and run.eval_* are read.
    horizon: k >= 0, rows remembered beside the current one; None for all.
    num_episodes: how many games.
    seed: of the worlds and of the random actions.
    on_progress: told how many of the games have ended, when one has.
    make_world: as `envs.make.make_world`.
  """
  sums = np.zeros(4)
  compare = jax.jit(compare_q)

  def on_rows(output: Any, scored: np.ndarray) -> None:
    # Without a horizon it is an ordinary actor's output.
    q_full = output.q_t if horizon is None else output.q_full
    gap, same = compare(q_full, output.q_t)
    max_q = np.abs(np.asarray(q_full).max(axis=-1))
    rows = np.stack([np.ones_like(max_q), gap, max_q, same])
    sums[:] += rows[:, scored].sum(axis=1, dtype=np.float64)

  evaluation = evaluate(
    params,
    agent=agent,
    config=config,
    num_episodes=num_episodes,
    seed=seed,
    on_progress=on_progress,
    player=None if horizon is None else _player(horizon, agent.networks),
    on_rows=on_rows,
    make_world=make_world,
  )
  rows, *totals = sums
  return HorizonGames(evaluation, int(rows), *(float(x / rows) for x in totals))


def _player(horizon: int, networks: Networks) -> Player:
  return Player(
    functools.partial(init_horizon_state, horizon=horizon, networks=networks),
    make_horizon_actor(horizon=horizon, networks=networks),
  )
