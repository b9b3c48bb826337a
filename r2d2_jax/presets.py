"""The presets: complete configurations with a name, and the reasons."""

from collections.abc import Callable

from r2d2_jax.config import (
  AgentConfig,
  CheckpointConfig,
  Config,
  EnvConfig,
  EvaluationConfig,
  LogConfig,
  NetworkConfig,
  ReplayConfig,
  RunConfig,
)


def paper() -> Config:
  """ICLR 2019, table 2: the published agent, importance exponent 0.6."""
  return Config()


def submission() -> Config:
  """The ICLR submission and the talk: `paper` without importance sampling."""
  config = Config()
  return config.updated({"agent.importance_exponent": 0.0})


def gpu() -> Config:
  """One accelerator: the paper's agent with fewer lanes and a smaller replay.

  A higher replay ratio spends the accelerator where one host cannot feed it.
  Half of the lanes step while it acts for the other half.
  """
  return Config(
    env=EnvConfig(num_envs=128, batch_size=64),
    network=NetworkConfig(compute_dtype="bfloat16"),
    replay=ReplayConfig(
      capacity_sequences=50_000, min_sequences=2_000, replay_ratio=2.0
    ),
    run=RunConfig(total_steps=50_000_000, actor_refresh_steps=100),
  )


def laptop() -> Config:
  """Two cores, no accelerator: smaller network, shorter items, Pong tonight."""
  return Config(
    env=EnvConfig(num_envs=32, full_action_space=False),
    network=NetworkConfig(
      torso_channels=(16, 32, 32),
      torso_units=0,
      core_units=256,
      head_units=128,
    ),
    agent=AgentConfig(
      burn_in=10,
      trace_length=20,
      overlap=10,
      batch_size=16,
      n_step=5,
      discount=0.99,
      learning_rate=3e-4,
      adam_epsilon=1e-5,
      target_period_updates=100,
    ),
    replay=ReplayConfig(
      capacity_sequences=40_000, min_sequences=1_000, replay_ratio=2.0
    ),
    run=RunConfig(
      total_steps=6_000_000,
      max_minutes=120.0,
      actor_refresh_steps=25,
    ),
    checkpoint=CheckpointConfig(period_minutes=5.0),
  )


def memory() -> Config:
  """MiniGrid's Memory tasks on two cores: short items, much exploration.

  Half of the episodes are won by chance, so the errors' largest part is noise:
  a lower priority exponent chases it less, and lanes that explore keep finding
  the look at the object that pays only after it is remembered.
  """
  return Config(
    env=EnvConfig(task="MiniGrid-MemoryS7-v0", num_envs=64),
    network=NetworkConfig(
      torso="grid",
      torso_channels=(128,),
      core_units=128,
      head_units=64,
      frame_stack=1,
    ),
    agent=AgentConfig(
      burn_in=0,
      trace_length=20,
      overlap=10,
      batch_size=32,
      discount=0.99,
      learning_rate=1e-3,
      adam_epsilon=1e-5,
      target_period_updates=200,
      epsilon_base=0.5,
      epsilon_alpha=3.0,
    ),
    replay=ReplayConfig(
      backend="local",
      capacity_sequences=50_000,
      min_sequences=500,
      priority_exponent=0.6,
      replay_ratio=4.0,
    ),
    run=RunConfig(
      total_steps=1_200_000,
      actor_refresh_steps=10,
    ),
    evaluation=EvaluationConfig(num_episodes=200, num_lanes=50),
  )


def control() -> Config:
  """Small tasks of vectors, such as CartPole: tens of thousands of steps.

  Few lanes and a high replay ratio, since steps are few; items that are short
  beside an episode, with a burn-in; a target network that follows soon; and a
  replay that keeps whatever 800 000 steps show: an agent that balances, and has
  forgotten what falling looks like, falls.
  """
  return Config(
    env=EnvConfig(task="stateless-cartpole", num_envs=8),
    network=NetworkConfig(
      torso="auto",
      torso_channels=(64, 64, 64),
      torso_units=0,
      core_units=64,
      head_units=64,
      frame_stack=1,
    ),
    agent=AgentConfig(
      burn_in=4,
      trace_length=16,
      overlap=8,
      batch_size=32,
      n_step=5,
      discount=0.99,
      learning_rate=1e-3,
      adam_epsilon=1e-5,
      target_period_updates=100,
    ),
    replay=ReplayConfig(
      backend="local",
      capacity_sequences=100_000,
      min_sequences=200,
      replay_ratio=8.0,
    ),
    run=RunConfig(total_steps=50_000, actor_refresh_steps=5),
    evaluation=EvaluationConfig(num_episodes=20, num_lanes=20),
    log=LogConfig(period_seconds=2.0),
  )


def smoke() -> Config:
  """Seconds: the built-in recall task, all the parts in their smallest form."""
  return Config(
    env=EnvConfig(task="recall", num_envs=16),
    network=NetworkConfig(
      torso="mlp",
      torso_channels=(32,),
      core_units=32,
      head_units=32,
      frame_stack=1,
    ),
    agent=AgentConfig(
      burn_in=0,
      # The longest episode; and not the batch's size, so that axes that
      # were swapped are noticed.
      trace_length=12,
      overlap=6,
      batch_size=16,
      n_step=3,
      learning_rate=1e-3,
      adam_epsilon=1e-5,
      target_period_updates=50,
    ),
    replay=ReplayConfig(
      backend="local",
      capacity_sequences=2_000,
      min_sequences=100,
      replay_ratio=1.0,
    ),
    run=RunConfig(total_steps=10_000, actor_refresh_steps=10),
    log=LogConfig(period_seconds=1.0),
  )


PRESETS: dict[str, Callable[[], Config]] = {
  f.__name__: f
  for f in (paper, submission, gpu, laptop, memory, control, smoke)
}
