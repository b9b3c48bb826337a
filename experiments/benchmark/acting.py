"""Leg `acting`: the actor loop against the bare sum of what it cannot avoid.

The two unavoidable parts of a step of all lanes: the world alone, with random
actions, and the jitted forward pass alone, on rows of that world, actions back
on the host. One after the other they allow 1 / (1 / world + 1 / inference)
agent steps per second. On an accelerator inference is compared with PyTorch's
besides (`inference.py`).
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import itertools
import time
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmark.inference import measure_inference
from experiments.benchmark.legs import Settings
from experiments.benchmark.rates import calls_in, units_per_second
from experiments.benchmark.results import (
  LegResult,
  Table,
  at_least,
  ratio,
  spread,
)
from experiments.benchmark.workload import TOY_NETWORK
from r2d2_jax.agent.acting import epsilon_ladder, init_actor_state, make_actor
from r2d2_jax.agent.agent import Agent, make_r2d2_agent
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.config import Config
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.world import World
from r2d2_jax.presets import gpu, laptop
from r2d2_jax.replay.items import Item
from r2d2_jax.replay.make import make_replay
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.parameters import ParameterStore
from r2d2_jax.types import EnvSpec, Params, Timestep

LEGS = ("environment", "inference", "write")


class _Size(NamedTuple):
  lanes: int
  rounds: int
  seconds: float  # of each part in a round


_FULL = _Size(lanes=64, rounds=9, seconds=0.8)
_TOY = _Size(lanes=4, rounds=2, seconds=0.05)


def measure(settings: Settings) -> LegResult:
  """Agent steps per second of the parts, their sum, and the loop."""
  size = _TOY if settings.toy else _FULL
  if settings.device == "cpu":
    return _loops("the laptop preset's network", laptop(), size, settings.toy)
  gpu_config = gpu().updated({"env.full_action_space": False})
  parts = [measure_inference(settings)] + [
    _loops(
      f"the paper's network in {dtype}",
      gpu_config.updated({"network.compute_dtype": dtype}),
      size._replace(lanes=lanes),
      settings.toy,
    )
    for dtype in ("float32", "bfloat16")
    for lanes in ((size.lanes,) if settings.toy else (64, 256))
  ]
  return LegResult(*(sum(lists, []) for lists in zip(*parts, strict=True)))


def _loops(what: str, config: Config, size: _Size, toy: bool) -> LegResult:
  """The parts and the loops with one network and number of lanes.

  Args:
    what: the network, in words.
    config: it, and the replay.
    size: lanes, and how often.
    toy: take a toy network instead.
  """
  config = config.updated({"env.num_envs": size.lanes})
  case = f"acting, {size.lanes} lanes, {what}"
  if toy:
    dtype = config.network.compute_dtype
    config = dataclasses.replace(
      config,
      network=dataclasses.replace(TOY_NETWORK, compute_dtype=dtype),
    )
  skipped = []
  with contextlib.ExitStack() as stack:
    world = stack.enter_context(
      contextlib.closing(make_world(config.env, seed=0))
    )
    play = random_play(world)
    recorded = list(itertools.islice(play, 16))
    networks = make_networks(world.spec, config=config.network)
    params = jax.jit(networks.init)(jax.random.key(0))
    calls = {
      "world alone": lambda: len(next(play).env_id),
      "inference alone": inference_alone(config, networks, params, recorded),
    }
    loops = {}
    for name, backend in (
      ("loop, items dropped", None),
      ("loop, local replay", "local"),
      ("loop, Reverb", "reverb"),
    ):
      try:
        insert = _insert(config, networks, world.spec, backend, stack)
      except ImportError as error:
        skipped.append(f"{case}, {name}: {error}")
        continue
      agent = make_r2d2_agent(world.spec, config, networks=networks)
      loops[name] = actor_loop(config, (agent, params), insert, stack)
      calls[name] = step_all_lanes(loops[name], size.lanes)
    rates, shares = rates_of(
      calls, loops, rounds=size.rounds, seconds=size.seconds
    )
  bare = 1 / sum(
    1 / np.array(rates[name]) for name in ("world alone", "inference alone")
  )
  rates["bare sum of both"] = bare.tolist()
  return LegResult(
    [
      at_least(
        f"{case}, {name}: share of the bare sum", ratio(rates[name], bare), 0.85
      )
      for name in loops
    ],
    [
      Table(
        f"Acting: Pong, {size.lanes} lanes, {what}",
        ("part", "agent steps/s", "us per agent step"),
        [
          (name, spread(values), 1e6 / spread(values).median)
          for name, values in rates.items()
        ],
      ),
      Table(
        f"Where the loop's time goes: {size.lanes} lanes, {what}",
        ("loop", *LEGS, "other"),
        [(name, *values) for name, values in shares.items()],
        "Shares of the wall-clock time. 'environment' is the time that the"
        " loop waits for the world, which steps while it writes.",
      ),
    ],
    skipped,
  )


def random_play(world: World) -> Iterator[Timestep]:
  """The rows of a world that acts at random, from its start."""
  rng = np.random.default_rng(0)
  world.reset()
  while True:
    timestep = world.recv()
    lanes = timestep.env_id
    world.send(
      rng.integers(0, world.spec.num_actions, len(lanes), np.int32), lanes
    )
    yield timestep


def inference_alone(
  config: Config, networks: Networks, params: Params, recorded: list[Timestep]
) -> Callable[[], int]:
  """A call acts on one of the recorded rows; the actions end up on the host."""
  lanes = config.env.num_envs
  timesteps = itertools.cycle(recorded)
  epsilon = jax.device_put(
    epsilon_ladder(
      lanes,
      base=config.agent.epsilon_base,
      alpha=config.agent.epsilon_alpha,
    )
  )
  actor = make_actor(networks=networks)
  state = init_actor_state(jax.random.key(1), lanes, networks=networks)

  def step():
    nonlocal state
    state, output = actor(params, state, next(timesteps), epsilon)
    return len(np.asarray(output.a_t))

  step()  # compiles
  return step


def actor_loop(
  config: Config,
  actor: tuple[Agent, Params],
  insert: Callable[[list[Item], np.ndarray], None],
  stack: contextlib.ExitStack,
) -> ActorLoop:
  """The package's loop over a world of its own, past its compilations."""
  agent, params = actor
  world = stack.enter_context(
    contextlib.closing(make_world(config.env, seed=1))
  )
  loop = ActorLoop(
    config,
    world=world,
    agent=agent,
    parameters=ParameterStore(params),
    insert=insert,
    key=jax.random.key(1),
  )
  # The first items, and with them the last compilation, come with the first
  # whole trace of the lanes, or, if these are few, with a later one.
  turns = config.env.num_envs // config.env_batch
  for _ in range(2 * config.item_rows * turns):
    loop.step()
  return loop


def step_all_lanes(loop: ActorLoop, lanes: int) -> Callable[[], int]:
  """A call steps the loop; every row counts, an episode's first too."""

  def step():
    loop.step()
    return lanes

  return step


def leg_shares(
  before: dict[str, float], after: dict[str, float], seconds: float
) -> list[float]:
  """Shares of `seconds` that went into each of `LEGS`, and into none."""
  shares = [(after[leg] - before.get(leg, 0.0)) / seconds for leg in LEGS]
  return [*shares, 1.0 - sum(shares)]


def drop(items: list[Item], priorities: np.ndarray) -> None:
  """An `insert` that keeps nothing."""
  del items, priorities


def _insert(
  config: Config,
  networks: Networks,
  spec: EnvSpec,
  backend: str | None,
  stack: contextlib.ExitStack,
) -> Callable[[list[Item], np.ndarray], None]:
  if backend is None:
    return drop
  replay = make_replay(
    config.updated({"replay.backend": backend}),
    spec,
    jax.device_get(networks.initial_core_state(1)),
  )
  stack.enter_context(contextlib.closing(replay))
  return replay.insert


def rates_of(
  calls: dict[str, Callable[[], int]],
  loops: dict[str, ActorLoop],
  *,
  rounds: int,
  seconds: float,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
  """Steps per second of every part in every round; the loops' leg shares."""
  counts = {
    name: max(1, calls_in(call, seconds=seconds))
    for name, call in calls.items()
  }
  before = {name: loop.timer.seconds() for name, loop in loops.items()}
  rates: dict[str, list[float]] = {name: [] for name in calls}
  spent: dict[str, float] = dict.fromkeys(calls, 0.0)
  for _ in range(rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      rates[name].append(units_per_second(call, calls=counts[name]))
      spent[name] += time.perf_counter() - start
  shares = {
    name: leg_shares(before[name], loop.timer.seconds(), spent[name])
    for name, loop in loops.items()
  }
  return rates, shares
