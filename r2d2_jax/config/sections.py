"""Every number of a run: frozen dataclasses, each default with its source.

The defaults are the published agent (Kapturowski et al., ICLR 2019; "table 2"
is its appendix). Presets that differ live in `r2d2_jax/presets.py`.
"""

import dataclasses
from typing import Literal

from r2d2_jax.config.bounds import setting


@dataclasses.dataclass(frozen=True)
class EnvConfig:
  """The world: one task, played in many lanes side by side."""

  task: str = "Pong"
  """Game or task: an Atari name (Pong, MsPacman), an EnvPool id
  (MiniGrid-MemoryS7-v0, Catch-v0), 'gymnasium:ID' of one that is registered
  there, 'package.module:function' of one of your own, which returns a
  gymnasium.Env, or the built-in 'recall', 'recall-long', 'memory-chain-10' (of
  any length) and 'stateless-cartpole'."""
  make_world: str = ""
  """'package.module:name' of a function of your own that makes the
  environments: (this section, seed=...) -> World. Empty takes those of
  `task`."""
  num_envs: int = setting(256, at_least=1)
  """Lanes: environments stepped side by side (table 2: 256 actors)."""
  batch_size: int = setting(0, at_least=0)
  """Lanes per step; 0 means all of them. Fewer than num_envs steps
  asynchronously, whichever lanes are ready first: with an accelerator half of
  them, so that these step while it acts for the others."""
  num_threads: int = setting(0, at_least=0)
  """Threads that step the environments; 0 lets EnvPool choose."""
  vectorization: Literal["sync", "async"] = "sync"
  """Gymnasium tasks: 'sync' steps the lanes one after the other in one thread,
  'async' each in a process of its own, for steps of milliseconds."""
  step_timeout_seconds: float = setting(60.0, at_least=0)
  """Gymnasium tasks: seconds that a step or reset of the lanes may take before
  the run ends and names those that hang; 0 waits for ever."""
  action_mask: bool = False
  """Gymnasium tasks: info["action_mask"] says which actions may be taken, and
  the agent keeps to it, in acting and in its targets."""
  frame_skip: int = setting(4, at_least=1)
  """Raw frames per agent step, the maximum of the last two shown (section 2.3).
  Atari and VizDoom only."""
  full_action_space: bool = True
  """Atari: all 18 actions (section 2.3) instead of the game's own few."""
  noop_max: int = setting(30, at_least=1)
  """Atari: up to this many random no-ops, in raw frames, begin an episode
  (appendix; 1 is the least EnvPool knows)."""
  sticky_action_probability: float = setting(0.0, at_least=0, at_most=1)
  """Atari: chance that a raw frame repeats the action before it (paper: 0)."""
  fire_on_reset: bool = False
  """Atari: press FIRE when an episode begins (paper: never)."""
  max_episode_frames: int = setting(108_000, at_least=1)
  """Raw frames after which an episode is truncated: 30 minutes of Atari
  (section 2.3). A truncation, not an end: the value is bootstrapped through
  it."""
  life_loss: Literal["ignore", "roll", "reset"] = "ignore"
  """Atari, loss of a life: 'ignore' it (the agent), 'roll' (no bootstrap, state
  carried on) or 'reset' (no bootstrap, state reset): figure 8's ablation."""
  flicker_probability: float = setting(0.0, at_least=0, at_most=1)
  """Chance that an observation is blanked (talk, slide 31; DRQN uses 0.5)."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The network: torso, core and duelling head."""

  torso: str = "nature"
  """'nature': DQN's three convolutions (appendix); 'impala': the 15-layer
  residual torso; 'grid': one-hot planes for MiniGrid; 'mlp': flat inputs;
  'auto': nature for images of at least 36x36, else mlp; or 'module:name' of
  your own."""
  torso_channels: tuple[int, ...] = (32, 64, 64)
  """Channels of the torso's three stages (nature, impala), or units of its
  layers (grid, mlp)."""
  torso_units: int = setting(512, at_least=0)
  """Units of the linear layer between convolutions and core; 0 leaves it
  out."""
  core: str = "lstm"
  """'lstm' (the agent), 'gru', 'feedforward' (its ablation, figure 7): a linear
  layer with ReLU of the same width, no state; 'none': no layer at all (DQN); or
  'module:name' of your own."""
  core_units: int = setting(512, at_least=1)
  """Units of the core (appendix: LSTM 512)."""
  core_memory_rows: int = setting(0, at_least=0)
  """'lstm' and 'gru': rows over which the gates begin by remembering (chrono
  initialisation, Tallec and Ollivier 2018): about the longest time that
  something has to be kept. 0: the LSTM's forget gates begin with a bias of 1,
  which keeps a few rows."""
  head_units: int = setting(512, at_least=0)
  """Hidden units of each of the two duelling streams (appendix: 512); 0 leaves
  the hidden layer out (DRQN)."""
  dueling: bool = True
  """Two streams, q = V + A - mean A (appendix); false: one stream is q
  (DQN)."""
  frame_stack: int = setting(4, at_least=1)
  """Frames that the torso sees at once (section 2.3: 4); part of the recurrent
  state, rebuilt from single frames. 1 for tasks other than Atari."""
  use_previous_action: bool = True
  """Feed the one-hot previous action to the core (appendix)."""
  use_previous_reward: bool = True
  """Feed the previous reward to the core (appendix)."""
  compute_dtype: Literal["float32", "bfloat16"] = "float32"
  """Type of the torso's and core's arithmetic; parameters stay float32."""


@dataclasses.dataclass(frozen=True)
class AgentConfig:
  """The algorithm."""

  make_agent: str = ""
  """'package.module:name' of a function of your own that makes the agent:
  (EnvSpec, Config) -> Agent. Empty takes that of `algorithm`."""
  algorithm: Literal["r2d2", "impala", "a3c"] = "r2d2"
  """'r2d2', whose switches are below, and its value-based relatives; 'impala':
  policy and value, V-trace (Espeholt et al. 2018); 'a3c': the same loss, but
  each lane is a worker that computes gradients itself (Mnih et al. 2016)."""
  burn_in: int = setting(40, at_least=0)
  """Rows unrolled before the trained part, without gradient (table 2: 40)."""
  trace_length: int = setting(80, at_least=1)
  """Rows of the trained part, m (table 2: 80)."""
  overlap: int = setting(40, at_least=1)
  """Rows that the trained parts of neighbouring items share (table 2: 40). At
  least 1: the transition between two items belongs to their shared rows."""
  lookahead_rows: int = setting(0, at_least=0)
  """Rows after the trained part that are not trained: with n_step - 1 of them
  no return is cut short at the item's end. 0: the returns of the last rows are
  shorter (the paper does not say; docs/deviations.md, 2)."""
  start_state: Literal["stored", "zero"] = "stored"
  """State in which the unroll of a replayed item begins (section 3)."""
  n_step: int = setting(5, at_least=1)
  """Steps of the return before the bootstrap (section 2.3: 5)."""
  double_q: bool = True
  """The online network chooses the bootstrap's action, the target network
  values it (section 2.3); false: the target network does both (DQN)."""
  loss: Literal["squared", "huber"] = "squared"
  """Penalty of an error: 'squared': td^2 / 2 (section 2.3); 'huber': linear
  beyond 1, whose gradient is DQN's clipping of errors to [-1, 1]."""
  discount: float = setting(0.997, at_least=0, at_most=1)
  """Gamma, per agent step (section 2.3)."""
  value_rescaling: bool = True
  """Learn h(Q) with h(x) = sign(x)(sqrt(|x| + 1) - 1) + eps x (section 2.3)."""
  value_rescaling_epsilon: float = setting(1e-3, at_least=0)
  """eps of h (section 2.3)."""
  reward_clip: float = setting(0.0, at_least=0)
  """Clip rewards to [-x, x] for learning; 0 leaves them (section 2.3: off)."""
  priority_eta: float = setting(0.9, at_least=0, at_most=1)
  """Priority = eta max|td| + (1 - eta) mean|td| (section 2.3)."""
  importance_exponent: float = setting(0.6, at_least=0)
  """Exponent of the importance weights (table 2: 0.6; the submission: 0)."""
  importance_anneal_updates: int = setting(0, at_least=0)
  """Updates over which that exponent rises linearly to 1 (PER, section 3.4); 0
  keeps it."""
  target_period_updates: int = setting(2500, at_least=1)
  """Updates between copies to the target network (section 2.3)."""
  batch_size: int = setting(64, at_least=1)
  """Items per update (table 2)."""
  optimizer: Literal["adam", "rmsprop"] = "adam"
  """'adam' (table 2), or 'rmsprop' with the variance centred, no momentum (DQN,
  Ape-X)."""
  learning_rate: float = setting(1e-4, above=0)
  """The optimiser's step size (table 2)."""
  adam_epsilon: float = setting(1e-3, above=0)
  """Adam's epsilon (table 2)."""
  rmsprop_decay: float = setting(0.95, at_least=0, at_most=1)
  """RMSProp's averaging of gradients and of their squares (DQN and Ape-X:
  0.95)."""
  rmsprop_epsilon: float = setting(0.01, above=0)
  """RMSProp's epsilon, inside the root (DQN: 0.01, Ape-X: 1.5e-7)."""
  rmsprop_centered: bool = True
  """RMSProp divides by the variance of gradients (DQN, Ape-X); false: by their
  mean square (A3C, IMPALA)."""
  learning_rate_decay_updates: int = setting(0, at_least=0)
  """Updates in which the learning rate falls linearly to 0 (A3C, IMPALA: the
  whole run); 0 keeps it."""
  max_grad_norm: float = setting(40.0, at_least=0)
  """Global norm to which gradients are clipped (Ape-X: 40); 0 leaves them."""
  exploration: Literal["ladder", "linear"] = "ladder"
  """'ladder': each lane its own epsilon, for ever (table 2, Ape-X); 'linear':
  all lanes the same, falling linearly (DQN)."""
  epsilon_base: float = setting(0.4, at_least=0, at_most=1)
  """Exploration of lane i: base^(1 + alpha i / (N - 1)) (table 2, Ape-X)."""
  epsilon_alpha: float = setting(7.0, at_least=0)
  """alpha of the ladder above (table 2, Ape-X)."""
  epsilon_start: float = setting(1.0, at_least=0, at_most=1)
  """Linear exploration: epsilon at the run's first step (DQN: 1)."""
  epsilon_end: float = setting(0.1, at_least=0, at_most=1)
  """Linear exploration: epsilon from epsilon_decay_steps on (DQN: 0.1)."""
  epsilon_decay_steps: int = setting(1_000_000, at_least=1)
  """Linear exploration: agent steps, all lanes together, in which it falls
  (DQN: 1e6)."""

  rho_bar: float = setting(1.0, at_least=0)
  """V-trace: cut of the ratios pi / mu that weigh errors and policy gradient:
  which policy's values are learned (IMPALA, section 4.1: 1)."""
  c_bar: float = setting(1.0, at_least=0)
  """V-trace: cut of the ratios that carry an error back in time: how fast they
  are learned (IMPALA, section 4.1: 1)."""
  value_cost: float = setting(0.5, at_least=0)
  """Weight of the value's loss beside the policy's (IMPALA, table G.1: 0.5)."""
  entropy_cost: float = setting(0.01, at_least=0)
  """Reward for a policy's entropy, in nats (A3C, IMPALA, table G.1: 0.01)."""

  @property
  def has_policy(self) -> bool:
    """Whether it draws actions from a policy, whose chances replay keeps."""
    return self.algorithm != "r2d2"

  @property
  def unrolled_rows(self) -> int:
    """Rows of an item behind the burn-in: trained part, lookahead."""
    return self.trace_length + self.lookahead_rows

  @property
  def item_rows(self) -> int:
    """Rows of one replay item: burn-in, trained part, lookahead."""
    return self.burn_in + self.unrolled_rows


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
  """The memory."""

  backend: Literal["reverb", "local"] = "reverb"
  """'reverb': a Reverb server in this process; 'local': numpy in this process,
  the same interface, no server and no open port."""
  order: Literal["priority", "fifo"] = "priority"
  """'priority': items are drawn by their priority, again and again; 'fifo': a
  queue, in which each is handed out once, in the order of arrival, and actors
  wait where it is full (IMPALA, section 3)."""
  capacity_sequences: int = setting(100_000, at_least=1)
  """Items kept; the oldest leave first (table 2: 1e5 overlapping items, 4e6
  observations)."""
  min_sequences: int = setting(5_000, at_least=1)
  """Items before the first update. Not in the paper."""
  priority_exponent: float = setting(0.9, at_least=0)
  """Exponent of the priorities in sampling (section 2.3); 0: all alike."""
  initial_priority: Literal["actor", "max"] = "actor"
  """Of a new item: 'actor': of the values that the actor saw (Ape-X, section
  3); 'max': the largest priority of any item so far (PER, algorithm 1)."""
  replay_ratio: float = setting(0.8, above=0)
  """Trained rows per environment step, burn-in excluded (appendix: about
  0.8)."""
  port: int = setting(0, at_least=0, at_most=65535)
  """Reverb's port; 0 takes a free one. It listens on every interface, without
  credentials."""
  row_states: bool = False
  """Keep the core's carry of every row, not only of an item's first: for
  studies of the recurrent state. Costs 8 bytes x core_units for each row with
  an LSTM."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """The run: how long, where to, in which order."""

  total_steps: int = setting(1_000_000_000, at_least=1)
  """Agent steps (all lanes together); raw frames = steps x frame skip."""
  max_minutes: float = setting(0.0, at_least=0)
  """Wall-clock limit in minutes; 0 for none."""
  seed: int = setting(0, at_least=0)
  """Seed of parameters, exploration and environments."""
  lockstep: bool = False
  """One thread, strictly alternating: the same seed on the same number of
  devices gives the same parameters bit for bit. Needs the local replay."""
  learner_devices: int = setting(0, at_least=0)
  """Devices that split each batch between them; 0 takes as many of those that
  JAX finds as split it evenly. Actors and evaluation use the first one."""
  actor_refresh_steps: int = setting(400, at_least=1)
  """Steps of each lane between refreshes of the actors' parameters (table
  2)."""
  compile_cache_gib: float = setting(1.0, at_least=0)
  """Disk, in GiB, for what JAX has compiled, in the user's cache directory: a
  later start finds it there. 0 keeps nothing; JAX_COMPILATION_CACHE_DIR, where
  it is set, goes before."""
  run_dir: str = ""
  """Directory for config, log, checkpoints and plots; empty picks
  runs/<task>-<preset>-seed<seed>-<date>."""


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """The log: how often, and where its rows go besides log.csv."""

  period_seconds: float = setting(10.0, above=0)
  """Seconds between rows of the log."""
  period_updates: int = setting(0, at_least=0)
  """Updates between rows of the log; 0 goes by period_seconds instead."""
  tensorboard: bool = True
  """Write TensorBoard's event files too, into the run's directory."""
  wandb_project: str = ""
  """Log to this project of Weights & Biases too; needs
  `pip install wandb 'protobuf<5'`."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Checkpoints: how often, how many, and what is in them."""

  period_minutes: float = setting(10.0, above=0)
  """Minutes between checkpoints."""
  period_updates: int = setting(0, at_least=0)
  """Updates between checkpoints; 0 goes by period_minutes instead."""
  save_replay: bool = True
  """Save the replay's items with each checkpoint; without them a resumed run
  fills its replay anew. They take as much disk as the replay takes memory."""
  max_to_keep: int = setting(2, at_least=1)
  """Newest checkpoints kept. The one that evaluated best is kept besides."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Evaluation: whole games, during training and at its end."""

  period_steps: int = setting(5_000_000, at_least=0)
  """Agent steps between evaluations during training; 0 evaluates at the end
  only."""
  num_episodes: int = setting(10, at_least=0)
  """Whole games played in an evaluation; 0 for none."""
  epsilon: float = setting(0.001, at_least=0, at_most=1)
  """Chance of a random action in evaluation."""
  num_lanes: int = setting(10, at_least=1)
  """Environments that play these games side by side."""


@dataclasses.dataclass(frozen=True)
class LimitsConfig:
  """Limits: where a run is refused or stopped."""

  max_td_error: float = setting(1e6, above=0)
  """The run stops, with a diagnosis, when a batch's mean |td error| is above
  this (unit of the learned values) or not finite."""
  memory_gib: float = setting(0.0, at_least=0)
  """Host memory that the run may plan with; 0 means what is free now."""
