"""The prefetcher, by what it asks of the replay."""

import dataclasses
import threading

import numpy as np

from r2d2_jax.config import AgentConfig
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.loops.learner import Prefetcher
from tests.replay.tape import StampingActor, play
from tests.replay.test_replay import LENGTHS, make_config, make_world


def test_batches_are_drawn_only_while_there_are_min_sequences():
  config = make_config()
  config = dataclasses.replace(
      config,
      agent=AgentConfig(**LENGTHS._asdict(), batch_size=2),
      replay=dataclasses.replace(config.replay, min_sequences=5),
  )
  world = make_world()
  replay = LocalReplay(config, world.spec, StampingActor(world).example())
  items = play(world, LENGTHS, 60).items[0]
  prefetcher, stop = Prefetcher(replay, config, mesh=None), threading.Event()
  thread = threading.Thread(target=prefetcher.run, args=[stop], daemon=True)
  thread.start()
  try:
    replay.insert(items[:4], np.ones(4))
    assert prefetcher.get(0.5) is None
    replay.insert(items[4:5], np.ones(1))
    assert prefetcher.get(30.0).keys.shape == (2,)
  finally:
    stop.set()
    thread.join(30.0)
