"""Runs with action masks: what is stored, learned, saved and given away."""

import jax
import numpy as np
import pytest

from r2d2_jax.config import UserError
from r2d2_jax.presets import smoke
from r2d2_jax.replay.items import row_specs
from r2d2_jax.replay.meta import settings_of
from r2d2_jax.system.example import example_batch
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.exported import read_exported
from r2d2_jax.system.train import RunError, train
from r2d2_jax.types import CoreState, EnvSpec
from tests.agents import exported_again

HERE = "tests.envs.masked_gymnasium"
SETTINGS = {
  "env.task": f"{HERE}:make_doors",
  "env.action_mask": True,
  "evaluation.num_episodes": 20,
  "run.total_steps": 4_000,
}


def _config(**changes):
  return smoke().updated(SETTINGS | changes)


def test_the_learner_has_each_rows_mask_and_the_same_priorities():
  example = example_batch(
    _config(**{"agent.batch_size": 8, "replay.priority_exponent": 1.0})
  )
  s = example.batch.sequence
  mask_t = s.inputs.action_mask_t
  shown = s.inputs.obs_t[..., :4] == 1
  plays = s.valid_t & (s.discount_t == 1)
  np.testing.assert_array_equal(mask_t[plays], shown[plays])
  assert mask_t[s.valid_t].any(axis=-1).all() and not mask_t[~s.valid_t].any()
  # Of the same parameters a sample's probability is its priority's share.
  _, output = jax.jit(example.agent.learner_step)(example.state, example.batch)
  ratio = output.priorities / example.batch.probability
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
  assert np.ptp(np.asarray(output.priorities)) > 0.01
  assert float(output.metrics["q_max_mean"]) > -1e3


def test_worlds_without_masks_store_nothing_of_them():
  spec = EnvSpec((3,), np.dtype(np.float32), 4, 1)
  core_state = CoreState(np.zeros((1, 0, 3), np.float32), ())
  names = list(row_specs(spec, core_state, False))
  assert names == [
    "obs_t",
    "a_tm1",
    "r_t",
    "discount_t",
    "is_first_t",
    "a_t",
    "valid_t",
    "env_id",
    "num_updates",
    "step",
  ]
  masked = row_specs(spec._replace(action_mask=True), core_state, False)
  assert set(masked) - set(names) == {"action_mask_t"}
  settings = settings_of("local", smoke(), masked, core_state)
  assert settings["rows of action_mask_t"] == "bool [4]"


@pytest.mark.slow
def test_a_run_keeps_to_the_rules_and_learns(tmp_path):
  """A locked door raises; the score is 0 where the best open one is taken."""
  result = train(
    _config(**{"run.total_steps": 20_000}), run_dir=tmp_path / "run"
  )
  assert result.evaluation.returns.mean() > -0.1
  agent = load_agent(tmp_path / "run")
  _check_saved(agent)


def _check_saved(agent):
  state = agent.initial_state(2)
  obs = np.zeros((2, 5), np.float32)
  mask = np.array([[True, False, False, False], [False, True, True, False]])
  action, q, _ = agent.step(state, obs, 0.0, True, action_mask=mask)
  assert action[0] == 0 and action[1] in (1, 2)
  np.testing.assert_array_equal(np.isneginf(q), ~mask)
  for bad, message in (
    (None, r"expected \(2, 4\), as .*, got None"),
    (mask[:, :3], r"expected \(2, 4\), as .*, got \(2, 3\)"),
    (
      mask & False,
      "an action that may be taken in each lane, got none in lane 0",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      agent.step(state, obs, 0.0, True, action_mask=bad)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_is_exported(tmp_path):
  config = _config(
    **{
      "run.lockstep": True,
      "run.total_steps": 3_000,
      "evaluation.num_episodes": 2,
    }
  )
  whole = train(config, run_dir=tmp_path / "whole")
  train(config.updated({"run.total_steps": 1_500}), run_dir=tmp_path / "halves")
  halves = train(config, run_dir=tmp_path / "halves")
  assert int(whole.state.num_updates) > 3
  jax.tree.map(np.testing.assert_array_equal, whole.state, halves.state)

  agent = load_agent(tmp_path / "halves")
  out = tmp_path / "out"
  exported = exported_again(agent, out)
  assert read_exported(out).spec == agent.spec
  assert '"format": 2' in (out / "exported.json").read_text()
  _check_saved(exported)


def test_a_row_without_any_action_ends_the_run_in_one_sentence(tmp_path):
  config = _config(**{"env.task": f"{HERE}:make_none"})
  with pytest.raises((RunError, UserError)) as caught:
    train(config, run_dir=tmp_path / "run")
  assert "make_none', lane 0: expected an action that may be taken" in str(
    caught.value
  )
