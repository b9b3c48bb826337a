"""A run's parts alone on the same cores: learner, world, inference.

What they allow together is what the leg `end_to_end` holds a run against.
"""

import contextlib
import itertools
from typing import NamedTuple

import jax

from experiments.benchmark.acting import inference_alone, random_play
from experiments.benchmark.rates import calls_in, units_per_second
from experiments.benchmark.workload import LearnerAlone
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config
from r2d2_jax.envs.make import make_world


class Alone(NamedTuple):
  """Rates of the parts, each with the machine for itself; one per round."""

  updates: list[float]  # per second
  world_steps: list[float]  # agent steps per second, random actions
  inference_steps: list[float]  # agent steps per second, actions on the host


def measure_alone(config: Config, *, rounds: int, seconds: float) -> Alone:
  """Takes the parts in turns; a round gives each about so many seconds."""
  learner = LearnerAlone(config)

  def update() -> int:
    learner.update()
    return 1

  with contextlib.closing(make_world(config.env, seed=0)) as world:
    play = random_play(world)
    recorded = list(itertools.islice(play, 16))
    networks = make_networks(world.spec, config=config.network)
    params = jax.jit(networks.init)(jax.random.key(0))
    calls = {
      "updates": update,
      "world_steps": lambda: len(next(play).env_id),
      "inference_steps": inference_alone(config, networks, params, recorded),
    }
    for call in calls.values():  # compiles
      call()
    counts = {
      name: calls_in(call, seconds=seconds) for name, call in calls.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
      for name, call in calls.items():
        rates[name].append(units_per_second(call, calls=counts[name]))
  return Alone(**rates)


def allowed_steps(
  updates: float,
  world_steps: float,
  inference_steps: float,
  *,
  steps_per_update: float,
  on_host: bool,
) -> float:
  """Agent steps per second of a run that spends its time on its parts alone.

  An agent step takes the world, one inference, and 1 / k of an update. On the
  host's cores one comes after the other:

      1 / (1 / world + 1 / inference + 1 / (k updates)).

  With an accelerator the world steps beside it:

      min(world, 1 / (1 / inference + 1 / (k updates))).

  Args:
    updates: per second, the learner alone.
    world_steps: agent steps per second, the world alone.
    inference_steps: agent steps per second, inference alone.
    steps_per_update: k of the run.
    on_host: whether learner and inference run on the host's cores.
  """
  device = 1 / inference_steps + 1 / (steps_per_update * updates)
  if on_host:
    return 1 / (1 / world_steps + device)
  return min(world_steps, 1 / device)
