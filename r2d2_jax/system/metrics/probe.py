"""The recurrent states' health in a running training: dQ on a few items.

Ordinary runs store a recurrent state once per item. dQ needs it at the first
and the last trained row; so the probe assembles the items of a few lanes a
second time, with the state of every row, and keeps some of them as long as the
replay would. Runs with `replay.row_states` measure on what the learner samples
instead.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.agent.diagnostics import first_and_last_row
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.system.storage.checkpoints import CheckpointError
from r2d2_jax.types import (
  ActorOutput,
  CoreState,
  EnvSpec,
  Params,
  Sequence,
  Timestep,
)

# Items that the probe keeps, each with the core's carry of every row.
PROBE_ITEMS = 32
_COLUMNS = ("dq_first", "dq_last")
_LANES = 4
# Items of one measurement: about an eighth of a small learner step's work.
_BATCH = 16


class Probe:
  """Watches a few lanes, evenly spread over the exploration ladder."""

  def __init__(
    self,
    config: Config,
    spec: EnvSpec,
    core_state: CoreState,
    *,
    agent: Agent,
    restore_from: pathlib.Path | None = None,
  ):
    """See the class.

    Args:
      config: the run's settings.
      spec: of the world.
      core_state: an example with one leading dimension (numpy).
      agent: whose states are looked at; one without `q_discrepancy` is not.
      restore_from: directory of a `save`.

    Raises:
      CheckpointError: what is in `restore_from` is not whole, or does not fit.
    """
    num_envs = config.env.num_envs
    num_lanes = min(_LANES, num_envs)
    self._lanes = (2 * np.arange(num_lanes) + 1) * num_envs // (2 * num_lanes)
    # Of the items that these lanes give while one stays in the replay, as many
    # are kept as there is room for.
    lifetime = config.replay.capacity_sequences * num_lanes // num_envs
    self._keep_every = max(1, lifetime // PROBE_ITEMS)
    self._num_items = 0
    self._builder = SequenceBuilder(
      num_lanes,
      spec=spec,
      core_state=core_state,
      burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length,
      overlap=config.agent.overlap,
      lookahead_rows=config.agent.lookahead_rows,
      lane_ids=self._lanes,
      row_states=True,
      log_prob=config.agent.has_policy,
    )
    try:
      self._memory = LocalReplay(
        config.updated(
          {
            "replay.capacity_sequences": PROBE_ITEMS,
            "replay.row_states": True,
            "replay.order": "priority",
          }
        ),
        spec,
        core_state,
        seed=config.run.seed,
        restore_from=restore_from,
      )
    except ReplayError as error:
      raise CheckpointError(str(error)) from error
    self._is_on = agent.q_discrepancy is not None
    self._measure = jax.jit(
      functools.partial(_dq, agent=agent, config=config.agent)
    )

  def reads_state(self, timestep: Timestep) -> np.ndarray:
    """Of which of these rows `add` will read the recurrent state: bool [B]."""
    if not self._is_on:
      return np.zeros(timestep.env_id.shape, np.bool_)
    place = np.searchsorted(self._lanes, timestep.env_id)
    return self._lanes[place % len(self._lanes)] == timestep.env_id

  def add(self, timestep: Timestep, output: ActorOutput) -> None:
    """Takes what the actors just did (numpy), as `SequenceBuilder.add`."""
    mine = self.reads_state(timestep)
    if not mine.any():
      return
    place = np.searchsorted(self._lanes, timestep.env_id)
    pick = lambda x: x[mine]
    items = self._builder.add(
      jax.tree.map(pick, timestep)._replace(
        env_id=place[mine].astype(np.int32)
      ),
      jax.tree.map(pick, output),
    )
    for item in items:
      if self._num_items % self._keep_every == 0:
        self._memory.insert([item], np.ones(1))
      self._num_items += 1

  def measure(self, params: Params) -> dict[str, float]:
    """dq_first and dq_last: medians over some of the items; NaN before any."""
    if not self._is_on or not self._memory.size():
      return dict.fromkeys(_COLUMNS, float("nan"))
    sample = self._memory.sample(_BATCH, timeout_seconds=0.0)
    return self.measure_on(params, sample.sequence, sample.row_carry)

  def measure_on(
    self, params: Params, sequence: Sequence, row_carry: Any
  ) -> dict[str, float]:
    """The same over a batch that has the state of every row.

    Measured on the device of the parameters, wherever the batch is: the learner
    may have split it over several.
    """
    device = jax.tree.leaves(params)[0].sharding
    sequence, row_carry = jax.device_put((sequence, row_carry), device)
    dq, mask = jax.device_get(self._measure(params, sequence, row_carry))
    return {
      name: float(np.median(dq[mask[:, i], i])) if mask[:, i].any() else np.nan
      for i, name in enumerate(_COLUMNS)
    }

  def state_dict(self) -> dict[str, np.ndarray]:
    """All but the items, which `save` writes."""
    return {"seen": np.array(self._num_items), **self._builder.state_dict()}

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`."""
    self._num_items = int(state["seen"])
    self._builder.load_state_dict(state)

  def save(self, directory: pathlib.Path) -> None:
    """Writes the items."""
    self._memory.save(directory)


def _dq(params, sequence, row_carry, *, agent, config):
  rows = first_and_last_row(sequence.valid_t, config=config)
  dq, mask = agent.q_discrepancy(params, sequence, row_carry, rows)
  # An episode's first row has the null state on both sides: 0 says nothing
  # there.
  is_first = jnp.take_along_axis(sequence.inputs.is_first_t, rows, axis=1)
  return dq, mask & ~is_first
