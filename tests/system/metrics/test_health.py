"""A learner whose numbers stop making sense."""

import threading

import jax
import numpy as np
import pytest

from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.loops import learner
from r2d2_jax.system.metrics.health import (
  DivergedError,
  Heartbeat,
  check_priorities_are_sane,
)
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.train import RunError, train
from tests.system.test_train import small


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e7])
def test_what_is_sane(bad):
  check_priorities_are_sane(np.array([0.0, 1e6]), max_td_error=1e6)
  with pytest.raises(DivergedError, match="limits.max_td_error is 1e"):
    check_priorities_are_sane(np.array([0.0, bad]), max_td_error=1e6)


def test_three_heartbeats_in_a_row_must_be_missing():
  def answers(*missing):
    """Asks once for each; the number of answers before the error, or all."""
    left = list(missing)

    def check_alive():
      if left.pop(0):
        raise ReplayError("dead or out of reach")

    heartbeat = Heartbeat(check_alive)
    for i in range(len(missing)):
      try:
        heartbeat.ask()
      except ReplayError as error:
        assert "dead or out of reach" in str(error)
        return i
    return len(missing)

  slow, fine = True, False
  assert answers(slow, slow, fine, slow, slow, fine) == 6
  assert answers(fine, slow, slow, slow) == 3
  assert answers(slow, slow, fine, slow, slow, slow) == 5


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_world_that_gives_nan_stops_the_run_and_is_named(
  lockstep, tmp_path, monkeypatch
):
  recv, calls = RecallWorld.recv, []

  def spoilt(world):
    calls.append(1)
    timestep = recv(world)
    if len(calls) == 40:
      timestep.r_t[3] = np.nan
    return timestep

  monkeypatch.setattr(RecallWorld, "recv", spoilt)
  with pytest.raises(RunError) as caught:
    train(
      small(
        {
          "run.total_steps": 10**9,
          "run.max_minutes": 2.0,
          "run.lockstep": lockstep,
        }
      ),
      run_dir=tmp_path / "run",
    )
  assert "'recall', lane 3: expected finite numbers in r_t, got nan" in str(
    caught.value
  )
  assert not (tmp_path / "run" / "crash.txt").exists()


@pytest.mark.parametrize("lockstep", [True, False])
def test_nan_stops_the_run_with_a_diagnosis_and_the_last_good_checkpoint(
  lockstep, tmp_path, monkeypatch
):
  """One poisoned reward: what follows must be noticed before it is saved."""
  step = learner.LearnerLoop.step
  poisoned_at = []

  def poison(loop, batch):
    saved = list_checkpoints(tmp_path / "run" / "checkpoints")
    if saved and saved[-1].num_updates >= 3 and not poisoned_at:
      poisoned_at.append(loop.num_updates)
      r_t = batch.on_device.sequence.inputs.r_t.at[0].set(np.nan)
      sequence = batch.on_device.sequence
      batch.on_device = batch.on_device._replace(
        sequence=sequence._replace(inputs=sequence.inputs._replace(r_t=r_t))
      )
    step(loop, batch)

  monkeypatch.setattr(learner.LearnerLoop, "step", poison)
  config = small(
    {
      "run.total_steps": 10**9,
      "run.lockstep": lockstep,
      "checkpoint.period_updates": 1,
      "run.max_minutes": 2.0,
    }
  )
  with pytest.raises(RunError) as caught:
    train(config, run_dir=tmp_path / "run")
  message = str(caught.value)
  assert "mean |td error| of a batch is nan" in message
  assert "not finite: rewards, " in message
  assert "likely cause: the environment gave numbers" in message
  saved = list_checkpoints(tmp_path / "run" / "checkpoints")
  assert 3 <= saved[-1].num_updates <= poisoned_at[0]
  assert str(saved[-1].path) in message
  # It can go on from there.
  monkeypatch.setattr(learner.LearnerLoop, "step", step)
  config = config.updated(
    {"run.total_steps": saved[-1].steps + 1_000, "evaluation.num_episodes": 0}
  )
  result = train(config, run_dir=tmp_path / "run")
  assert int(result.state.num_updates) > saved[-1].num_updates
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.state))


@pytest.mark.parametrize("learner_notices", [False, True])
def test_actors_that_stumble_over_bad_parameters_are_not_the_cause(
  learner_notices, tmp_path, monkeypatch
):
  """The actors' thread fails first; what is told is what the learner did."""
  failed, stumbled = threading.Event(), threading.Event()
  step, insert = learner.LearnerLoop.step, LocalReplay.insert

  def poison(loop, batch):
    sequence = batch.on_device.sequence
    r_t = sequence.inputs.r_t.at[:].set(np.nan)
    inputs = sequence.inputs._replace(r_t=r_t)
    batch.on_device = batch.on_device._replace(
      sequence=sequence._replace(inputs=inputs)
    )
    step(loop, batch)
    failed.set()
    if learner_notices:
      assert stumbled.wait(20)
      loop.flush()
    loop.step = lambda batch: None  # it does not get to look at its priorities

  def fail(replay, items, priorities):
    if failed.is_set() and replay._capacity > 100:  # not the probe's
      stumbled.set()
      raise ValueError("expected finite priorities")
    insert(replay, items, priorities)

  monkeypatch.setattr(learner.LearnerLoop, "step", poison)
  monkeypatch.setattr(LocalReplay, "insert", fail)
  with pytest.raises(RunError, match="mean .td error. of a batch is nan"):
    train(
      small({"run.total_steps": 10**9, "run.max_minutes": 2.0}),
      run_dir=tmp_path / "run",
    )
