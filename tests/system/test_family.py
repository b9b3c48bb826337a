"""A member of the family trains, and goes on after a stop as if it had not."""

import time
import warnings

import jax
import numpy as np
import pytest

from r2d2_jax.config import Config, to_dict
from r2d2_jax.family import FAMILY
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.learner import LearnerLoop
from r2d2_jax.system.loops.workers import Worker
from r2d2_jax.system.metrics.columns import warnings as warnings_of
from r2d2_jax.system.run.resumed import _changed_settings
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.train import RunError, train
from r2d2_jax.video.recording import value_unit

# All that the family adds to R2D2's machinery: transitions with a lookahead,
# first priorities and exponents that change, exploration that falls.
_TINY = {
  "env.task": "recall", "env.num_envs": 4, "network.torso_channels": (4,),
  "network.head_units": 4, "agent.batch_size": 8, "agent.n_step": 3,
  "agent.lookahead_rows": 2, "agent.epsilon_decay_steps": 400,
  "agent.importance_anneal_updates": 60, "replay.capacity_sequences": 200,
  "replay.min_sequences": 20, "replay.replay_ratio": 1.0,
  "run.total_steps": 240, "checkpoint.save_replay": True,
  "log.period_updates": 10, "log.tensorboard": False,
  "evaluation.num_episodes": 0,
}  # fmt: skip


# Unrolls of recall's episodes, from a queue.
_TINY_IMPALA = _TINY | {
  "agent.n_step": 1, "agent.lookahead_rows": 0, "agent.batch_size": 4,
  "agent.trace_length": 6, "network.core_units": 4,
  "replay.capacity_sequences": 16, "replay.min_sequences": 4,
}  # fmt: skip


# The same, each learned from by the worker that played it.
_TINY_A3C = _TINY_IMPALA | {
  "agent.batch_size": 1, "replay.capacity_sequences": 4,
  "replay.min_sequences": 1,
}  # fmt: skip


@pytest.mark.parametrize("member", ["prioritized", "impala", "a3c"])
def test_a_member_goes_on_exactly(member, tmp_path):
  tiny = {"impala": _TINY_IMPALA, "a3c": _TINY_A3C}.get(member, _TINY)
  config = FAMILY[f"{member}-small"]().updated(tiny)
  longer = config.updated({"run.total_steps": 480})
  whole = train(longer, run_dir=tmp_path / "whole")
  train(config, run_dir=tmp_path / "parts")
  parts = train(longer, run_dir=tmp_path / "parts")
  assert whole.steps == parts.steps and int(whole.state.num_updates) > 20
  assert whole.replay_ratio == parts.replay_ratio
  jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)


@pytest.mark.parametrize(
  "slow, backend",
  [
    ("learner", "local"),
    pytest.param("learner", "reverb", marks=pytest.mark.reverb),
    ("actors", "local"),
  ],
)
def test_a_queue_keeps_actors_and_learner_together(
  slow, backend, tmp_path, monkeypatch
):
  """With threads, whoever is slow: each transition is trained on once, and none
  is older than the queue, what is on its way and a refresh make it."""
  if backend == "reverb":
    pytest.importorskip("reverb")
  loop, name = {
    "actors": (ActorLoop, "step"),
    "learner": (LearnerLoop, "step"),
  }[slow]
  step = getattr(loop, name)

  def slowly(*args):
    time.sleep(0.01 if slow == "actors" else 0.05)
    return step(*args)

  monkeypatch.setattr(loop, name, slowly)
  rows, run_dir = [], tmp_path / "run"
  config = FAMILY["impala-small"]().updated(
    _TINY_IMPALA
    | {
      "run.lockstep": False,
      "run.total_steps": 1_500,
      "run.actor_refresh_steps": 5,
      "replay.backend": backend,
      "log.period_updates": 5,
    }
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Reverb's open port
    result = train(config, run_dir=run_dir, on_row=rows.append)
  trained = [row for row in rows if np.isfinite(row["lag_p90"])]
  assert abs(result.replay_ratio - 1) < 0.3 and len(trained) > 3
  assert {row["reuse_mean"] for row in trained} == {1.0}
  assert max(row["replay_size"] for row in rows) <= 16
  # A full queue is 4 batches; 8 are on their way at most; a refresh is each
  # 20 steps, an unroll 20 more: 2 batches.
  assert max(row["lag_p90"] for row in trained) <= 4 + 8 + 2
  for row in trained:
    assert not set(warnings_of(row, config)) & {"lag_p50", "q_max_mean"}
    assert 0 < row["policy_entropy"] <= np.log(4) + 1e-5
    assert 0 <= row["rho_clipped"] <= 1 and np.isfinite(row["value_mean"])
    assert np.isnan(row["q_max_mean"]) and np.isnan(row["dq_first"])


def test_workers_in_threads_train_and_resume(tmp_path):
  """Each step is trained on once, staleness is in the log, episodes of all."""
  rows, run_dir = [], tmp_path / "run"
  config = FAMILY["a3c-small"]().updated(
    _TINY_A3C
    | {
      "run.lockstep": False,
      "run.total_steps": 800,
      "log.period_updates": 20,
      "checkpoint.save_replay": False,
    }
  )
  train(config, run_dir=run_dir, on_row=rows.append)
  result = train(
    config.updated({"run.total_steps": 1_600}),
    run_dir=run_dir,
    on_row=rows.append,
  )
  assert 1_600 <= result.steps < 1_600 + 4
  # What is unfinished at an end is not trained on.
  assert abs(result.replay_ratio - 1) < 0.1
  last = rows[-1]
  assert last["updates"] == int(result.state.num_updates) >= 1_500 / 5
  trained = [row for row in rows if np.isfinite(row["lag_p90"])]
  assert max(row["lag_p90"] for row in trained) >= 1
  assert all(0 <= row["lag_p10"] for row in trained)
  assert {row["replay_size"] for row in rows} == {0}
  assert last["episodes"] > 1_600 / 12
  for row in trained:
    assert not set(warnings_of(row, config)) & {"lag_p50", "q_max_mean"}
    assert row["share_step"] > 0 and row["share_environment"] > 0


def test_an_error_of_one_worker_ends_the_run(tmp_path, monkeypatch):
  act, calls = Worker.act, []

  def failing(worker):
    calls.append(1)
    if len(calls) > 50:
      raise ZeroDivisionError("in a worker")
    return act(worker)

  monkeypatch.setattr(Worker, "act", failing)
  config = FAMILY["a3c-small"]().updated(
    _TINY_A3C | {"run.lockstep": False, "run.total_steps": 10**6}
  )
  with pytest.raises(RunError, match="in a worker"):
    train(config, run_dir=tmp_path / "run")


def test_a_policy_is_read_back_and_draws_its_actions(tmp_path):
  config = FAMILY["impala-small"]().updated(_TINY_IMPALA)
  trained = train(config, run_dir=tmp_path / "run")
  agent = load_agent(tmp_path / "run")
  jax.tree.map(
    np.testing.assert_array_equal, agent.params, trained.state.params
  )
  n = 300
  obs = np.zeros((n, *agent.spec.obs_shape), np.float32)
  a, log_pi, state = agent.step(agent.initial_state(n), obs, 0.0, True)
  pi = np.exp(log_pi[0])
  assert abs(pi.sum() - 1) < 1e-5
  np.testing.assert_allclose(
    np.bincount(a, minlength=4) / n, pi, atol=4 * 0.5 / n**0.5
  )
  assert value_unit(config.agent).startswith("log pi")


def test_settings_that_came_later_had_their_defaults():
  """A run that was saved without them goes on exactly: nothing has changed."""
  before, now = to_dict(Config()), to_dict(Config())
  for section, field in (
    ("agent", "double_q"), ("agent", "lookahead_rows"), ("agent", "optimizer"),
    ("network", "dueling"), ("replay", "initial_priority"),
    ("agent", "algorithm"), ("replay", "order"),
  ):  # fmt: skip
    del before[section][field]
  before["network"]["torso_channels"] = [32, 64, 64]  # JSON has no tuples
  assert _changed_settings(before, now) == []
  now["agent"]["double_q"] = False
  now["network"]["torso_channels"] = (32, 64, 65)
  assert _changed_settings(before, now) == [
    "network.torso_channels", "agent.double_q",
  ]  # fmt: skip


@pytest.mark.parametrize("member", ["dqn", "r2d2"])
def test_the_probe_of_a_member_without_memory_finds_nothing_stale(
  member, tmp_path
):
  """Lookahead and transitions in the dQ of ordinary runs."""
  changes = _TINY | {"run.total_steps": 160}
  if member == "r2d2":
    changes |= {"agent.trace_length": 6, "agent.overlap": 2,
                "network.core_units": 4}  # fmt: skip
  rows = []
  train(
    FAMILY[f"{member}-small"]().updated(changes),
    run_dir=tmp_path / "run",
    on_row=rows.append,
  )
  dq = [row["dq_last"] for row in rows if np.isfinite(row["dq_last"])]
  assert dq and (max(dq) == 0.0) == (member == "dqn")
