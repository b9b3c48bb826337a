"""Leg `turns`: do lanes that take turns hide the inference?

With a stand-in for an accelerator: an actor step that does nothing, but sleeps
for some milliseconds in a thread of JAX's own, the interpreter free meanwhile.
Stepping and inference then allow, one after the other, 1 / (1 / stepping +
1 / inference) agent steps per second; side by side, the slower of the two.
"""

import contextlib
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.acting import (
  actor_loop,
  drop,
  random_play,
  rates_of,
  step_all_lanes,
)
from experiments.benchmark.legs import Settings
from experiments.benchmark.results import (
  LegResult,
  Table,
  at_least,
  ratio,
  spread,
)
from r2d2_jax.agent.acting import lanes_after, lanes_before
from r2d2_jax.agent.agent import Agent, make_r2d2_agent
from r2d2_jax.config import Config
from r2d2_jax.envs.make import make_world
from r2d2_jax.presets import laptop
from r2d2_jax.types import (
  ActorOutput,
  ActorState,
  Array,
  EnvSpec,
  Params,
  Timestep,
)

_INFERENCE_MS = 5.0
_AIM = 0.9


def measure(settings: Settings) -> LegResult:
  """Agent steps per second of stepping, inference, and both loops."""
  lanes, rounds, seconds = (4, 2, 0.05) if settings.toy else (64, 9, 0.8)
  config = laptop().updated({"env.num_envs": lanes})
  in_turns = config.updated({"env.batch_size": lanes // 2})
  inference = lanes // 2 / (_INFERENCE_MS / 1e3)
  with contextlib.ExitStack() as stack:
    world = stack.enter_context(
      contextlib.closing(make_world(in_turns.env, seed=0))
    )
    play = random_play(world)
    loops = {
      name: actor_loop(
        loop_config, stand_in(world.spec, loop_config), drop, stack
      )
      for name, loop_config in (
        ("loop, all lanes at once", config),
        ("loop, two halves in turns", in_turns),
      )
    }
    calls = {"stepping alone": lambda: len(next(play).env_id)} | {
      name: step_all_lanes(loop, loop_config.env_batch)
      for (name, loop), loop_config in zip(
        loops.items(), (config, in_turns), strict=True
      )
    }
    rates, _ = rates_of(calls, loops, rounds=rounds, seconds=seconds)
  slower = np.minimum(rates["stepping alone"], inference).tolist()
  rates["inference alone"] = [inference] * rounds
  rates["the slower of both"] = slower
  return LegResult(
    [
      at_least(
        f"{name}, an inference of {_INFERENCE_MS:g} ms: share of the slower"
        " of stepping and inference",
        ratio(rates[name], slower),
        _AIM,
      )
      for name in loops
    ],
    [
      Table(
        f"Lanes in turns: Pong, {lanes} lanes, an inference that sleeps for"
        f" {_INFERENCE_MS:g} ms",
        ("part", "agent steps/s"),
        [(name, spread(values)) for name, values in rates.items()],
        "An inference is of all lanes at once, or of half of them; the one"
        " alone is of half.",
      )
    ],
    [],
  )


def stand_in(spec: EnvSpec, config: Config) -> tuple[Agent, Params]:
  """An agent that acts at random after a pause, and its parameters."""
  agent = make_r2d2_agent(spec, config)
  params = jax.jit(agent.networks.init)(jax.random.key(0))
  step = functools.partial(_actor_step, num_actions=spec.num_actions)
  return agent._replace(actor_step=step), params


def _actor_step(
  params: Params,
  state: ActorState,
  timestep: Timestep,
  epsilon: Array,
  *,
  num_actions: int,
) -> tuple[ActorState, ActorOutput]:
  """As `acting.actor_step`, without a network: all that costs is the pause."""
  del params, epsilon
  before, _ = lanes_before(state, timestep)
  keys = jax.vmap(jax.random.split)(before.key)
  a_t = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_actions))(
    keys[:, 1]
  )
  a_t = jax.pure_callback(
    _pause, jax.ShapeDtypeStruct(a_t.shape, a_t.dtype), a_t
  )
  after = ActorState(before.core_state, a_t, keys[:, 0])
  q_t = jnp.zeros((a_t.size, num_actions), jnp.float32)
  return lanes_after(state, timestep, after), ActorOutput(
    a_t, before.a_tm1, q_t, before.core_state
  )


def _pause(a_t: np.ndarray) -> np.ndarray:
  time.sleep(_INFERENCE_MS / 1e3)
  return np.asarray(a_t)
