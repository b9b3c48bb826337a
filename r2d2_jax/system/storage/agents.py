"""A trained agent, read from its run's directory: for evaluation, video, notebooks."""

import pathlib
from typing import NamedTuple

import jax

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.envs.make import world_spec
from r2d2_jax.system.storage.checkpoints import (
    SavedCheckpoint,
    list_checkpoints,
    read_record,
    restore_learner,
)
from r2d2_jax.system.devices import find_devices
from r2d2_jax.system.storage.rundir import best_dir, checkpoints_dir, read_config
from r2d2_jax.types import EnvSpec, LearnerState, Params


class SavedAgent(NamedTuple):
  """What is needed to play."""

  config: Config  # the run's
  spec: EnvSpec
  networks: Networks
  params: Params
  num_updates: int
  steps: int  # agent steps that it was trained for


def load_agent(run_dir: pathlib.Path, *, which: str = "latest") -> SavedAgent:
  """Reads an agent; the run may still be going on.

  Args:
    run_dir: directory of a run.
    which: "latest"; "best", the one with the highest mean return of the
      evaluations during training; or a number of updates.

  Raises:
    ConfigError: no run there, no such checkpoint, or not the device that
      JAX_PLATFORMS asks for.
    CheckpointError: it cannot be read.
  """
  config = read_config(run_dir)
  checkpoint = _find(run_dir, which)
  read_record(checkpoint)  # that it is what its name says
  find_devices()
  spec, networks, state = load_learner(config, checkpoint)
  return SavedAgent(
      config,
      spec,
      networks,
      state.params,
      checkpoint.num_updates,
      checkpoint.steps,
  )


def load_learner(
    config: Config, checkpoint: SavedCheckpoint
) -> tuple[EnvSpec, Networks, LearnerState]:
  """The learner of a checkpoint, and what it was learning for.

  Raises:
    CheckpointError: it belongs to other settings, or cannot be read.
  """
  spec = world_spec(config.env)
  networks = make_networks(spec, config=config.network)
  like = jax.eval_shape(
      lambda key: init_learner_state(
          key, networks=networks, optimizer=make_optimizer(config.agent)
      ),
      jax.random.key(0),
  )
  return spec, networks, restore_learner(checkpoint, like)


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
