"""The replay ratio: who may go on, what is counted, and what a run measures."""

import csv
import threading

import numpy as np
import pytest

from r2d2_jax.config import Config
from r2d2_jax.presets import smoke
from r2d2_jax.system import train as train_module
from r2d2_jax.system.loops import learner
from r2d2_jax.system.loops.learner import Batch
from r2d2_jax.system.loops.ratio import ReplayRatio
from r2d2_jax.types import AgentInputs, ReplaySample, Sequence
from tests.stamped import StampedWorld

# --- Counting --------------------------------------------------------------


def test_both_sides_are_counted_from_the_first_update_on():
  ratio = ReplayRatio(0.5, slack_rows=100)
  assert ratio.measured() == 0
  ratio.add_steps(1000)  # the filling: nobody catches up with it
  assert ratio.measured() == 0 and ratio.actors_may_step()
  ratio.start()
  ratio.add_trained_rows(40)
  assert not ratio.learner_may_train()  # 40 rows ahead of 0 steps
  ratio.add_steps(79)
  assert not ratio.learner_may_train()  # 0.5 * 79 = 39.5
  ratio.add_steps(1)
  assert ratio.learner_may_train()
  assert ratio.measured() == 40 / 80
  ratio.start()  # a later call does nothing
  assert ratio.measured() == 40 / 80
  assert ratio.env_steps == 1080


def test_actors_wait_at_the_slack():
  ratio = ReplayRatio(2.0, slack_rows=10)
  ratio.start()
  ratio.add_steps(4)
  assert ratio.actors_may_step()  # the learner is 8 rows behind
  ratio.add_steps(1)
  assert not ratio.actors_may_step()
  ratio.add_trained_rows(1)
  assert ratio.actors_may_step()


@pytest.mark.parametrize("asked", [0.1, 0.8, 1.0, 4.0])
@pytest.mark.parametrize("fast", ["actors", "learner", "neither"])
def test_the_measured_ratio_is_within_two_percent(asked, fast):
  """Whoever is faster is held back; batches hold padding and vary in rows."""
  rng = np.random.default_rng(0)
  batch_rows = 16 * 19
  ratio = ReplayRatio(asked, slack_rows=int(2 * batch_rows + asked * 2 * 32))
  ratio.add_steps(5000)
  ratio.start()
  acted = trained = 0
  while trained < 400 or acted < 400:
    before = acted, trained
    for _ in range(50 if fast == "actors" else 1):
      if ratio.actors_may_step():
        ratio.add_steps(32)
        acted += 1
    for _ in range(50 if fast == "learner" else 1):
      if ratio.learner_may_train():
        ratio.add_trained_rows(
          int(rng.integers(batch_rows // 2, batch_rows + 1))
        )
        trained += 1
    assert (acted, trained) != before  # never both blocked
  assert abs(ratio.measured() / asked - 1) < 0.02


def test_waiting_ends_when_the_other_side_moves_or_time_is_up():
  ratio = ReplayRatio(1.0, slack_rows=8)
  ratio.start()
  ratio.add_trained_rows(4)
  assert not ratio.wait_for_learner_turn(timeout_seconds=0.01)
  threading.Timer(0.05, ratio.add_steps, [4]).start()
  assert ratio.wait_for_learner_turn(timeout_seconds=60.0)
  ratio.add_steps(8)
  assert not ratio.wait_for_actors_turn(timeout_seconds=0.01)
  threading.Timer(0.05, ratio.add_trained_rows, [8]).start()
  assert ratio.wait_for_actors_turn(timeout_seconds=60.0)


def test_trained_rows_are_transitions_without_burn_in_and_padding():
  valid_t = np.zeros((3, 10), bool)
  valid_t[0] = True  # whole: rows 4..9, 5 transitions
  valid_t[1, 4:7] = True  # a short episode: 2 transitions
  valid_t[2, :5] = True  # only one trained row: none
  rows = np.zeros((3, 10), np.float32)
  inputs = AgentInputs(rows, rows, rows, rows)
  sample = ReplaySample(
    Sequence(inputs, rows, rows, valid_t, ()), np.ones(3), np.arange(3)
  )
  assert Batch(sample, burn_in=4).trained_rows == 5 + 2
  assert Batch(sample, burn_in=0).trained_rows == 9 + 2 + 4


# --- A whole run -----------------------------------------------------------


def _config(total_steps, *, lockstep=True, max_minutes=0.0) -> Config:
  config = smoke()
  return config.updated(
    {
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
      "agent.batch_size": 1,
      "replay.replay_ratio": 0.7,
      "replay.min_sequences": 20,
      "run.total_steps": total_steps,
      "run.lockstep": lockstep,
      "evaluation.num_episodes": 0,
      "log.period_seconds": 0.5,
      "run.max_minutes": max_minutes,
    }
  )


def test_another_ratio_and_fewer_lanes_hold_from_the_resume_on(
  tmp_path, monkeypatch
):
  rows = []
  learn = learner.LearnerLoop.step

  def counted(loop, batch):
    rows.append(batch.trained_rows)
    learn(loop, batch)

  monkeypatch.setattr(learner.LearnerLoop, "step", counted)
  steps = train_module.train(_config(1_500), run_dir=tmp_path).steps
  # Over the whole past it would mean hundreds of updates without a step; items
  # of lanes that are gone are sampled as well.
  rows.clear()
  lanes, ratio = 5, 2.8
  config = _config(steps + 500).updated(
    {
      "env.num_envs": lanes,
      "replay.replay_ratio": ratio,
    }
  )
  result = train_module.train(config, run_dir=tmp_path)
  found = sum(rows) / (result.steps - steps)
  # Two batches of 15 rows and two vector steps are the slack.
  assert abs(found - ratio) <= (2 * 15 + 2 * lanes * ratio) / 500
  assert result.replay_ratio == pytest.approx(found)


def test_a_replay_that_has_become_too_small_to_begin_is_filled(tmp_path):
  """The learner doesn't wait for items while the actors wait for it."""
  steps = train_module.train(_config(1_500), run_dir=tmp_path).steps
  config = _config(steps + 4_000, lockstep=False, max_minutes=1.0)
  config = config.updated({"replay.min_sequences": 500})
  assert train_module.train(config, run_dir=tmp_path).steps >= steps + 4_000


def _log(run_dir):
  with (run_dir / "log.csv").open() as file:
    return [
      {
        k: float(v) if k in ("steps", "frames", "updates") else v
        for k, v in row.items()
      }
      for row in csv.DictReader(file)
    ]


def test_frames_are_steps_times_frame_skip_and_the_ratio_holds(tmp_path):
  """In a run, and in one that goes on from its checkpoint."""
  worlds = []

  def make_world(config, *, seed):
    del seed
    if config.num_envs == 1:  # of the plan
      return StampedWorld([[1]], frame_skip=4)
    worlds.append(StampedWorld([[9], [30], [2, 17]] * 5 + [[50]], frame_skip=4))
    assert worlds[-1].num_envs == config.num_envs
    return worlds[-1]

  result = train_module.train(
    _config(2_000), run_dir=tmp_path, make_world=make_world
  )
  assert abs(result.replay_ratio / 0.7 - 1) < 0.02
  rows = _log(tmp_path)
  steps_before = rows[-1]["steps"]
  assert 2_000 <= steps_before == result.steps
  # a step is a transition: each episode has one row more than steps
  taken = [sum(not r.is_first for r in lane[:-1]) for lane in worlds[0].rows]
  assert result.steps == sum(taken)

  resumed = train_module.train(
    _config(2_300), run_dir=tmp_path, make_world=make_world
  )
  assert resumed.steps >= 2_300
  # In lock-step the steps before the checkpoint are played again, not counted.
  assert (
    sum(sum(not r.is_first for r in lane[:-1]) for lane in worlds[1].rows)
    == resumed.steps
  )
  rows = _log(tmp_path)
  assert all(row["frames"] == 4 * row["steps"] for row in rows)
  assert [r["steps"] for r in rows] == sorted(r["steps"] for r in rows)
  assert rows[-1]["steps"] == resumed.steps
  assert rows[-1]["updates"] == resumed.state.num_updates
