"""Part of leg `replay`: bytes per row of experience, by how rows are stored."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import gc
from typing import NamedTuple

import envpool
import numpy as np

from experiments.benchmark.acting import random_play
from experiments.benchmark.replay_stream import (
  INSERT_ITEMS,
  Rows,
  Writer,
  empty_replay,
  period,
  record,
)
from experiments.benchmark.results import Table
from experiments.benchmark.workload import PONG
from r2d2_jax.config import Config, EnvConfig
from r2d2_jax.envs.make import make_world
from r2d2_jax.presets import paper
from r2d2_jax.replay.items import Item, new_uid
from r2d2_jax.types import EnvSpec, Timestep


class _Layout(NamedTuple):
  name: str
  spec: EnvSpec
  frame_stack: int  # of the network that would read it
  shared: bool  # rows that items share are stored once
  timesteps: Callable[[int], Iterator[Timestep]]  # lanes -> rows


def bytes_table(lanes: int, items: int, backends: list[str]) -> Table:
  """Bytes per row by layout: as they come, and as the replay keeps them.

  Args:
    lanes: how many play.
    items: of each lane, written into the replay.
    backends: those that are there.
  """
  config = paper()
  every = period(config)
  grey = lambda lanes: _play(lanes, 1)
  stacked = PONG._replace(obs_shape=(84, 84, 4))
  layouts = [
    _Layout(
      "colour frame 210 x 160 x 3, whole items",
      PONG._replace(obs_shape=(3, 210, 160)),
      1,
      False,
      _play_colour,
    ),
    _Layout(
      "4 stacked grey frames 84 x 84, whole items",
      stacked,
      1,
      False,
      lambda lanes: _play(lanes, 4),
    ),
    _Layout("single grey frames 84 x 84, whole items", PONG, 4, False, grey),
    _Layout(
      "single grey frames, blocks shared by items (as here)",
      PONG,
      4,
      True,
      grey,
    ),
  ]
  rows = []
  for layout in layouts:
    steps = config.item_rows + (items - 1) * every
    recorded = record(
      layout.timesteps(lanes),
      layout.spec,
      rows=steps,
      core_units=config.network.core_units,
      frame_stack=layout.frame_stack,
    )
    observation = int(np.prod(layout.spec.obs_shape))
    copies = 1 if layout.shared else config.item_rows / every
    kept = [
      _kept_bytes_per_row(config, layout, recorded, backend)
      if backend == "reverb" or layout.shared
      else "-"
      for backend in backends
    ]
    rows.append((layout.name, observation, copies, *kept))
  return Table(
    "Bytes per row of experience (Pong, random play, the paper's items of"
    f" {config.item_rows} rows every {every})",
    (
      "layout",
      "bytes of one observation",
      "copies of it",
      *(f"kept by {backend}, bytes/row" for backend in backends),
    ),
    rows,
    "Kept: memory in use per row more, from malloc's own counts, everything"
    " included: actions, rewards, states. Reverb compresses, the local replay"
    " does not.",
  )


def _kept_bytes_per_row(
  config: Config, layout: _Layout, recorded: list[Rows], backend: str
) -> float:
  config = config.updated(
    {
      "replay.backend": backend,
      "env.num_envs": len(recorded[0].timestep.env_id),
      "network.frame_stack": layout.frame_stack,
    }
  )
  with contextlib.closing(empty_replay(config, layout.spec)) as replay:
    insert = replay.insert
    if not layout.shared:
      insert = lambda items, priorities: replay.insert(
        [_alone(item) for item in items], priorities
      )
    writer = Writer(config, layout.spec, recorded, insert)
    # The first items are half padding.
    writer.write_items(2 * INSERT_ITEMS)
    before, rows = _bytes_in_use(), 0
    while rows + config.env.num_envs * config.item_rows < (
      len(recorded) * config.env.num_envs
    ):
      rows += writer.write_items(INSERT_ITEMS)
    return (_bytes_in_use() - before) / rows


def _alone(item: Item) -> Item:
  """The item with blocks that no other item has."""
  return item._replace(
    blocks=tuple(block._replace(uid=new_uid()) for block in item.blocks)
  )


def _play(lanes: int, frame_stack: int) -> Iterator[Timestep]:
  """Pong at random, single frames or stacks of them."""
  env = EnvConfig(task="Pong", num_envs=lanes, full_action_space=False)
  with contextlib.closing(make_world(env, seed=0)) as world:
    newest = []
    for timestep in random_play(world):
      newest = [*newest, timestep.obs_t][-frame_stack:]
      if len(newest) < frame_stack:
        continue
      if frame_stack > 1:
        timestep = timestep._replace(obs_t=np.stack(newest, axis=-1))
      yield timestep


def _play_colour(lanes: int) -> Iterator[Timestep]:
  """Pong at random, the frames as the console draws them."""
  pool = envpool.make_gymnasium(
    "Pong-v5",
    num_envs=lanes,
    stack_num=1,
    gray_scale=False,
    img_height=210,
    img_width=160,
    use_fire_reset=False,
  )
  rng = np.random.default_rng(0)
  nothing = np.zeros(lanes)
  obs, _ = pool.reset()
  while True:
    yield Timestep(obs, nothing, nothing, nothing, nothing, nothing)
    obs = pool.step(rng.integers(0, PONG.num_actions, lanes, np.int32))[0]


class _MallocCounts(ctypes.Structure):
  """glibc's struct mallinfo2."""

  _fields_ = [
    (name, ctypes.c_size_t)
    for name in (
      "arena",
      "ordblks",
      "smblks",
      "hblks",
      "hblkhd",
      "usmblks",
      "fsmblks",
      "uordblks",
      "fordblks",
      "keepcost",
    )
  ]


def _bytes_in_use() -> int:
  """Bytes that the process holds from malloc, numpy's and Reverb's alike."""
  gc.collect()
  libc = ctypes.CDLL(None)
  libc.mallinfo2.restype = _MallocCounts
  counts = libc.mallinfo2()
  return counts.uordblks + counts.hblkhd
