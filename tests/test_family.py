"""The family's presets: as their papers have them, and small with the same
switches."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.agent import make_agent
from r2d2_jax.config import Config, from_dict, to_dict, validate
from r2d2_jax.family import FAMILY, MEMBERS, switches
from r2d2_jax.presets import PRESETS, paper, smoke
from r2d2_jax.types import EnvSpec


@pytest.mark.parametrize("name", FAMILY)
def test_presets_are_valid_and_survive_json(name):
  config = FAMILY[name]()
  validate(config)
  assert from_dict(to_dict(config)) == config
  assert FAMILY[name].__doc__


def test_no_name_is_taken_twice():
  assert not set(FAMILY) & set(PRESETS)
  assert set(FAMILY) == {n + s for n in MEMBERS for s in ("", "-small")}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_size_leaves_the_switches_as_they_are(name):
  """But for lengths of items and the exponent's period, which are sizes too."""
  for size in "", "-small":
    config = FAMILY[name + size]()
    lengths = ("agent.trace_length", "agent.overlap")
    for setting, value in switches(name).items():
      if not (name == "drqn-sequential" and setting in lengths):
        assert config.setting(setting) == value, (size, setting)


def test_r2d2_is_the_paper_preset():
  assert FAMILY["r2d2"]() == paper() == Config()
  feedforward = paper().updated({"network.core": "feedforward"})
  assert FAMILY["r2d2-feedforward"]() == feedforward


def _values(name, *settings):
  config = FAMILY[name]()
  return tuple(config.setting(setting) for setting in settings)


def test_dqn_is_table_1_of_its_paper():
  assert _values(
    "dqn", "agent.batch_size", "replay.capacity_sequences",
    "network.frame_stack", "agent.target_period_updates", "agent.discount",
    "env.frame_skip", "agent.learning_rate", "agent.rmsprop_decay",
    "agent.rmsprop_epsilon", "agent.epsilon_start", "agent.epsilon_end",
    "agent.epsilon_decay_steps", "replay.min_sequences", "env.noop_max",
  ) == (32, 1_000_000, 4, 10_000, 0.99, 4, 2.5e-4, 0.95, 0.01, 1.0, 0.1,
        1_000_000, 50_000, 30)  # fmt: skip
  assert _values(
    "dqn",
    "agent.n_step",
    "agent.double_q",
    "network.dueling",
    "agent.loss",
    "agent.reward_clip",
    "agent.value_rescaling",
    "replay.priority_exponent",
    "agent.importance_exponent",
    "env.life_loss",
    "replay.replay_ratio",
  ) == (1, False, False, "huber", 1.0, False, 0.0, 0.0, "reset", 32 / 4)


def test_each_step_of_the_road_is_its_own():
  """What a member changes in the one before it, whatever the size."""

  def between(old, new):
    a, b = switches(old), switches(new)
    return {k for k in {*a, *b} if a.get(k) != b.get(k)}

  assert between("dqn", "double-dqn") == {"agent.double_q"}
  assert between("double-dqn", "dueling") == {
    "network.dueling", "agent.max_grad_norm",
  }  # fmt: skip
  assert between("double-dqn", "n-step") == {
    "agent.n_step", "agent.lookahead_rows",
  }  # fmt: skip
  assert between("double-dqn", "prioritized") == {
    "replay.priority_exponent", "replay.initial_priority",
    "agent.importance_exponent",
  }  # fmt: skip
  assert between("drqn-random", "drqn-sequential") == {
    "agent.trace_length", "agent.overlap",
  }  # fmt: skip


def test_ape_x_is_its_appendix():
  assert _values(
    "ape-x", "env.num_envs", "agent.batch_size", "agent.n_step",
    "agent.discount", "agent.reward_clip", "agent.target_period_updates",
    "replay.priority_exponent", "agent.importance_exponent",
    "replay.initial_priority", "agent.optimizer", "agent.learning_rate",
    "agent.rmsprop_decay", "agent.rmsprop_epsilon", "agent.max_grad_norm",
    "agent.exploration", "agent.epsilon_base", "agent.epsilon_alpha",
    "replay.capacity_sequences", "replay.min_sequences",
  ) == (360, 512, 3, 0.99, 1.0, 2_500, 0.6, 0.4, "actor", "rmsprop", 6.25e-5,
        0.95, 1.5e-7, 40.0, "ladder", 0.4, 7.0, 2_000_000, 50_000)  # fmt: skip


def test_impala_is_table_g1_of_its_paper():
  assert _values(
    "impala", "agent.batch_size", "agent.discount", "agent.value_cost",
    "agent.entropy_cost", "agent.learning_rate", "agent.rmsprop_epsilon",
    "agent.max_grad_norm", "agent.reward_clip", "env.frame_skip",
    "network.frame_stack", "env.life_loss", "agent.optimizer",
    "agent.rmsprop_centered", "agent.rho_bar", "agent.c_bar",
  ) == (32, 0.99, 0.5, 0.01, 6e-4, 0.01, 40.0, 1.0, 4, 4, "reset", "rmsprop",
        False, 1.0, 1.0)  # fmt: skip
  config = FAMILY["impala"]()
  # Twenty steps of every lane, each trained on once, and a rate that is 0 when
  # the last of them are.
  assert config.agent.trace_length - config.agent.overlap == 20
  assert config.run.actor_refresh_steps == 20
  assert (
    config.agent.learning_rate_decay_updates * 32 * 20
    == config.run.total_steps
    == 200_000_000 / 4
  )


def test_a3c_is_section_8_of_its_paper():
  assert _values(
    "a3c", "env.num_envs", "agent.discount", "agent.entropy_cost",
    "agent.rmsprop_decay", "agent.rmsprop_centered", "network.core",
    "network.core_units", "network.torso_units", "env.frame_skip",
    "network.use_previous_action", "network.use_previous_reward",
  ) == (16, 0.99, 0.01, 0.99, False, "lstm", 256, 256, 4, False,
        False)  # fmt: skip
  config = FAMILY["a3c"]()
  assert config.agent.trace_length - config.agent.overlap == 5  # t_max
  assert 1e-4 <= config.agent.learning_rate <= 1e-2
  assert config.agent.learning_rate_decay_updates * 5 == config.run.total_steps
  assert {
    k
    for k in switches("impala") | switches("a3c")
    if switches("impala").get(k) != switches("a3c").get(k)
  } == {
    "agent.algorithm",
    "network.use_previous_action",
    "network.use_previous_reward",
  }


def test_impalas_large_network_has_the_papers_size():
  """Figure 3: 1.6 million parameters."""
  agent = make_agent(
    EnvSpec((84, 84), np.dtype(np.uint8), 18, 4), FAMILY["impala"]()
  )
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  num_params = sum(x.size for x in jax.tree.leaves(params))
  assert round(num_params / 1e6, 1) == 1.6


def test_no_return_of_a_single_transition_is_cut():
  for name in FAMILY:
    agent = FAMILY[name]().agent
    if agent.trace_length == 2:
      assert agent.lookahead_rows == agent.n_step - 1


def test_small_ones_are_smoke_with_other_switches():
  base = smoke()
  for name in MEMBERS:
    config = FAMILY[f"{name}-small"]()
    assert config.network.torso_channels == base.network.torso_channels
    if not config.agent.has_policy:
      assert config.agent.learning_rate == base.agent.learning_rate
    assert config.env.num_envs == base.env.num_envs
