"""Identities that hold from one end to the other.

World -> actor_step -> SequenceBuilder -> LocalReplay -> learner: what was acted
on, what is stored and what is trained on is the same, and it is the truth. The
worlds are scripts whose observation is their step index, so the truth is known.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.acting import (
  init_actor_state,
  initial_priorities,
  make_actor,
)
from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.agent.priorities import sequence_priorities
from r2d2_jax.agent.targets import n_step_td_error, rescale
from r2d2_jax.config import AgentConfig, Config, NetworkConfig, ReplayConfig
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.replay.items import stack_items
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.types import CoreState
from tests.stamped import StampedWorld, stamped_reward

AGENT = AgentConfig(
  burn_in=4,
  trace_length=8,
  overlap=4,
  n_step=3,
  discount=0.9,
  batch_size=8,
  value_rescaling=False,
  importance_exponent=0.0,
)
# Lanes with long episodes, with short ones, and with episodes of one step.
LENGTHS = [[37], [5, 23], [1, 2, 3, 30], [11]]
TRUNCATED = [(0, 0), (1, 1), (2, 0), (3, 0), (3, 2)]


def _config(agent):
  return Config(
    agent=agent,
    replay=ReplayConfig(
      backend="local", capacity_sequences=4096, priority_exponent=0.9
    ),
  )


class Played(NamedTuple):
  """A run of a world, and all the items that it gave."""

  items: list
  rows: object  # ItemRows of all items [M, L, ...]
  sequence: object  # types.Sequence of all items [M, L, ...], out of the replay
  priorities: np.ndarray  # [M], the initial ones


def _play(
  world, networks, params, *, agent=AGENT, epsilon, num_calls
) -> Played:
  """Acts, cuts, stores, and reads every item back out of the replay."""
  config = _config(agent)
  actor = make_actor(networks=networks)
  state = init_actor_state(jax.random.key(3), world.num_envs, networks=networks)
  zero = jax.device_get(networks.initial_core_state(1))
  builder = SequenceBuilder(
    world.num_envs,
    spec=world.spec,
    core_state=zero,
    burn_in=agent.burn_in,
    trace_length=agent.trace_length,
    overlap=agent.overlap,
  )
  replay = LocalReplay(config, world.spec, zero, seed=0)
  epsilons = np.full(world.num_envs, epsilon, np.float32)
  items = []
  world.reset()
  for _ in range(num_calls):
    timestep = world.recv()
    state, output = actor(params, state, timestep, epsilons)
    world.send(np.asarray(output.a_t), timestep.env_id)
    items += builder.add(timestep, jax.device_get(output))
  rows = stack_items(items)
  priorities = np.asarray(
    jax.jit(functools.partial(initial_priorities, config=agent))(*rows)
  )
  replay.insert(items, np.ones(len(items)))
  # Items are drawn at random: draw until each has come, and put them in order.
  found = {}
  while len(found) < len(items):
    sample = replay.sample(256, timeout_seconds=1.0)
    for i, key in enumerate(sample.keys):
      if key not in found:
        found[key] = jax.tree.map(lambda x, i=i: x[i], sample.sequence)
  in_order = [found[key] for key in sorted(found)]
  sequence = jax.tree.map(lambda *x: np.stack(x), *in_order)
  return Played(items, rows, sequence, priorities)


def _time_major(sequence, first_row=0):
  swap = lambda x: np.swapaxes(x, 0, 1)[first_row:]
  return jax.tree.map(
    swap, (sequence.inputs, sequence.a_t, sequence.discount_t, sequence.valid_t)
  )


# --- Stored states ---------------------------------------------------------


class Shows:
  """A stamped world whose observations are made of its stamps.

  `draw` gets (lane, episode, step), int64 [3], and returns one observation.
  """

  def __init__(self, world, draw):
    self._world = world
    self._draw = draw
    self.num_envs, self.batch_size = world.num_envs, world.batch_size
    example = draw(np.zeros(3, int))
    self.spec = world.spec._replace(
      obs_shape=example.shape, obs_dtype=example.dtype
    )

  def __getattr__(self, name):
    return getattr(self._world, name)

  def recv(self):
    timestep = self._world.recv()
    stamps = np.column_stack([timestep.env_id, timestep.obs_t]).astype(int)
    return timestep._replace(obs_t=np.stack([self._draw(s) for s in stamps]))


def _noise(stamps):
  """An image of its own for every row."""
  return np.random.default_rng(tuple(stamps)).integers(
    0, 256, (36, 36), np.uint8
  )


def _vector_networks(spec, **changes):
  settings = dict(
    torso="mlp", torso_channels=(8,), core_units=6, head_units=8, frame_stack=1
  )
  return make_networks(spec, config=NetworkConfig(**(settings | changes)))


def _check_recorded_q(played, networks, params):
  unroll = jax.jit(networks.unroll)
  inputs = _time_major(played.sequence)[0]
  q, _ = unroll(params, inputs, played.sequence.core_state)
  valid = played.rows.valid_t
  q = np.swapaxes(q, 0, 1)
  np.testing.assert_array_equal(played.sequence.valid_t, valid)
  np.testing.assert_allclose(
    q[valid], played.rows.q_t[valid], rtol=0, atol=1e-5
  )
  # many items begin in the middle of an episode, from a state that matters
  inside = ~played.sequence.inputs.is_first_t[:, 0] & valid[:, 0]
  assert inside.sum() >= 8
  zero = jax.tree.map(np.zeros_like, played.sequence.core_state)
  wrong, _ = unroll(params, inputs, zero)
  error = np.abs(np.swapaxes(wrong, 0, 1) - played.rows.q_t).max(-1)
  assert np.median(error[inside, 0]) > 1e-3


@pytest.mark.parametrize(
  "core, batch_size",
  [
    ("lstm", 0),
    ("lstm", 2),
    ("feedforward", 2),
  ],
)
def test_the_unroll_from_the_stored_state_gives_the_actors_values(
  core, batch_size
):
  world = StampedWorld(
    LENGTHS, truncated=TRUNCATED, batch_size=batch_size, order_seed=1
  )
  networks = _vector_networks(world.spec, core=core, frame_stack=3)
  params = jax.jit(networks.init)(jax.random.key(0))
  calls = 90 * (2 if batch_size else 1)
  played = _play(world, networks, params, epsilon=0.3, num_calls=calls)
  _check_recorded_q(played, networks, params)


def test_the_same_with_images_and_stacks_of_four_frames():
  world = Shows(
    StampedWorld([[37], [1, 23], [11]], batch_size=2, order_seed=2), _noise
  )
  networks = _vector_networks(
    world.spec,
    torso="nature",
    torso_channels=(3, 4, 4),
    torso_units=5,
    frame_stack=4,
  )
  params = jax.jit(networks.init)(jax.random.key(0))
  played = _play(world, networks, params, epsilon=0.3, num_calls=120)
  _check_recorded_q(played, networks, params)


def test_the_same_with_lives_that_end_nothing():
  world = StampedWorld(
    [[37], [23]], life_losses=[(0, 0, 9), (1, 0, 16)], life_loss="roll"
  )
  networks = _vector_networks(world.spec)
  params = jax.jit(networks.init)(jax.random.key(0))
  played = _play(world, networks, params, epsilon=0.3, num_calls=90)
  assert (played.sequence.discount_t[played.rows.valid_t] == 0).sum() >= 4
  _check_recorded_q(played, networks, params)


def _learner_errors(played, networks, params, agent):
  """Errors, mask and priorities of all items, as `learner_step` has them.

  Both networks have the same parameters.
  """

  @jax.jit
  def compute(params, sequence):
    weights = jnp.ones(len(played.items))
    _, parts = sequence_loss(
      params, params, sequence, weights, networks=networks, config=agent
    )
    priorities = sequence_priorities(
      parts.td_error, parts.mask, eta=agent.priority_eta
    )
    return parts.td_error, parts.mask, priorities

  return compute(params, played.sequence)


def test_a_fresh_items_priority_is_the_learners_own():
  """Same parameters, same rows: the same errors on both sides of the replay."""
  world = RecallWorld(8, seed=1)
  networks = _vector_networks(world.spec)
  agent = dataclasses.replace(AGENT, value_rescaling=True)
  params = jax.jit(networks.init)(jax.random.key(0))
  played = _play(
    world, networks, params, agent=agent, epsilon=0.5, num_calls=60
  )
  _, _, priorities = _learner_errors(played, networks, params, agent)
  np.testing.assert_allclose(priorities, played.priorities, rtol=0, atol=1e-5)
  assert (played.priorities > 0).all()


# --- What is trained on ----------------------------------------------------


def _table_networks() -> Networks:
  """By hand: q is a table [episode parity, step, A], which are the parameters.

  Observations are (lane, episode, step).
  """

  def look_up(params, inputs, core_state):
    episode, step = inputs.obs_t[..., 1], inputs.obs_t[..., 2]
    return params[episode % 2, step], core_state

  return Networks(
    init=lambda key: None,
    initial_core_state=lambda batch_size: CoreState(
      jnp.zeros((batch_size, 0, 3), jnp.int32), ()
    ),
    step=look_up,
    unroll=look_up,
    unroll_without_gradient=look_up,
  )


def _stamps(stamps):
  return stamps.astype(np.int32)


@functools.lru_cache
def _random_play(life_loss="ignore"):
  """A random policy on scripts with every kind of episode, and q = 0."""
  world = Shows(
    StampedWorld(
      LENGTHS,
      truncated=TRUNCATED,
      batch_size=3,
      order_seed=5,
      life_losses=[(0, 0, 9), (0, 1, 20), (1, 1, 1), (3, 1, 10)],
      life_loss=life_loss,
    ),
    _stamps,
  )
  table = jnp.zeros((2, 64, 4))
  played = _play(world, _table_networks(), table, epsilon=1.0, num_calls=160)
  return world, played


def _trained_transitions(played):
  """(item, row) of every transition that counts, and td errors with q = 0."""
  inputs, a_t, discount_t, valid_t = _time_major(played.sequence, AGENT.burn_in)
  q = jnp.zeros((*a_t.shape, 4))

  def td_error(n_step, discount):
    agent = dataclasses.replace(AGENT, n_step=n_step, discount=discount)
    return jax.jit(functools.partial(n_step_td_error, config=agent))(
      q, q, a_t, inputs.r_t, discount_t, valid_t
    )

  return inputs, a_t, discount_t, td_error


def test_reward_and_next_row_belong_to_the_action():
  _, played = _random_play()
  inputs, a_t, _, td_error = _trained_transitions(played)
  td, mask = td_error(1, 0.9)
  assert mask.sum() > 300
  for t, i in np.argwhere(mask):
    (lane, episode, step), after = inputs.obs_t[t : t + 2, i].tolist()
    assert after == [lane, episode, step + 1]
    assert inputs.a_tm1[t + 1, i] == a_t[t, i]
    assert not inputs.is_first_t[t + 1, i]
    # with q = 0 the error is the reward
    assert td[t, i] == stamped_reward(step + 1, int(a_t[t, i]))


@pytest.mark.parametrize("life_loss", ["ignore", "roll", "reset"])
@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_targets_are_sums_over_one_episode_alone(n_step, life_loss):
  """Against the script: no reward of the next episode or life in a target."""
  world, played = _random_play(life_loss)
  inputs, a_t, _, td_error = _trained_transitions(played)
  td, mask = td_error(n_step, 1.0)
  truth = [{(r.episode, r.step): r for r in rows} for rows in world.rows]
  for t, i in np.argwhere(mask):
    lane, episode, step = inputs.obs_t[t, i].tolist()
    expected = 0.0
    for k in range(1, min(n_step, mask.shape[0] - t) + 1):
      row = truth[lane][episode, step + k]
      expected += row.r_t
      if row.is_last or row.discount_t == 0:
        break
    assert td[t, i] == expected
  assert mask.sum() > 300


def test_every_transition_is_trained_on():
  """The first rows of an episode too, and episodes of a single step."""
  world, played = _random_play()
  inputs, a_t, _, td_error = _trained_transitions(played)
  _, mask = td_error(1, 0.9)
  trained = {
    (*inputs.obs_t[t, i].tolist(), int(a_t[t, i])) for t, i in np.argwhere(mask)
  }
  happened, finished = set(), set()
  for lane, rows in enumerate(world.rows):
    for row, after in itertools.pairwise(rows):
      if not row.is_last:  # the action sent in a last row is ignored
        happened.add((lane, row.episode, row.step, row.a_t))
        if row.episode < rows[-1].episode:
          finished.add((lane, row.episode, row.step, row.a_t))
          assert after.a_tm1 == row.a_t
  assert finished <= trained <= happened
  # of single steps, of fewer than the burn-in, of fewer than an item
  assert {1, 2, 3, 5, 11, 23, 37} <= {
    r.step for x in world.rows for r in x if r.is_last
  }


# --- A perfect predictor ---------------------------------------------------


def _perfect_table(num_actions, length, gamma, last_value, rescaled):
  """q*(episode parity, step): odd and even episodes end differently.

  r = step + 1 + a / 16, so that the last action is always the best one. An
  episode that terminates is worth nothing after its last row, one that is
  truncated `last_value`.
  """
  table = np.zeros((2, length + 1, num_actions), np.float64)
  for parity, value_after in ((0, 0.0), (1, last_value)):
    value = value_after
    table[parity, length] = value_after
    for step in reversed(range(length)):
      rewards = [stamped_reward(step + 1, a) for a in range(num_actions)]
      table[parity, step] = np.array(rewards) + gamma * value
      value = table[parity, step].max()
  # the terminal row's values are never read: make them loud
  table[0, length] = 1e4
  table = table.astype(np.float32)
  return rescale(table, epsilon=1e-3) if rescaled else jnp.asarray(table)


@pytest.mark.parametrize(
  "n_step, epsilon, rescaled",
  [
    (1, 1.0, False),
    (1, 1.0, True),
    (3, 0.0, False),
    (5, 0.0, True),
  ],
)
def test_the_exact_values_have_no_error(n_step, epsilon, rescaled):
  """td = 0 in the learner at every trained row, and in the first priority.

  One step ahead any action will do; further ahead the rewards in between are
  those of the behaviour, which must be the greedy one.
  """
  length = 29
  agent = dataclasses.replace(
    AGENT, n_step=n_step, value_rescaling=rescaled, discount=0.9
  )
  world = Shows(
    StampedWorld(
      [[length], [length]],
      truncated=[(lane, e) for lane in (0, 1) for e in (1, 3)],
    ),
    _stamps,
  )
  networks = _table_networks()
  table = _perfect_table(4, length, 0.9, last_value=150.0, rescaled=rescaled)
  played = _play(
    world, networks, table, agent=agent, epsilon=epsilon, num_calls=125
  )
  tolerance = 1e-5 * float(jnp.abs(table[1]).max())
  assert len(played.items) >= 40
  np.testing.assert_allclose(played.priorities, 0, atol=tolerance)

  td_error, mask, priorities = _learner_errors(played, networks, table, agent)
  assert mask.sum() > 200
  np.testing.assert_allclose(td_error, 0, atol=tolerance)
  np.testing.assert_allclose(priorities, 0, atol=tolerance)
  # another value of what comes after a truncation, and there is an error
  wrong = table.at[1, length].add(5.0)
  assert np.abs(_learner_errors(played, networks, wrong, agent)[0]).max() > 0.1
