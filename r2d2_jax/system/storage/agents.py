"""A trained agent, read from its directory."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.agent.agent import (
  Agent,
  MakeAgent,
  own_agent,
)
from r2d2_jax.agent.agent import (
  make_agent as make_usual_agent,
)
from r2d2_jax.agent.targets import unrescaled
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.make import MakeWorld, own_world, world_spec
from r2d2_jax.parts import join_parts
from r2d2_jax.system.devices import find_devices
from r2d2_jax.system.storage.checkpoints import (
  SavedCheckpoint,
  list_checkpoints,
  read_record,
  restore_learner,
)
from r2d2_jax.system.storage.exported import read_exported, read_params
from r2d2_jax.system.storage.hub import fetched
from r2d2_jax.system.storage.rundir import (
  best_dir,
  checkpoints_dir,
  read_config,
)
from r2d2_jax.types import (
  ActorState,
  Array,
  EnvSpec,
  LearnerState,
  ObsPart,
  Params,
  Timestep,
)


@dataclasses.dataclass(frozen=True)
class SavedAgent:
  """A trained agent: its parameters, and steps of it for other programs.

  Greedy steps of an agent with values; one with a policy draws from it.

  agent = load_agent("pretrained/recall")
  state = agent.initial_state(1)
  action, q, state = agent.step(state, obs, reward, is_first)
  """

  config: Config  # the run's
  spec: EnvSpec
  agent: Agent
  params: Params
  num_updates: int
  steps: int  # agent steps that it was trained for

  def initial_state(self, n: int = 1) -> ActorState:
    """What n lanes remember before their first row: nothing."""
    return self.agent.initial_actor_state(jax.random.key(0), n)

  def step(
    self,
    state: ActorState,
    obs: Any,
    reward: Any,
    is_first: Any,
    action_mask: Any = None,
  ) -> tuple[np.ndarray, np.ndarray, ActorState]:
    """The action for the next row of n lanes.

    The state holds what was seen so far, and the action that was chosen: that
    one has to be taken before the next call. The call keeps the given state as
    it is. The first call for a number of lanes compiles.

    Args:
      state: from `initial_state(n)`, or from the call before.
      obs: [n, *spec.obs_shape] of spec.obs_dtype, one observation for each lane
        as the training's environments gave it, without a frame stack. Where
        they have several parts, an array [n, *part.shape] for each of
        spec.obs_parts, in a tuple.
      reward: float [n], or one number for all: what the last action brought;
        ignored where is_first.
      is_first: bool [n], or one for all: an episode begins with this row, and
        what was before it is forgotten.
      action_mask: bool [n, A], the actions that may be taken, at least one of
        each lane, where spec.action_mask says that the training's environments
        gave it; else None.

    Returns:
      action: int32 [n], the greedy one; of a policy, one drawn from it.
      q: float32 [n, A], the value of each action in the unit of the rewards,
        -infinity where it may not be taken; of a policy, its log-probabilities.
      state: for the next call.

    Raises:
      ValueError: obs is not of that shape, or of a type that does not fit;
        action_mask is missing, of another shape or without any action.
    """
    n = len(state.a_tm1)
    if parts := self.spec.obs_parts:
      if not isinstance(obs, tuple | list) or len(obs) != len(parts):
        raise ValueError(
          f"obs: expected a tuple of {len(parts)} arrays, spec.obs_parts of the"
          f" agent, got {type(obs).__name__}"
        )
      obs = join_parts(
        [_as_observed(x, n, part) for x, part in zip(obs, parts, strict=True)]
      )
    else:
      obs = _as_observed(obs, n, ObsPart(*self.spec[:2]))
    mask = None if action_mask is None else np.asarray(action_mask, bool)
    self._check_mask(mask, n)
    action, q, state = self._step(
      self.params,
      state,
      obs,
      np.broadcast_to(np.asarray(reward, np.float32), n),
      np.broadcast_to(np.asarray(is_first, bool), n),
      mask,
    )
    return np.asarray(action), np.asarray(q), state

  def _check_mask(self, mask: np.ndarray | None, n: int) -> None:
    expected = (n, self.spec.num_actions) if self.spec.action_mask else None
    found = None if mask is None else mask.shape
    if found != expected:
      raise ValueError(
        f"action_mask: expected {expected or 'none'}, as spec.action_mask of"
        f" the agent says, got {found}"
      )
    if mask is not None and not mask.any(axis=1).all():
      raise ValueError(
        "action_mask: expected an action that may be taken in each lane, got"
        f" none in lane {np.argmin(mask.any(axis=1))}"
      )

  @functools.cached_property
  def _step(self):
    def step(
      params: Params,
      state: ActorState,
      obs: Array,
      reward: Array,
      first: Array,
      mask: Array | None,
    ) -> tuple[Array, Array, ActorState]:
      n = len(state.a_tm1)
      timestep = Timestep(
        obs_t=obs,
        r_t=reward,
        discount_t=jnp.ones(n, jnp.float32),
        is_first_t=first,
        is_last_t=jnp.zeros(n, bool),
        env_id=jnp.arange(n, dtype=jnp.int32),
        action_mask_t=mask,
      )
      greedy = jnp.zeros(n, jnp.float32)
      state, output = self.agent.actor_step(params, state, timestep, greedy)
      q = unrescaled(output.q_t, config=self.config.agent)
      if mask is not None:
        q = jnp.where(mask, q, -jnp.inf)
      return output.a_t, q, state

    return jax.jit(step)


def _as_observed(obs: Any, n: int, part: ObsPart) -> np.ndarray:
  """An array of one observation for each of n lanes, in its own type."""
  obs, expected = np.asarray(obs), (n, *part.shape)
  if obs.shape != expected or not np.can_cast(
    obs.dtype, part.dtype, "same_kind"
  ):
    raise ValueError(
      f"obs: expected {np.dtype(part.dtype)} {list(expected)}, an observation"
      f" for each lane of the state, got {obs.dtype} {list(obs.shape)}"
    )
  return obs.astype(part.dtype)


def load_agent(
  run_dir: str | pathlib.Path,
  *,
  which: str = "latest",
  make_world: MakeWorld | None = None,
  make_agent: MakeAgent | None = None,
) -> SavedAgent:
  """Reads an agent; the run may still be going on.

  A run's world is asked what it looks like, so that EnvPool's tasks need
  EnvPool. An exported agent needs nothing but its folder.

  Args:
    run_dir: directory of a run, or of an exported agent; or "hub:owner/name",
      an exported agent on the Hugging Face Hub, which is fetched (the extra
      'hub').
    which: "latest"; "best", the one with the highest mean return of the
      evaluations during training; or a number of updates.
    make_world, make_agent: those that the run was given, where no import path
      in its settings leads to them.

  Raises:
    ConfigError: no run there, no such checkpoint, or not the device that
      JAX_PLATFORMS asks for.
    CheckpointError: it cannot be read.
    MissingPackageError, HubError: see `hub.fetched`.
  """
  run_dir = fetched(run_dir)
  config = read_config(run_dir)
  make = own_agent(make_agent) if make_agent else make_usual_agent
  if exported := read_exported(run_dir):
    if which not in ("latest", str(exported.num_updates)):
      raise ConfigError(
        f"checkpoint: expected 'latest', as {run_dir} holds an exported agent,"
        f" got {which!r}"
      )
    find_devices()
    agent = make(exported.spec, config)
    like = jax.eval_shape(agent.init, jax.random.key(0)).params
    return SavedAgent(
      config,
      exported.spec,
      agent,
      read_params(exported, like),
      exported.num_updates,
      exported.steps,
    )
  checkpoint = _find(run_dir, which)
  read_record(checkpoint)  # that it is what its name says
  find_devices()
  spec = world_spec(config.env, own_world(make_world) if make_world else None)
  agent = make(spec, config)
  state = load_learner(checkpoint, agent)
  return SavedAgent(
    config,
    spec,
    agent,
    state.params,
    checkpoint.num_updates,
    checkpoint.steps,
  )


def load_learner(checkpoint: SavedCheckpoint, agent: Agent) -> LearnerState:
  """The learner's state of a checkpoint.

  Raises:
    CheckpointError: it belongs to other settings, or cannot be read.
  """
  return restore_learner(
    checkpoint, jax.eval_shape(agent.init, jax.random.key(0))
  )


def _find(run_dir: pathlib.Path, which: str) -> SavedCheckpoint:
  saved = list_checkpoints(checkpoints_dir(run_dir))
  best = list_checkpoints(best_dir(run_dir))
  if which == "latest":
    found = saved
  elif which == "best":
    found = best
  else:
    found = [c for c in best + saved if str(c.num_updates) == which]
  if not found:
    there = ["latest"] * bool(saved) + ["best"] * bool(best)
    there += [str(c.num_updates) for c in saved]
    raise ConfigError(
      f"checkpoint: expected one of {', '.join(there) or 'none so far'} in"
      f" {run_dir}, got {which!r}"
    )
  return found[-1]
