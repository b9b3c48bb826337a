"""What the prefetcher asks of the replay, what the learner says of updates."""

import dataclasses
import itertools
import threading

import numpy as np

from r2d2_jax.config import AgentConfig
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.loops.learner import Prefetcher
from r2d2_jax.system.metrics.learner_stats import LearnerStats
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.train import train
from tests.replay.tape import StampingActor, play
from tests.replay.test_replay import LENGTHS, make_config, make_world
from tests.system.test_train import small


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


def test_a_row_has_the_mean_of_all_updates_since_the_row_before(
  tmp_path, monkeypatch
):
  add, seen = LearnerStats.add, []

  def watched(stats, metrics, td_abs_by_row):
    seen.append(metrics | {"td_first": td_abs_by_row[0]})
    # What `learner_step` does not return and nobody registered.
    add(stats, {**metrics, "my_own": np.float32(len(seen))}, td_abs_by_row)

  monkeypatch.setattr(LearnerStats, "add", watched)
  config = small(
    {
      "run.lockstep": True,
      "log.period_updates": 3,
      "evaluation.num_episodes": 0,
    }
  )
  train(config, run_dir=tmp_path / "run")
  log = read_log(tmp_path / "run" / "log.csv")
  ends = [int(updates) for updates in log["updates"]]
  rows = [
    i for i, (a, b) in enumerate(itertools.pairwise([0, *ends])) if b - a >= 3
  ]
  assert len(rows) >= 3
  for i in rows:
    updates = slice(ends[i - 1] if i else 0, ends[i])
    for name in ("loss", "grad_norm", "effective_sample_size", "td_first"):
      expected = np.mean([u[name] for u in seen[updates]], dtype=np.float64)
      np.testing.assert_allclose(log[name][i], expected, rtol=1e-5)
    largest = max(float(u["td_abs_max"]) for u in seen[updates])
    np.testing.assert_allclose(log["td_abs_max"][i], largest, rtol=1e-5)
    numbers = np.arange(len(seen))[updates] + 1
    np.testing.assert_allclose(log["my_own"][i], numbers.mean(), rtol=1e-5)
