"""What the legs work on: configurations, batches, the learner alone."""

import dataclasses
import time

import jax
import numpy as np

from r2d2_jax.agent.acting import init_actor_state, make_actor
from r2d2_jax.agent.learning import (
  init_learner_state,
  make_learner,
  make_optimizer,
)
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import AgentConfig, Config, EnvConfig, NetworkConfig
from r2d2_jax.types import (
  ActorOutput,
  AgentInputs,
  EnvSpec,
  ReplaySample,
  Sequence,
  Timestep,
)

PONG = EnvSpec((84, 84), np.dtype(np.uint8), num_actions=6, frame_skip=4)

# A batch of the reference work: items, burn-in rows, trained rows.
BATCHES = {
  "small": (16, 10, 20),
  "big": (64, 40, 80),
  "huge": (256, 40, 80),
  "toy": (2, 4, 8),
}

TOY_NETWORK = NetworkConfig(
  torso_channels=(4, 4, 4), torso_units=8, core_units=8, head_units=8
)


def reference_config(batch: str, dtype: str = "float32") -> Config:
  """The paper's network on Pong's six actions, with a batch of `BATCHES`.

  The toy batch comes with a toy network.

  Args:
    batch: name of the batch.
    dtype: network.compute_dtype.
  """
  batch_size, burn_in, trace_length = BATCHES[batch]
  network = TOY_NETWORK if batch == "toy" else NetworkConfig()
  return Config(
    env=EnvConfig(full_action_space=False),
    network=dataclasses.replace(network, compute_dtype=dtype),
    agent=AgentConfig(
      batch_size=batch_size,
      burn_in=burn_in,
      trace_length=trace_length,
      overlap=trace_length // 2,
    ),
  )


def random_batch(config: Config, *, seed: int = 0) -> ReplaySample:
  """A batch as replay hands it out: random numbers, from the middle of games.

  No row begins or ends an episode, none is padding: every row is work.
  """
  rng = np.random.default_rng(seed)
  lead = (config.agent.batch_size, config.item_rows)
  networks = make_networks(PONG, config=config.network)
  core_state = networks.initial_core_state(config.agent.batch_size)
  c, h = (
    rng.uniform(-0.5, 0.5, x.shape).astype(np.float32) for x in core_state.carry
  )
  return ReplaySample(
    Sequence(
      AgentInputs(
        obs_t=rng.integers(0, 256, lead + PONG.obs_shape, np.uint8),
        a_tm1=rng.integers(0, PONG.num_actions, lead, np.int32),
        r_t=rng.standard_normal(lead).astype(np.float32),
        is_first_t=np.zeros(lead, bool),
      ),
      a_t=rng.integers(0, PONG.num_actions, lead, np.int32),
      discount_t=np.ones(lead, np.float32),
      valid_t=np.ones(lead, bool),
      core_state=core_state._replace(
        frames=rng.integers(0, 256, core_state.frames.shape, np.uint8),
        carry=(c, h),
      ),
    ),
    probability=rng.uniform(1e-4, 1e-3, lead[0]).astype(np.float32),
    keys=None,
  )


class LearnerAlone:
  """The package's learner over one batch, again and again.

  Attributes:
    params: those before the first update.
    batch: on the host.
  """

  def __init__(self, config: Config):
    self.batch = random_batch(config)
    networks = make_networks(PONG, config=config.network)
    optimizer = make_optimizer(config.agent)
    self._state = init_learner_state(
      jax.random.key(0), networks=networks, optimizer=optimizer
    )
    self.params = jax.device_get(self._state.params)
    self._learner = make_learner(
      networks=networks, optimizer=optimizer, config=config.agent
    )
    # As the prefetcher does it, ahead of the update.
    self._on_device = jax.device_put(self.batch)

  def update(self) -> dict[str, jax.Array]:
    """One update, finished when it returns; its metrics."""
    self._state, output = self._learner(self._state, self._on_device)
    jax.block_until_ready((self._state, output))
    return output.metrics

  def seconds(self, updates: int) -> list[float]:
    """Seconds of each of so many updates, after one that compiles."""
    self.update()
    seconds = []
    for _ in range(updates):
      start = time.perf_counter()
      self.update()
      seconds.append(time.perf_counter() - start)
    return seconds


class InferenceAlone:
  """Steps of some lanes over random frames, which start on the host.

  Attributes:
    params: of the network.
    obs_t: uint8 [2, lanes, 84, 84]: each step takes the other one.
  """

  def __init__(self, config: Config, lanes: int):
    networks = make_networks(PONG, config=config.network)
    self.params = jax.device_get(jax.jit(networks.init)(jax.random.key(0)))
    self._on_device = jax.device_put(self.params)
    self._actor = make_actor(networks=networks)
    self._state = init_actor_state(jax.random.key(1), lanes, networks=networks)
    self._epsilon = jax.device_put(np.zeros(lanes, np.float32))  # greedy
    rng = np.random.default_rng(0)
    self.obs_t = rng.integers(0, 256, (2, lanes, *PONG.obs_shape), np.uint8)
    no = np.zeros(lanes, bool)
    self._rest = (np.zeros(lanes, np.float32), np.ones(lanes, np.float32), no)
    self._lanes = np.arange(lanes, dtype=np.int32)
    self._num_steps = 0

  def step(self) -> ActorOutput:
    """One step of all lanes, dispatched."""
    r_t, discount_t, no = self._rest
    timestep = Timestep(
      obs_t=self.obs_t[self._num_steps % 2],
      r_t=r_t,
      discount_t=discount_t,
      is_first_t=no,
      is_last_t=no,
      env_id=self._lanes,
    )
    self._num_steps += 1
    self._state, output = self._actor(
      self._on_device, self._state, timestep, self._epsilon
    )
    return output


def learner_flops(config: Config) -> float:
  """Floating-point operations of one update: products alone, two per pair.

  Both networks over all rows, and the backward pass, twice the forward one,
  over the trained rows; nobody asks for the gradient of the frames. The
  `nature` torso with an LSTM.
  """
  network, agent = config.network, config.agent
  side, channels = PONG.obs_shape[0], network.frame_stack
  convolutions = []
  for outputs, size, stride in zip(
    network.torso_channels, (8, 4, 3), (4, 2, 1), strict=True
  ):
    side = (side - size) // stride + 1
    convolutions.append(side**2 * outputs * size**2 * channels)
    channels = outputs
  features = side**2 * channels
  products = sum(convolutions)
  if network.torso_units:
    products += features * network.torso_units
    features = network.torso_units
  features += (
    PONG.num_actions * network.use_previous_action + network.use_previous_reward
  )
  core, head = network.core_units, network.head_units
  products += (features + core) * 4 * core
  products += 2 * core * head + head * (PONG.num_actions + 1)
  rows = agent.batch_size * config.item_rows
  trained_rows = agent.batch_size * agent.trace_length
  return 2.0 * (
    2 * rows * products + trained_rows * (2 * products - convolutions[0])
  )
