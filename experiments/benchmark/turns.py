"""Leg `turns`: do lanes that take turns hide the inference?

With a stand-in for an accelerator: an actor step that computes nothing, whose
actions can be read some milliseconds after the call, the interpreter free
meanwhile. (A sleep inside of what JAX compiles would not do: on a processor
calls with a callback are not asynchronous.)
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
from r2d2_jax.system.loops.actor import ActorLoop
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
  # One thread steps: on two cores the other one is left for the loop.
  config = laptop().updated({"env.num_envs": lanes, "env.num_threads": 1})
  in_turns = config.updated({"env.batch_size": lanes // 2})
  inference = lanes // 2 / (_INFERENCE_MS / 1e3)
  with contextlib.ExitStack() as stack:
    world = stack.enter_context(
      contextlib.closing(make_world(in_turns.env, seed=0))
    )
    play = random_play(world)
    calls = {"stepping alone": lambda: len(next(play).env_id)}
    loops = {}
    for name, loop_config in (
      ("loop, all lanes at once", config),
      ("loop, two halves in turns", in_turns),
    ):
      actor = stand_in(world.spec, loop_config)
      loops[name] = _take_time(actor_loop(loop_config, actor, drop, stack))
      calls[name] = step_all_lanes(loops[name], loop_config.env_batch)
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
  """An agent that acts at random and computes nothing, and its parameters."""
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
  """As `acting.actor_step`, without a network."""
  del params, epsilon
  before, _ = lanes_before(state, timestep)
  keys = jax.vmap(jax.random.split)(before.key)
  a_t = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_actions))(
    keys[:, 1]
  )
  after = ActorState(before.core_state, a_t, keys[:, 0])
  q_t = jnp.zeros((a_t.size, num_actions), jnp.float32)
  return lanes_after(state, timestep, after), ActorOutput(
    a_t, before.a_tm1, q_t, before.core_state
  )


class _Late:
  """An array that can be read from a moment on; who asks sleeps until then."""

  def __init__(self, array: jax.Array, ready: float):
    self._array, self._ready = array, ready

  def __array__(self, *args, **kwargs) -> np.ndarray:
    time.sleep(max(0.0, self._ready - time.monotonic()))
    return np.asarray(self._array)


def _take_time(loop: ActorLoop) -> ActorLoop:
  """The loop's actions are there some milliseconds after they were asked for.

  As an accelerator's: the call returns at once, one inference after the other.
  """
  act, free = loop._actor, 0.0

  def late(*arguments):
    nonlocal free
    state, output = act(*arguments)
    free = max(free, time.monotonic()) + _INFERENCE_MS / 1e3
    return state, output._replace(a_t=_Late(output.a_t, free))

  loop._actor = late
  return loop
