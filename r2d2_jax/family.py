"""R2D2's family tree as presets: DQN to Ape-X, DRQN, A3C, IMPALA; two sizes.

A member is a set of switches of the same code. NAME is the published agent on
Atari; NAME-small has the same switches, the sizes of preset `smoke` and Catch
as its task: minutes on two cores. docs/family.md has the equations, and what
differs from each paper.

Sources
    Nature   Mnih et al. 2015, methods and extended data table 1
    Double   van Hasselt et al. 2016, section "Empirical results", appendix
    Dueling  Wang et al. 2016, section 4.2
    Rainbow  Hessel et al. 2018, table 1
    PER      Schaul et al. 2016, sections 3 and 4, algorithm 1
    Ape-X    Horgan et al. 2018, sections 3 and 4, appendix C
    DRQN     Hausknecht & Stone 2015, sections 4 and 5, appendix A
    A3C      Mnih et al. 2016, sections 4 and 5.1, algorithm S3, section 8
    IMPALA   Espeholt et al. 2018, section 4, figure 3, table G.1
    R2D2     Kapturowski et al. 2019: see `config/sections.py`
"""

from collections.abc import Callable, Mapping
from typing import Any

from r2d2_jax.config import Config
from r2d2_jax.presets import smoke

_Settings = Mapping[str, Any]

# --- Switches: what makes a member, whatever its size ------------------------

_DQN: _Settings = {
  # An item is one transition.
  "agent.burn_in": 0,
  "agent.trace_length": 2,
  "agent.overlap": 1,
  "agent.n_step": 1,
  "agent.double_q": False,
  "agent.value_rescaling": False,
  "agent.reward_clip": 1.0,  # Nature, methods
  "agent.loss": "huber",  # Nature, methods: errors clipped to [-1, 1]
  "agent.discount": 0.99,  # Nature, table 1
  "agent.importance_exponent": 0.0,
  "agent.optimizer": "rmsprop",  # Nature, table 1
  "agent.max_grad_norm": 0.0,
  "agent.exploration": "linear",  # Nature, methods
  "network.core": "none",
  "network.dueling": False,
  "network.use_previous_action": False,
  "network.use_previous_reward": False,
  "replay.priority_exponent": 0.0,
}
_DOUBLE = _DQN | {"agent.double_q": True}
_DUELING = _DOUBLE | {
  "network.dueling": True,
  "agent.max_grad_norm": 10.0,  # Dueling, section 4.2
}
# Rainbow, table 1: n = 3.
_THREE_STEPS = {"agent.n_step": 3, "agent.lookahead_rows": 2}
_N_STEP = _DOUBLE | _THREE_STEPS
_PRIORITIZED = _DOUBLE | {
  "replay.priority_exponent": 0.6,  # PER, section 4: proportional
  "replay.initial_priority": "max",  # PER, algorithm 1
  "agent.importance_exponent": 0.4,  # PER, section 4
}
_APE_X = _DOUBLE | _THREE_STEPS | {
  "network.dueling": True,  # Ape-X, section 3.1
  "agent.loss": "squared",  # Ape-X, section 3.1
  "agent.max_grad_norm": 40.0,  # Ape-X, appendix C
  "agent.exploration": "ladder",  # Ape-X, section 4.1
  "agent.importance_exponent": 0.4,  # Ape-X, appendix C
  "replay.priority_exponent": 0.6,  # Ape-X, appendix C
}  # fmt: skip
_DRQN = _DQN | {
  "network.core": "lstm",  # DRQN, section 4
  "network.frame_stack": 1,  # DRQN, section 4
  "agent.start_state": "zero",  # DRQN, section 4.2
  "agent.max_grad_norm": 10.0,  # DRQN, appendix A: the LSTM's gradients
}
# DRQN, section 4.2: ten steps unrolled, from any row of an episode.
_DRQN_RANDOM = _DRQN | {"agent.trace_length": 11, "agent.overlap": 10}
_IMPALA: _Settings = {
  "agent.algorithm": "impala",
  # An unroll begins with the row in which the one before it ended.
  "agent.burn_in": 0,
  "agent.overlap": 1,
  "agent.value_rescaling": False,
  "agent.reward_clip": 1.0,  # IMPALA, table G.1, and all down to optimizer
  "agent.discount": 0.99,
  "agent.value_cost": 0.5,
  "agent.entropy_cost": 0.01,
  "agent.max_grad_norm": 40.0,
  "agent.optimizer": "rmsprop",
  "agent.rmsprop_centered": False,
  "agent.rho_bar": 1.0,  # IMPALA, section 4.1
  "agent.c_bar": 1.0,
  # The policy's own: no lane takes other actions.
  "agent.exploration": "linear",
  "agent.epsilon_start": 0.0,
  "agent.epsilon_end": 0.0,
  "evaluation.epsilon": 0.0,
  "network.core": "lstm",  # IMPALA, figure 3
  "network.head_units": 0,  # IMPALA, figure 3
  "replay.order": "fifo",  # IMPALA, section 3
  "replay.replay_ratio": 1.0,
}
_A3C = _IMPALA | {
  "agent.algorithm": "a3c",
  "network.use_previous_action": False,  # A3C, section 5.1: the LSTM sees none
  "network.use_previous_reward": False,
}
_R2D2: _Settings = {}
_R2D2_FEEDFORWARD = {"network.core": "feedforward"}  # R2D2, figure 7

# --- Sizes: as published -----------------------------------------------------

_NATURE_SIZE: _Settings = {
  "env.num_envs": 1,
  "env.full_action_space": False,
  "env.life_loss": "reset",  # Nature, methods
  "env.max_episode_frames": 18_000,  # Nature, methods: five minutes
  "network.torso_units": 0,  # the head's hidden layer is the only one
  "network.head_units": 512,  # Nature, methods
  "agent.batch_size": 32,  # Nature, table 1, and all down to rmsprop_epsilon
  "agent.target_period_updates": 10_000,
  "agent.epsilon_start": 1.0,
  "agent.epsilon_end": 0.1,
  "agent.epsilon_decay_steps": 1_000_000,
  "agent.learning_rate": 2.5e-4,
  "agent.rmsprop_decay": 0.95,
  "agent.rmsprop_epsilon": 0.01,
  "replay.capacity_sequences": 1_000_000,
  "replay.min_sequences": 50_000,
  # Nature, table 1: 32 transitions for every 4 steps.
  "replay.replay_ratio": 8.0,
  "run.actor_refresh_steps": 4,
  "run.total_steps": 50_000_000,  # Double, appendix
  "evaluation.epsilon": 0.05,  # Nature, methods
}
_PRIORITIZED_SIZE = _NATURE_SIZE | {
  "agent.learning_rate": 2.5e-4 / 4,  # PER, section 4
  "agent.importance_anneal_updates": 12_500_000,  # the whole run
  # Of Double DQN's tuned version, PER's baseline.
  "agent.target_period_updates": 30_000,
  "agent.epsilon_end": 0.01,
  "evaluation.epsilon": 0.001,
}
_APE_X_SIZE = _NATURE_SIZE | {
  "env.num_envs": 360,  # Ape-X, section 4.1
  "env.max_episode_frames": 108_000,
  "agent.batch_size": 512,  # Ape-X, appendix C, and all down to rmsprop_epsilon
  "agent.target_period_updates": 2_500,
  "agent.epsilon_base": 0.4,
  "agent.epsilon_alpha": 7.0,
  "agent.learning_rate": 2.5e-4 / 4,
  "agent.rmsprop_decay": 0.95,
  "agent.rmsprop_epsilon": 1.5e-7,
  "replay.capacity_sequences": 2_000_000,
  "replay.min_sequences": 50_000,
  # Ape-X, section 4.1: 19 batches a second, 12 500 transitions a second.
  "replay.replay_ratio": 0.8,
  "run.actor_refresh_steps": 100,  # Ape-X, section 4.1: 400 frames
  "run.total_steps": 5_700_000_000,  # Ape-X, table 1: 22 800 million frames
  "evaluation.epsilon": 0.001,
}
_DRQN_SIZE = _NATURE_SIZE | {
  "network.core_units": 512,  # DRQN, section 4
  "network.head_units": 0,
  "replay.capacity_sequences": 400_000,  # DRQN, appendix A: frames
}
_DRQN_SEQUENTIAL_SIZE = _DRQN_SIZE | {
  # An episode, as far as an item of 1024 rows goes.
  "agent.trace_length": 1024,
  "agent.overlap": 64,
  "agent.batch_size": 1,
  "replay.capacity_sequences": 417,
  "replay.min_sequences": 52,
}

_IMPALA_SIZE: _Settings = {
  "env.num_envs": 48,  # IMPALA, table 1: of a single machine
  "env.full_action_space": False,
  "env.life_loss": "reset",  # IMPALA, table G.1
  "network.torso": "impala",  # IMPALA, figure 3, and all down to core_units
  "network.torso_channels": (16, 32, 32),
  "network.torso_units": 256,
  "network.core_units": 256,
  "agent.trace_length": 21,  # IMPALA, table G.1: 20 steps; down to rmsprop
  "agent.batch_size": 32,
  "agent.learning_rate": 6e-4,
  "agent.learning_rate_decay_updates": 78_125,  # the whole run: to 0
  "agent.rmsprop_epsilon": 0.01,
  "agent.rmsprop_decay": 0.99,  # its program
  # A batch, and room for what the lanes may bring in a step.
  "replay.min_sequences": 32,
  "replay.capacity_sequences": 128,
  "run.actor_refresh_steps": 20,  # IMPALA, section 3: before each unroll
  "run.total_steps": 50_000_000,  # IMPALA, section 5.3.2: 200 million frames
}

_A3C_SIZE = _NATURE_SIZE | {
  "env.num_envs": 16,  # A3C, section 5.1: 16 workers
  "network.torso_units": 256,  # A3C, section 8, and both below
  "network.core_units": 256,
  "network.head_units": 0,
  "agent.trace_length": 6,  # A3C, section 8: t_max 5
  "agent.batch_size": 1,
  "agent.learning_rate": 7e-4,  # A3C, section 8: drawn from 1e-4 to 1e-2
  "agent.learning_rate_decay_updates": 10_000_000,  # the whole run: to 0
  "agent.rmsprop_decay": 0.99,  # A3C, section 8
  "agent.rmsprop_epsilon": 0.1,
  "agent.epsilon_start": 0.0,
  "agent.epsilon_end": 0.0,
  "evaluation.epsilon": 0.0,
  "replay.backend": "local",
  "replay.min_sequences": 1,
  "replay.capacity_sequences": 4,  # of a worker, where it plays
  "replay.replay_ratio": 1.0,
  "run.actor_refresh_steps": 1,
}

# --- Sizes: small ------------------------------------------------------------

_SMALL: _Settings = {
  "env.task": "Catch-v0",
  "run.lockstep": True,
  "run.total_steps": 120_000,
  "checkpoint.period_updates": 100_000,
  "checkpoint.save_replay": False,
  "evaluation.num_episodes": 200,
  "evaluation.num_lanes": 50,
}
# As many rows of an update, and steps in the replay, as the others have.
_SMALL_TRANSITIONS = _SMALL | {
  "agent.batch_size": 128,
  "agent.epsilon_decay_steps": 40_000,
  # Gradients are small here, and smaller yet with PER's weights, which are
  # relative to the batch's largest: RMSProp must not see their size. With 1e-5
  # its steps were a quarter as long.
  "agent.rmsprop_epsilon": 1e-8,
  "replay.capacity_sequences": 12_000,
  "replay.min_sequences": 1_000,
  "replay.replay_ratio": 2.0,
}
_SMALL_PRIORITIZED = _SMALL_TRANSITIONS | {
  "agent.importance_anneal_updates": 1_800,
}
_SMALL_RANDOM = _SMALL_TRANSITIONS | {
  "agent.batch_size": 16,
  "network.head_units": 0,
}
# An unroll is a whole episode, as with R2D2's small size.
_SMALL_IMPALA = _SMALL | {
  "agent.trace_length": 13,
  "agent.batch_size": 8,
  "agent.learning_rate": 5e-3,
  "agent.rmsprop_decay": 0.99,
  "agent.rmsprop_epsilon": 0.01,
  "replay.min_sequences": 8,
  # A batch, and what 64 lanes may bring in a step.
  "replay.capacity_sequences": 160,
}
_SMALL_A3C = _SMALL_IMPALA | {
  "agent.batch_size": 1,
  "agent.learning_rate": 3e-3,
  "replay.min_sequences": 1,
  "replay.capacity_sequences": 4,
}
# One item is one whole episode of recall (12 rows at most) or of Catch (10).
_SMALL_SEQUENTIAL = _SMALL_RANDOM | {
  "agent.trace_length": 12,
  "agent.overlap": 6,
  "replay.capacity_sequences": 2_000,
  "replay.min_sequences": 100,
}


def _preset(
  summary: str, base: Callable[[], Config], *settings: _Settings
) -> Callable[[], Config]:
  """A function as those of `presets.PRESETS`, of this summary."""

  def make() -> Config:
    config = base()
    for some in settings:
      config = config.updated(some)
    return config

  make.__doc__ = summary
  return make


# Name -> summary, switches, published sizes, small sizes.
_MEMBERS: dict[str, tuple[str, _Settings, _Settings, _Settings]] = {
  "dqn": (
    "Mnih et al. 2015: Q-learning with replay and a target network.",
    _DQN, _NATURE_SIZE, _SMALL_TRANSITIONS,
  ),
  "double-dqn": (
    "Van Hasselt et al. 2016: the online network chooses the action.",
    _DOUBLE, _NATURE_SIZE, _SMALL_TRANSITIONS,
  ),
  "dueling": (
    "Wang et al. 2016: double DQN with value and advantage apart.",
    _DUELING, _NATURE_SIZE, _SMALL_TRANSITIONS,
  ),
  "n-step": (
    "Double DQN with Rainbow's returns of three steps.",
    _N_STEP, _NATURE_SIZE, _SMALL_TRANSITIONS,
  ),
  "prioritized": (
    "Schaul et al. 2016: double DQN that replays by the size of errors.",
    _PRIORITIZED, _PRIORITIZED_SIZE, _SMALL_PRIORITIZED,
  ),
  "ape-x": (
    "Horgan et al. 2018: all of these, from hundreds of actors.",
    _APE_X, _APE_X_SIZE, _SMALL_TRANSITIONS,
  ),
  "drqn-sequential": (
    "Hausknecht & Stone 2015: a recurrent DQN trained on whole episodes.",
    _DRQN, _DRQN_SEQUENTIAL_SIZE, _SMALL_SEQUENTIAL,
  ),
  "drqn-random": (
    "The same on random pieces of episodes, from the zero state.",
    _DRQN_RANDOM, _DRQN_SIZE, _SMALL_RANDOM,
  ),
  "a3c": (
    "Mnih et al. 2016: workers that share parameters, each with gradients of"
    " its own.",
    _A3C, _A3C_SIZE, _SMALL_A3C,
  ),
  "impala": (
    "Espeholt et al. 2018: a policy and its value, by V-trace, from a queue.",
    _IMPALA, _IMPALA_SIZE, _SMALL_IMPALA,
  ),
  "r2d2": (
    "Kapturowski et al. 2019: as preset paper.",
    _R2D2, {}, _SMALL,
  ),
  "r2d2-feedforward": (
    "R2D2 without memory: its figure 7.",
    _R2D2_FEEDFORWARD, {}, _SMALL,
  ),
}  # fmt: skip

MEMBERS = tuple(_MEMBERS)
FAMILY: dict[str, Callable[[], Config]] = {
  name + suffix: preset
  for name, (summary, switches, published, small) in _MEMBERS.items()
  for suffix, preset in (
    ("", _preset(summary, Config, switches, published)),
    ("-small", _preset(f"{summary} Minutes.", smoke, switches, small)),
  )
}


def switches(name: str) -> _Settings:
  """What makes a member: its settings in which it differs from R2D2's.

  Args:
    name: one of `MEMBERS`.
  """
  return dict(_MEMBERS[name][1])
