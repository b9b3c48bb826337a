"""A stream of rows, and the replays that it is written to, for leg `replay`."""

from collections.abc import Callable, Iterator
import contextlib
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.acting import random_play
from experiments.benchmark.rates import units_per_second
from experiments.benchmark.workload import PONG
from r2d2_jax.config import Config, EnvConfig
from r2d2_jax.envs.make import make_world
from r2d2_jax.replay.items import Item
from r2d2_jax.replay.make import make_replay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.types import ActorOutput, CoreState, EnvSpec, Timestep

# Items that go to the replay in one call: the fewest that the actor loop hands
# over.
INSERT_ITEMS = 16


class Rows(NamedTuple):
  """One row of every lane, as the actor loop has it in hand."""

  timestep: Timestep
  output: ActorOutput


def record(
  timesteps: Iterator[Timestep],
  spec: EnvSpec,
  *,
  rows: int,
  core_units: int,
  frame_stack: int,
) -> list[Rows]:
  """Rows that never begin or end an episode, but for the very first."""
  rng = np.random.default_rng(0)
  earlier = frame_stack - 1  # frames that the state before a row holds
  obs_t = [next(timesteps).obs_t for _ in range(rows + earlier)]
  lanes = len(obs_t[0])
  actions = lambda: rng.integers(0, spec.num_actions, lanes, np.int32)
  floats = lambda *shape: rng.standard_normal((lanes, *shape)).astype(
    np.float32
  )
  recorded = []
  for t in range(rows):
    frames = np.empty((lanes, earlier, *spec.obs_shape), spec.obs_dtype)
    for j in range(earlier):
      frames[:, j] = obs_t[t + j]
    recorded.append(
      Rows(
        Timestep(
          obs_t=obs_t[t + earlier],
          r_t=np.zeros(lanes, np.float32),
          discount_t=np.ones(lanes, np.float32),
          is_first_t=np.full(lanes, t == 0),
          is_last_t=np.zeros(lanes, bool),
          env_id=np.arange(lanes, dtype=np.int32),
        ),
        ActorOutput(
          a_t=actions(),
          a_tm1=actions(),
          q_t=floats(spec.num_actions),
          core_state=CoreState(
            frames, (floats(core_units), floats(core_units))
          ),
        ),
      )
    )
  return recorded


def pong_frames(lanes: int) -> list[Timestep]:
  """Rows of Pong at random, enough for the records of any preset here."""
  env = EnvConfig(task="Pong", num_envs=lanes, full_action_space=False)
  with contextlib.closing(make_world(env, seed=0)) as world:
    return list(itertools.islice(random_play(world), 130))


def record_pong(config: Config, frames: list[Timestep]) -> list[Rows]:
  """As `record`, of `pong_frames` and with the states of a configuration."""
  return record(
    iter(frames),
    PONG,
    rows=120,
    core_units=config.network.core_units,
    frame_stack=config.network.frame_stack,
  )


class Writer:
  """Feeds recorded rows to a builder, and its items to `insert`."""

  def __init__(
    self,
    config: Config,
    spec: EnvSpec,
    recorded: list[Rows],
    insert: Callable[[list[Item], np.ndarray], None],
  ):
    self._lanes = len(recorded[0].timestep.env_id)
    self._stream = itertools.chain(
      recorded, itertools.cycle([_in_the_middle(rows) for rows in recorded])
    )
    self._builder = SequenceBuilder(
      self._lanes,
      spec=spec,
      core_state=recorded[0].output.core_state,
      burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length,
      overlap=config.agent.overlap,
    )
    self._insert = insert
    self._pending: list[Item] = []
    self.num_items = 0

  def step(self) -> int:
    """Writes one row of every lane; returns how many that are."""
    rows = next(self._stream)
    self._pending += self._builder.add(rows.timestep, rows.output)
    while len(self._pending) >= INSERT_ITEMS:
      self._insert(
        self._pending[:INSERT_ITEMS], np.ones(INSERT_ITEMS, np.float32)
      )
      del self._pending[:INSERT_ITEMS]
      self.num_items += INSERT_ITEMS
    return self._lanes

  def write_items(self, count: int) -> int:
    """Writes until that many more items are in; returns the rows it took."""
    goal = self.num_items + count
    rows = 0
    while self.num_items < goal:
      rows += self.step()
    return rows


def _in_the_middle(rows: Rows) -> Rows:
  no = np.zeros_like(rows.timestep.is_first_t)
  return rows._replace(timestep=rows.timestep._replace(is_first_t=no))


def empty_replay(config: Config, spec: EnvSpec) -> Any:
  """An empty replay for states as `record` makes them."""
  frames = np.zeros(
    (1, config.network.frame_stack - 1, *spec.obs_shape), spec.obs_dtype
  )
  lstm = np.zeros((1, config.network.core_units), np.float32)
  return make_replay(config, spec, CoreState(frames, (lstm, lstm)))


def period(config: Config) -> int:
  """Rows from one item of a lane to its next."""
  return config.agent.trace_length - config.agent.overlap


def sampling_rates(
  replay: Any, batch_size: int, batches: int, rounds: int
) -> list[float]:
  """Items per second of so many batches a round."""
  sample = lambda: len(replay.sample(batch_size, timeout_seconds=60.0).keys)
  # What was fetched ahead while nobody sampled came for nothing.
  units_per_second(sample, calls=4)
  return [units_per_second(sample, calls=batches) for _ in range(rounds)]
