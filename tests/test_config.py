"""Settings: presets are whole, and what cannot work is refused with words."""

import math

import pytest

from r2d2_jax.config import Config, ConfigError, from_dict, to_dict, validate
from r2d2_jax.presets import PRESETS


def changed(field: str, value) -> Config:
  return Config().updated({field: value})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_json(name):
  config = PRESETS[name]()
  validate(config)
  assert from_dict(to_dict(config)) == config


def test_the_paper_preset_is_table_2():
  config = PRESETS["paper"]()
  agent, network, replay = config.agent, config.network, config.replay
  assert (agent.burn_in, agent.trace_length, agent.overlap) == (40, 80, 40)
  assert (agent.n_step, agent.discount) == (5, 0.997)
  assert (agent.priority_eta, agent.importance_exponent) == (0.9, 0.6)
  assert agent.target_period_updates == 2500
  assert (agent.learning_rate, agent.adam_epsilon) == (1e-4, 1e-3)
  assert agent.batch_size == 64
  assert (agent.reward_clip, agent.value_rescaling) == (0.0, True)
  assert (agent.epsilon_base, agent.epsilon_alpha) == (0.4, 7.0)
  assert (config.env.num_envs, config.run.actor_refresh_steps) == (256, 400)
  assert config.env.max_episode_frames == 108_000
  assert (config.env.fire_on_reset, config.env.full_action_space) == (
    False,
    True,
  )
  assert (config.env.life_loss, config.env.noop_max) == ("ignore", 30)
  assert network.torso_channels == (32, 64, 64)
  assert (network.torso_units, network.core_units, network.head_units) == (
    512,
    512,
    512,
  )
  assert network.frame_stack == 4
  assert (replay.capacity_sequences, replay.priority_exponent) == (100_000, 0.9)
  assert replay.replay_ratio == 0.8
  assert (config.item_rows, config.block_rows) == (120, 40)


def test_the_submission_differs_in_importance_sampling_alone():
  paper, submission = (
    to_dict(PRESETS["paper"]()),
    to_dict(PRESETS["submission"]()),
  )
  assert submission["agent"].pop("importance_exponent") == 0.0
  paper["agent"].pop("importance_exponent")
  assert submission == paper


@pytest.mark.parametrize(
  "field, value, expected",
  [
    ("agent.burn_in", -1, "at least 0"),
    ("agent.n_step", 0, "at least 1"),
    ("agent.discount", 1.5, "between 0 and 1"),
    ("agent.discount", math.nan, "between 0 and 1"),
    ("agent.learning_rate", 0.0, "more than 0"),
    ("agent.learning_rate", math.inf, "more than 0"),
    ("agent.overlap", 80, "less than agent.trace_length"),
    ("agent.overlap", 0, "at least 1"),
    ("agent.trace_length", 1, "at least 2"),
    ("agent.burn_in", 41, "common divisor"),
    ("env.batch_size", 300, "at most env.num_envs"),
    ("env.num_envs", 0, "at least 1"),
    ("env.task", " ", "name of a game"),
    ("env.flicker_probability", 1.1, "between 0 and 1"),
    ("env.max_episode_frames", 3, "at least one agent step"),
    ("network.torso_channels", (), "numbers above 0"),
    ("network.torso_channels", (32, 0, 64), "numbers above 0"),
    ("replay.min_sequences", 63, "at least agent.batch_size"),
    ("replay.capacity_sequences", 4_999, "at least replay.min_sequences"),
    ("replay.replay_ratio", 0.0, "more than 0"),
    ("replay.port", 70_000, "between 0 and 65535"),
    ("run.lockstep", True, "'local' with run.lockstep"),
    ("run.seed", 2**31, "at most 2147483647"),
    ("run.learner_devices", -1, "at least 0"),
    ("run.learner_devices", 3, "divisor of agent.batch_size (64)"),
  ],
)
def test_what_cannot_work_is_refused_in_one_line(field, value, expected):
  with pytest.raises(ConfigError) as error:
    validate(changed(field, value))
  lines = str(error.value).splitlines()
  assert any(expected in line for line in lines), lines
  if "common divisor" not in expected and field != "run.lockstep":
    assert any(field in line and repr(value) in line for line in lines), lines


def test_every_fault_is_named_at_once():
  config = Config()
  config = config.updated(
    {"agent.n_step": 0, "agent.priority_eta": 2.0, "run.total_steps": 0}
  )
  with pytest.raises(ConfigError) as error:
    validate(config)
  assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
    "agent.n_step",
    "agent.priority_eta",
    "run.total_steps",
  ]


@pytest.mark.parametrize(
  "values, expected",
  [
    ({"agents": {}}, "unknown section"),
    ({"agent": {"n_steps": 3}}, "unknown settings"),
  ],
)
def test_unknown_names_are_refused(values, expected):
  with pytest.raises(ConfigError, match=expected):
    from_dict(values)


def test_updated_changes_what_it_names_and_nothing_else():
  config = Config().updated({"run.seed": 3, "log.period_seconds": 2.0})
  assert (config.run.seed, config.log.period_seconds) == (3, 2.0)
  assert config.setting("run.seed") == 3
  assert config.updated({"run.seed": 0, "log.period_seconds": 10.0}) == Config()


@pytest.mark.parametrize(
  "name, words",
  [
    ("run.seeed", "unknown setting 'run.seeed'; is it run.seed?"),
    ("xyzzy", "expected section.name"),
    (
      "run.eval_lanes",
      "run.eval_lanes: this setting is called evaluation.num_lanes",
    ),
  ],
)
def test_updated_refuses_what_is_no_setting(name, words):
  with pytest.raises(ConfigError) as error:
    Config().updated({name: 1})
  assert words in str(error.value)


def test_settings_that_an_older_version_wrote_are_read():
  old = {
    "run": {
      "seed": 4,
      "log_seconds": 3.0,
      "eval_lanes": 7,
      "checkpoint_replay": False,
      "memory_gib": 2.0,
    }
  }
  config = from_dict(old)
  assert config == Config().updated(
    {
      "run.seed": 4,
      "log.period_seconds": 3.0,
      "evaluation.num_lanes": 7,
      "checkpoint.save_replay": False,
      "limits.memory_gib": 2.0,
    }
  )
  assert old["run"]["log_seconds"] == 3.0  # what was given is left as it was
