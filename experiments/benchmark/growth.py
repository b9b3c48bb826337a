"""Leg `growth`: how cost grows with lanes, item length, batch and width.

Acting with the laptop preset's network; learning around the small reference
batch, one setting changed at a time.
"""

import contextlib
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.acting import (
  LEGS,
  actor_loop,
  drop,
  leg_shares,
  step_all_lanes,
)
from experiments.benchmark.legs import Settings
from experiments.benchmark.rates import calls_in, units_per_second
from experiments.benchmark.results import LegResult, Table, spread
from experiments.benchmark.workload import (
  PONG,
  TOY_NETWORK,
  LearnerAlone,
  learner_flops,
  reference_config,
)
from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import Config
from r2d2_jax.presets import laptop

_LANES = (8, 16, 32, 64, 128, 256)
_TOY_LANES = (2, 4)
_ACTING_SECONDS = 1.0  # of a round
_ACTING_ROUNDS = 3
_UPDATES = 5
_PRODUCT_SIDE = 1536


def measure(settings: Settings) -> LegResult:
  """Tables of cost against size."""
  return LegResult([], [_acting(settings.toy), _learning(settings.toy)], [])


def _acting(toy: bool) -> Table:
  rows = []
  network = TOY_NETWORK if toy else laptop().network
  networks = make_networks(PONG, config=network)
  params = jax.jit(networks.init)(jax.random.key(0))
  for lanes in _TOY_LANES if toy else _LANES:
    config = dataclasses.replace(laptop(), network=network)
    config = config.updated({"env.num_envs": lanes})
    with contextlib.ExitStack() as stack:
      agent = make_r2d2_agent(PONG, config, networks=networks)
      loop = actor_loop(config, (agent, params), drop, stack)
      step = step_all_lanes(loop, lanes)
      calls = calls_in(step, seconds=0.01 if toy else _ACTING_SECONDS)
      before, start = loop.timer.seconds(), time.perf_counter()
      rates = [
        units_per_second(step, calls=calls)
        for _ in range(2 if toy else _ACTING_ROUNDS)
      ]
      shares = leg_shares(
        before, loop.timer.seconds(), time.perf_counter() - start
      )
    rows.append(
      (
        lanes,
        spread(rates),
        1e6 / spread(rates).median,
        *shares,
        LEGS[int(np.argmax(shares[: len(LEGS)]))],
      )
    )
  return Table(
    "Growth of acting: Pong, the laptop preset's network, items dropped",
    ("lanes", "agent steps/s", "us per agent step", *LEGS, "other", "bound by"),
    rows,
    "Bound by the leg with the largest share of the loop's time.",
  )


def _variants(toy: bool) -> list[tuple[str, str, Config]]:
  """What is varied, its value, and the configuration."""
  if toy:
    return [("batch", "2", reference_config("toy"))]
  base = reference_config("small")
  lengths = [
    (
      f"{trace // 2} + {trace}",
      {
        "agent.burn_in": trace // 2,
        "agent.trace_length": trace,
        "agent.overlap": trace // 2,
      },
    )
    for trace in (10, 20, 40, 80)
  ]
  batches = [
    (str(size), {"agent.batch_size": size}) for size in (4, 8, 16, 32, 64)
  ]
  widths = [
    (str(units), {"network.core_units": units, "network.head_units": units})
    for units in (128, 256, 512, 1024)
  ]
  return [
    (axis, value, base.updated(change))
    for axis, changes in (
      ("burn-in + trace", lengths),
      ("batch", batches),
      ("units of core and heads", widths),
    )
    for value, change in changes
  ]


def _learning(toy: bool) -> Table:
  product_gflops = _product_gflops(toy)
  measured: dict[Config, list[float]] = {}  # the base is on every axis
  rows = []
  for axis, value, config in _variants(toy):
    if config not in measured:
      measured[config] = LearnerAlone(config).seconds(2 if toy else _UPDATES)
      jax.clear_caches()
    seconds = spread(measured[config])
    item_rows = config.agent.batch_size * config.item_rows
    gflop = learner_flops(config) / 1e9
    rate = gflop / seconds.median
    rows.append(
      (
        axis,
        value,
        spread([1e3 * s for s in seconds.values]),
        1e6 * seconds.median / item_rows,
        gflop,
        rate,
        rate / product_gflops,
      )
    )
  return Table(
    "Growth of learning: the paper's network, around 16 items of 10 + 20 rows",
    (
      "varied",
      "value",
      "ms per update",
      "us per row",
      "GFLOP",
      "GFLOP/s",
      "share of a plain product's",
    ),
    rows,
    f"A plain product here: {product_gflops:.0f} GFLOP/s (float32, all cores)."
    " A share near 1 means bound by arithmetic; the lower it is, the more the"
    " update is bound by memory and by the LSTM, which goes row by row.",
  )


def _product_gflops(toy: bool) -> float:
  side = 64 if toy else _PRODUCT_SIDE
  x = jnp.ones((side, side), jnp.float32)
  product = jax.jit(jnp.matmul)
  seconds = []
  for _ in range(8):
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    seconds.append(time.perf_counter() - start)
  return 2e-9 * side**3 / min(seconds)
