"""The actor loop: world -> actor_step -> world and replay."""

from collections.abc import Callable
import threading
from typing import NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.acting import compile_actor, exploration
from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config
from r2d2_jax.envs.rows import check_rows
from r2d2_jax.envs.world import EpisodeReport, RestorableWorld, World
from r2d2_jax.replay.items import Item, stack_items
from r2d2_jax.replay.packing import pack_items, unpack_items
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.system.loops.arrays import (
  fetched,
  flat,
  nested,
  tree_from_arrays,
  tree_to_arrays,
)
from r2d2_jax.system.loops.parameters import Source
from r2d2_jax.system.loops.timing import LegTimer
from r2d2_jax.system.metrics.probe import Probe
from r2d2_jax.types import ActorOutput, Timestep

# Items whose first priorities are computed in one call: as many as lanes,
# within these bounds. Few enough not to delay them, enough that the call costs
# little.
_PRIORITY_BATCH = (16, 64)


class _Acted(NamedTuple):
  """Rows that were acted on and are not stored yet."""

  timestep: Timestep
  output: ActorOutput  # on the device
  num_updates: int
  step: int


class ActorLoop:
  """Steps all lanes and hands finished items to replay; one call, one step."""

  def __init__(
    self,
    config: Config,
    *,
    world: World,
    agent: Agent,
    parameters: Source,
    insert: Callable[[list[Item], np.ndarray], None],
    key: jax.Array,
    count_steps: Callable[[], int] = lambda: 0,
    probe: Probe | None = None,
    lanes: np.ndarray | None = None,
    num_lanes: int = 0,
  ):
    """Starts the world's lanes.

    Args:
      config: the run's settings.
      world: fresh from `make_world`.
      agent: who acts.
      parameters: where the learner publishes; read every
        `run.actor_refresh_steps` steps of a lane.
      insert: takes items and their priorities, float32, before the exponent.
      key: of all exploration.
      count_steps: the run's environment steps so far, stored with each row.
      probe: looks on.
      lanes: int [N], where these are some of a run's lanes: their numbers in
        the run, which say how much each explores and under what name its rows
        are stored. None where they are all of them.
      num_lanes: with lanes: how many the run has.
    """
    self._task = config.env.task
    self._world = world
    self._parameters = parameters
    self._insert = insert
    self._count_steps = count_steps
    self._probe = probe
    self.timer = LegTimer()
    self._exploration = exploration(
      num_lanes or world.num_envs, config=config.agent, lanes=lanes
    )
    # float32 [N], of the run's end.
    self.epsilon = np.asarray(self._exploration(config.run.total_steps))
    self._actor = compile_actor(agent.actor_step)
    self._state = agent.initial_actor_state(key, world.num_envs)
    # The state is donated to the next step: nobody may look at it meanwhile.
    self._state_lock = threading.Lock()
    self._priorities = None
    if initial_priorities := agent.initial_priorities:
      self._priorities = jax.jit(
        lambda rows: initial_priorities(
          rows.q_t, rows.a_t, rows.r_t, rows.discount_t, rows.valid_t
        )
      )
    self._core_state = jax.device_get(agent.initial_core_state(1))
    self._builder = SequenceBuilder(
      world.num_envs,
      spec=world.spec,
      core_state=self._core_state,
      burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length,
      overlap=config.agent.overlap,
      lookahead_rows=config.agent.lookahead_rows,
      lane_ids=lanes,
      row_states=config.replay.row_states,
      log_prob=config.agent.has_policy,
    )
    low, high = _PRIORITY_BATCH
    self._priority_batch = max(low, min(world.num_envs, high))
    self._pending: list[Item] = []
    # Where lanes take turns, these step while the others' rows are acted on:
    # what the bookkeeping had better hide behind is then the inference.
    self._is_late = world.batch_size < world.num_envs
    self._held: _Acted | None = None
    self._refresh_calls = max(
      1, config.run.actor_refresh_steps * world.num_envs // world.batch_size
    )
    self._num_calls = 0
    self._params, self._num_updates = parameters.latest()
    world.reset()

  def step(self) -> tuple[int, list[EpisodeReport]]:
    """Receives rows, acts, sends actions, stores what is complete.

    Where lanes take turns, what is stored are the rows of the step before,
    while the device acts on these.

    Returns:
      The environment steps that these rows completed (the first row of an
      episode completes none), and the episodes that ended.

    Raises:
      BadRowsError: the world gave rows that cannot be used, see `check_rows`;
        nothing of them was stored.
    """
    leg = self.timer.leg
    if self._num_calls % self._refresh_calls == 0:
      self._params, self._num_updates = self._parameters.latest()
    self._num_calls += 1
    with leg("environment"):
      timestep = self._world.recv()
    with leg("inference"):
      check_rows(timestep, spec=self._world.spec, task=self._task)
      with self._state_lock:
        self._state, output = self._actor(
          self._params,
          self._state,
          timestep,
          self._exploration(self._count_steps()),
        )
    if self._held is not None:
      self._store(self._held)
    with leg("inference"):
      a_t = np.asarray(output.a_t)
    with leg("environment"):
      # Sent before the bookkeeping: the lanes step while it is done.
      self._world.send(a_t, timestep.env_id)
    acted = _Acted(timestep, output, self._num_updates, self._count_steps())
    if self._is_late:
      self._held = acted
    else:
      self._store(acted)
    completed = np.logical_or(~timestep.is_first_t, timestep.is_last_t)
    return int(np.count_nonzero(completed)), self._world.pop_episodes()

  def _store(self, acted: "_Acted") -> None:
    """Cuts the rows into items, and hands over those that are complete."""
    with self.timer.leg("write"):
      reads = self._builder.reads_state(acted.timestep)
      if self._probe is not None:
        reads |= self._probe.reads_state(acted.timestep)
      output = fetched(acted.output, np.flatnonzero(reads))
      self._pending += self._builder.add(
        acted.timestep,
        output,
        num_updates=acted.num_updates,
        step=acted.step,
      )
      if self._probe is not None:
        self._probe.add(acted.timestep, output)
      self._insert_pending()

  def lane_state_dict(self) -> dict[str, np.ndarray]:
    """Keys and recurrent states of the lanes; safe from any thread."""
    with self._state_lock:
      return tree_to_arrays(self._state)

  def load_lane_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `lane_state_dict`.

    The worlds begin new games, which start from the null state: what goes on is
    the exploration's random numbers.

    Raises:
      ValueError: the state is of other lanes or another network.
    """
    self._state = tree_from_arrays(state, like=self._state)

  def state_dict(self) -> dict[str, np.ndarray]:
    """All but the lanes, so that the next step is the one that would have come.

    To be taken between steps, of a `RestorableWorld`.
    """
    parts = {
      "params": tree_to_arrays(self._params),
      "sequences": self._builder.state_dict(),
      "pending": pack_items(self._pending),
      "world": self._restorable_world().state_dict(),
      "counts": {
        "calls": np.array(self._num_calls),
        "updates": np.array(self._num_updates),
      },
    }
    return flat(parts)

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`, before the first step.

    Raises:
      ValueError: the state is of another configuration, or the world cannot be
        brought back.
    """
    parts = nested(state)
    self._num_calls = int(parts["counts"]["calls"])
    self._params = tree_from_arrays(
      parts["params"], like=self._parameters.latest().params
    )
    self._num_updates = int(parts["counts"]["updates"])
    self._builder.load_state_dict(parts["sequences"])
    self._pending = unpack_items(parts["pending"], self._core_state)
    self._restorable_world().load_state_dict(parts["world"])

  def _restorable_world(self) -> RestorableWorld:
    assert isinstance(self._world, RestorableWorld)
    return self._world

  def _insert_pending(self) -> None:
    """Hands over whole batches; to a queue, without priorities, at once."""
    if self._priorities is None:
      if self._pending:
        self._insert(self._pending, np.ones(len(self._pending), np.float32))
        self._pending = []
      return
    while len(self._pending) >= self._priority_batch:
      items = self._pending[: self._priority_batch]
      del self._pending[: self._priority_batch]
      self._insert(items, np.asarray(self._priorities(stack_items(items))))
