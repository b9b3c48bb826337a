"""Whole runs with other cores than the LSTM."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.cores import Core
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.train import train


class _Averages(nn.Module):
  """The episode's mean: a sum in bfloat16, and a count of rows."""

  @nn.compact
  def __call__(self, x, carry, is_first_t):
    x = nn.Dense(8)(x)

    def step(carry, row):
      x, is_first = row
      total = jnp.where(is_first[:, None], 0, carry["total"])
      count = jnp.where(is_first, 0, carry["count"]) + 1
      total = (total + x).astype(jnp.bfloat16)
      mean = total.astype(jnp.float32) / count[:, None]
      return {"total": total, "count": count}, mean

    carry, y = jax.lax.scan(step, carry, (x, is_first_t))
    return y, carry


AVERAGES = Core(
  lambda config: _Averages(),
  lambda config, batch_size: {
    "total": jnp.zeros((batch_size, 8), jnp.bfloat16),
    "count": jnp.zeros(batch_size, jnp.int32),
  },
)


@pytest.mark.parametrize("core", ["gru", "tests.system.test_cores:AVERAGES"])
def test_trains_saves_resumes_exactly_and_evaluates(tmp_path, core):
  config = smoke().updated(
    {
      "network.core": core,
      "run.lockstep": True,
      "run.total_steps": 1_500,
      "evaluation.num_episodes": 2,
      "log.period_seconds": 600.0,
      "log.tensorboard": False,
    }
  )
  whole = train(config, run_dir=tmp_path / "whole")
  half = train(
    config.updated({"run.total_steps": 1_000, "evaluation.num_episodes": 0}),
    run_dir=tmp_path / "halves",
  )
  assert 0 < int(half.state.num_updates) < int(whole.state.num_updates)
  resumed = train(config, run_dir=tmp_path / "halves")
  assert resumed.steps == whole.steps
  jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
  np.testing.assert_array_equal(
    resumed.evaluation.returns, whole.evaluation.returns
  )
  # The probe has measured the carry's staleness.
  assert np.isfinite(read_log(tmp_path / "whole" / "log.csv")["dq_last"]).any()
