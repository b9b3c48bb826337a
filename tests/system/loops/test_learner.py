"""What the prefetcher asks of the replay, what the learner says of updates."""

import dataclasses
import itertools
import threading
import types

import jax
from jax.sharding import Mesh
import numpy as np
import pytest

from r2d2_jax.agent.learning import BATCH_AXIS, learner_shardings
from r2d2_jax.config import AgentConfig
from r2d2_jax.presets import smoke
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.example import example_batch
from r2d2_jax.system.loops.learner import Batch, LearnerLoop, Prefetcher
from r2d2_jax.system.loops.parameters import ParameterStore
from r2d2_jax.system.loops.shapes import batch_shapes
from r2d2_jax.system.metrics.learner_stats import LearnerStats
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.train import train
from r2d2_jax.types import LearnerOutput
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


def _loop(example, config, learner_step, mesh=None):
  """A learner of this batch alone; priorities go nowhere."""
  state = jax.tree.map(np.array, example.state)  # donated: one's own
  return LearnerLoop(
    config,
    agent=example.agent._replace(learner_step=learner_step),
    state=jax.device_put(state),
    replay=types.SimpleNamespace(update_priorities=lambda keys, p: None),
    parameters=ParameterStore(example.state.params),
    mesh=mesh,
  )


@pytest.fixture(scope="module")
def example():
  return example_batch(smoke())


@pytest.mark.parametrize("num_devices", [0, 1])
def test_what_is_compiled_ahead_is_what_the_first_update_runs(
  num_devices, example
):
  config, mesh, split = smoke(), None, None
  if num_devices:
    mesh = Mesh(np.array(jax.devices()[:1]), (BATCH_AXIS,))
    split = learner_shardings(mesh)[1]
  traced = []

  def learner_step(state, batch, axis_name=None):
    """No learning: what it is called with is the point."""
    traced.append(threading.current_thread().name)
    assert axis_name == (BATCH_AXIS if mesh else None)
    output = LearnerOutput(
      batch.probability, {"loss": batch.sequence.inputs.r_t.sum()}, np.ones(3)
    )
    return state._replace(num_updates=state.num_updates + 1), output

  loop = _loop(example, config, learner_step, mesh)
  loop.compile_ahead(batch_shapes(config, example.spec, example.agent, split))
  for _ in range(2):
    loop.step(Batch(example.batch, config.agent.burn_in, mesh))
  assert traced == ["compiler"]
  assert loop.state().num_updates == 2


def test_an_error_while_compiling_ahead_is_the_first_updates(example):
  config = smoke()

  def learner_step(*args, **kwargs):
    raise ZeroDivisionError("of my own agent")

  loop = _loop(example, config, learner_step)
  loop.compile_ahead(batch_shapes(config, example.spec, example.agent))
  loop.wait_for_compiler()
  with pytest.raises(ZeroDivisionError, match="of my own agent") as error:
    loop.step(Batch(example.batch, config.agent.burn_in))
  assert error.traceback[-1].name == "learner_step"
