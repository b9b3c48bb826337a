"""What the studies begin with: an agent for each kind of task, in two sizes.

Small: less than an hour on two cores for a whole study. Paper: for
accelerators, days.

Burn-in and overlap are half of the trained part, as in the paper (40, 80, 40).
The small tasks' items are shorter than their episodes: in an item that holds a
whole episode the start state is the null state, whatever the strategy.
"""

from typing import Literal

from experiments.studies.study import changed
from r2d2_jax.config import Config
from r2d2_jax.envs.tasks import atari57_games, chain_length, plain_name
from r2d2_jax.presets import laptop, memory, paper, smoke

Size = Literal["small", "paper"]

# First to last row of the longest episode, where items can hold a whole one.
EPISODE_ROWS = {"recall": 12, "Catch-v0": 10}

# One thread, rows of the log and checkpoints by count: a study that was
# interrupted gives the same table to the last digit.
REPEATABLE = {"run.lockstep": True, "replay.backend": "local"}
# A study has many runs: each keeps one checkpoint, and no second log.
FRUGAL = {"log.tensorboard": False, "checkpoint.max_to_keep": 1}
_TOY_ITEMS = {"agent.burn_in": 4, "agent.trace_length": 8, "agent.overlap": 4}
# A nearer horizon than the preset's: a win now and a win later differ by more
# than chance does, and the agent stops standing in front of the choice.
_GRID_ITEMS = {
  "agent.burn_in": 6,
  "agent.trace_length": 12,
  "agent.overlap": 6,
  "agent.discount": 0.95,
}

# Half of an episode and less: what an item's last row knows of the cue came
# through its start state.
_LONG_ITEMS = {
  "agent.burn_in": 6,
  "agent.trace_length": 12,
  "agent.overlap": 6,
}

_SMALL = {
    "toy": REPEATABLE | _TOY_ITEMS | {
        "run.total_steps": 120_000, "log.period_updates": 20,
        "checkpoint.period_updates": 250,
        "evaluation.num_episodes": 200, "evaluation.num_lanes": 50,
    },
    # A replay that never forgets: its states are hundreds of updates old.
    "long": REPEATABLE | _LONG_ITEMS | {
        "network.core_units": 64, "replay.capacity_sequences": 100_000,
        "run.total_steps": 400_000, "log.period_updates": 20,
        "checkpoint.period_updates": 500,
        "evaluation.num_episodes": 200, "evaluation.num_lanes": 50,
    },
    "grid": REPEATABLE | _GRID_ITEMS | {
        "run.total_steps": 400_000, "log.period_updates": 50,
        "checkpoint.period_updates": 1000, "replay.capacity_sequences": 20_000,
    },
    # Half of the laptop's network, and as much replay as the run fills. It
    # takes minutes, so it saves itself at its end alone, and without the
    # replay, which is a gigabyte: one that was stopped begins anew, which is
    # the same run.
    "atari": REPEATABLE | {
        "network.torso_channels": (8, 16, 16), "network.core_units": 128,
        "network.head_units": 64,
        "run.total_steps": 100_000, "run.max_minutes": 0.0,
        "log.period_updates": 10, "replay.capacity_sequences": 10_000,
        "checkpoint.period_minutes": 20.0, "checkpoint.save_replay": False,
        "evaluation.num_episodes": 20, "evaluation.num_lanes": 20,
    },
}  # fmt: skip
_PAPER = {
    "toy": _TOY_ITEMS | {
        "env.num_envs": 64, "agent.batch_size": 64,
        "network.core_units": 128, "network.head_units": 128,
        "replay.capacity_sequences": 50_000,
        "run.total_steps": 5_000_000,
        "evaluation.num_episodes": 500, "evaluation.num_lanes": 50,
    },
    "long": _LONG_ITEMS | {
        "env.num_envs": 64, "agent.batch_size": 64,
        "network.core_units": 128, "network.head_units": 128,
        "replay.capacity_sequences": 1_000_000, "run.total_steps": 10_000_000,
        "evaluation.num_episodes": 500, "evaluation.num_lanes": 50,
    },
    "grid": _GRID_ITEMS | {
        "env.num_envs": 256, "network.torso_channels": (256,),
        "network.core_units": 256, "network.head_units": 256,
        "agent.batch_size": 64, "agent.learning_rate": 3e-4,
        "replay.capacity_sequences": 100_000, "run.total_steps": 20_000_000,
        "evaluation.num_episodes": 500,
    },
    "atari": {"run.total_steps": 200_000_000, "evaluation.num_episodes": 30},
}  # fmt: skip


def batch_of(rows: int, base: Config) -> int:
  """So many items that an update trains on as many rows as the base's."""
  agent = base.agent
  return max(1, round(agent.batch_size * (agent.trace_length - 1) / (rows - 1)))


def usual_seeds(task: str, size: Size) -> int:
  """Runs of each arm: three, but one of an Atari game on two cores."""
  atari = is_atari(changed(Config(), {"env.task": task}))
  return 1 if atari and size == "small" else 3


def is_atari(config: Config) -> bool:
  """Whether the task is one of the 57 games."""
  games = {plain_name(game) for game in atari57_games()}
  return plain_name(config.env.task) in games


def base_config(task: str, size: Size) -> Config:
  """The agent that suits a task.

  Args:
    task: one of the 57 games (presets laptop, paper), a MiniGrid task (preset
      memory), else one with a flat observation (preset smoke); recall-long and
      memory-chain-<length> have a replay that keeps everything.
    size: 'small' or 'paper'.
  """
  kinds = _SMALL if size == "small" else _PAPER
  if is_atari(changed(Config(), {"env.task": task})):
    config, kind = (laptop() if size == "small" else paper()), "atari"
  elif task.startswith("MiniGrid-"):
    config, kind = memory(), "grid"
  elif task == "recall-long" or chain_length(task):
    config, kind = smoke(), "long"
  else:
    config, kind = smoke(), "toy"
  return changed(config, kinds[kind] | FRUGAL | {"env.task": task})
