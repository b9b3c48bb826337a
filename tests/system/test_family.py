"""A member of the family trains, and goes on after a stop as if it had not."""

import jax
import numpy as np
import pytest

from r2d2_jax.config import Config, to_dict
from r2d2_jax.family import FAMILY
from r2d2_jax.system.run.resumed import _changed_settings
from r2d2_jax.system.train import train

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


def test_a_member_goes_on_exactly(tmp_path):
  config = FAMILY["prioritized-small"]().updated(_TINY)
  longer = config.updated({"run.total_steps": 480})
  whole = train(longer, run_dir=tmp_path / "whole")
  train(config, run_dir=tmp_path / "parts")
  parts = train(longer, run_dir=tmp_path / "parts")
  assert whole.steps == parts.steps and int(whole.state.num_updates) > 40
  jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)


def test_settings_that_came_later_had_their_defaults():
  """A run that was saved without them goes on exactly: nothing has changed."""
  before, now = to_dict(Config()), to_dict(Config())
  for section, field in (
    ("agent", "double_q"), ("agent", "lookahead_rows"), ("agent", "optimizer"),
    ("network", "dueling"), ("replay", "initial_priority"),
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
