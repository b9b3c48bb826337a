"""R2D2 with its switches turned off one by one is what rlax says it should be.

The reference are rlax's own functions of one transition; golden values are
written out beside them.
"""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2d2_jax.agent import _rlax
from r2d2_jax.agent.acting import exploration, linear_epsilon
from r2d2_jax.agent.learning import (
  init_learner_state,
  learner_step,
  make_optimizer,
)
from r2d2_jax.agent.loss import half_square, huber, sequence_loss
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.agent.priorities import annealed_exponent, importance_weights
from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import AgentConfig
from tests.agent.small import (
  AGENT,
  NETWORKS,
  SPEC,
  assert_trees_equal,
  network_config,
  random_batch,
)

GAMMA = 0.9
# R2D2's targets without the rescaling; the rest is switched in the tests.
PLAIN = AgentConfig(
  burn_in=0, trace_length=2, overlap=1, n_step=1, discount=GAMMA,
  value_rescaling=False, batch_size=5, importance_exponent=0.0,
)  # fmt: skip


@pytest.fixture(name="rlax", scope="module")
def fixture_rlax():
  """rlax's value_learning; distrax is not in the locks, nor used here."""
  stub = types.ModuleType("distrax")
  vars(stub)["__getattr__"] = lambda attribute: object
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "distrax", stub)
    yield _rlax.load("value_learning")


def _rows(seed, rows, items=5):
  """q, target_q, a, r, discount, valid of `rows` rows: everything counts."""
  rng = np.random.default_rng(seed)
  shape = (rows, items)
  return (
    rng.normal(size=(*shape, 3)).astype(np.float32),
    rng.normal(size=(*shape, 3)).astype(np.float32),
    rng.integers(3, size=shape).astype(np.int32),
    rng.normal(size=shape).astype(np.float32),
    (rng.random(shape) < 0.8).astype(np.float32),
    np.ones(shape, bool),
  )


def _changed(config=PLAIN, **settings):
  return dataclasses.replace(config, **settings)


def _only(updates):
  return jax.tree.leaves(updates)[0]


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_without_double_q_it_is_q_learning(rlax):
  q, target_q, a, r, d, valid = _rows(0, rows=2)
  td_error, mask = n_step_td_error(
    q, target_q, a, r, d, valid, config=_changed(double_q=False)
  )
  expected = jax.vmap(rlax.q_learning)(
    q[0], a[0], r[1], GAMMA * d[1], target_q[1]
  )
  _assert_close(td_error[0], expected)
  assert mask.all()


def test_with_double_q_it_is_double_q_learning(rlax):
  q, target_q, a, r, d, valid = _rows(1, rows=2)
  td_error, _ = n_step_td_error(q, target_q, a, r, d, valid, config=PLAIN)
  expected = jax.vmap(rlax.double_q_learning)(
    q[0], a[0], r[1], GAMMA * d[1], target_q[1], q[1]
  )
  _assert_close(td_error[0], expected)
  # The two choices differ in this batch, so the test can tell them apart.
  other, _ = n_step_td_error(
    q, target_q, a, r, d, valid, config=_changed(double_q=False)
  )
  assert np.abs(np.asarray(td_error - other)).max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_item_of_one_transition_has_the_n_step_target(n):
  """Two trained rows and n - 1 of lookahead, as in DQN, PER and Ape-X."""
  rows = n + 1
  q, target_q, a, r, d, valid = _rows(2, rows)
  config = _changed(n_step=n, lookahead_rows=n - 1)
  td_error, mask = n_step_td_error(q, target_q, a, r, d, valid, config=config)
  assert td_error.shape == mask.shape == (1, 5)
  target = np.zeros(5)
  for k in range(n, 0, -1):  # the definition, from behind
    if k == n:
      best = q[n].argmax(axis=1)
      target = target_q[n][np.arange(5), best]
    target = r[k] + GAMMA * d[k] * target
  _assert_close(td_error[0], target - q[0][np.arange(5), a[0]])
  own = jax.vmap(
    lambda r, d, v: _rlax.n_step_bootstrapped_returns(r, d, v, n),
    in_axes=1,
    out_axes=1,
  )(
    r[1:],
    GAMMA * d[1:],
    np.take_along_axis(target_q, q.argmax(-1)[..., None], -1)[1:, :, 0],
  )
  _assert_close(td_error[0], own[0] - q[0][np.arange(5), a[0]])


def test_q_learning_target_golden():
  """r + gamma max: 1 + 0.9 x 7 - 2; terminal: 1 - 2; double: 1 + 0.9 x 3 -
  2."""
  q = np.array([[[2, 0]] * 2, [[5, 4]] * 2], np.float32)
  target_q = np.array([[[9, 9]] * 2, [[3, 7]] * 2], np.float32)
  a = np.zeros((2, 2), np.int32)
  r = np.array([[99, 99], [1, 1]], np.float32)
  d = np.array([[1, 1], [1, 0]], np.float32)
  valid = np.ones((2, 2), bool)
  rows = (q, target_q, a, r, d, valid)
  single, _ = n_step_td_error(*rows, config=_changed(double_q=False))
  double, _ = n_step_td_error(*rows, config=PLAIN)
  np.testing.assert_allclose(single, [[5.3, -1.0]], rtol=1e-6)
  np.testing.assert_allclose(double, [[1.7, -1.0]], rtol=1e-6)


def test_lookahead_completes_the_returns_of_the_trained_rows_alone():
  """Six rows, four of them trained, n = 3: as if the episode were longer."""
  rows = _rows(3, rows=6)
  longer = _changed(trace_length=6, overlap=1, n_step=3)
  ahead = _changed(trace_length=4, overlap=1, n_step=3, lookahead_rows=2)
  cut = _changed(trace_length=4, overlap=1, n_step=3)
  whole, _ = n_step_td_error(*rows, config=longer)
  td_error, mask = n_step_td_error(*rows, config=ahead)
  assert mask.shape == (3, 5) and mask.all()
  np.testing.assert_array_equal(td_error, whole[:3])
  short, _ = n_step_td_error(*(x[:4] for x in rows), config=cut)
  np.testing.assert_array_equal(short[0], td_error[0])
  assert (np.abs(np.asarray(short - td_error))[1:] > 1e-3).any(axis=1).all()


# --- Loss ------------------------------------------------------------------


def test_huber_is_the_square_to_1_and_its_gradient_dqns_clipping():
  td_error = np.array([0.0, 0.5, -1.0, 2.0, -3.0], np.float32)
  _assert_close(huber(td_error), [0, 0.125, 0.5, 1.5, 2.5])
  _assert_close(half_square(td_error), [0, 0.125, 0.5, 2.0, 4.5])
  gradient = jax.grad(lambda x: huber(x).sum())(td_error)
  _assert_close(gradient, [0, 0.5, -1, 1, -1])
  _assert_close(huber(td_error), optax.losses.huber_loss(td_error))


def test_the_loss_is_the_mean_over_the_batch_of_weighted_penalties(rlax):
  """One transition an item, DQN's switches: rlax's q_learning from end to
  end."""
  networks = make_networks(
    SPEC,
    config=network_config(
      core="none", dueling=False, frame_stack=2,
      use_previous_action=False, use_previous_reward=False,
    ),
  )  # fmt: skip
  batch = random_batch(0, networks=networks, rows=2, batch_size=4)
  sequence = batch.sequence._replace(
    inputs=batch.sequence.inputs._replace(
      r_t=3.0 * batch.sequence.inputs.r_t  # some beyond the clips
    )
  )
  params, target_params = map(
    networks.init, jax.random.split(jax.random.key(1))
  )
  weights = np.array([1.0, 0.25, 0.5, 0.75], np.float32)
  config = _changed(double_q=False, loss="huber", reward_clip=1.0)
  loss, parts = sequence_loss(
    params, target_params, sequence, weights, networks=networks, config=config
  )
  unroll = lambda p: networks.unroll(
    p,
    jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), sequence.inputs),
    sequence.core_state,
  )[0]
  td_error = jax.vmap(rlax.q_learning)(
    unroll(params)[0],
    sequence.a_t[:, 0],
    np.clip(sequence.inputs.r_t[:, 1], -1, 1),
    GAMMA * sequence.discount_t[:, 1],
    unroll(target_params)[1],
  )
  _assert_close(parts.td_error[0], td_error)
  _assert_close(loss, np.mean(weights * optax.losses.huber_loss(td_error)))
  squared, _ = sequence_loss(
    params, target_params, sequence, weights, networks=networks,
    config=_changed(double_q=False, reward_clip=1.0),
  )  # fmt: skip
  _assert_close(squared, np.mean(weights * np.square(td_error) / 2))


def test_lookahead_rows_are_not_trained():
  """Whatever their actions; and they add nothing to priorities and metrics."""
  config = dataclasses.replace(AGENT, lookahead_rows=2)
  batch = random_batch(5, rows=config.item_rows)
  sequence = batch.sequence
  assert config.item_rows == 11
  optimizer = make_optimizer(config)
  state = init_learner_state(
    jax.random.key(0), networks=NETWORKS, optimizer=optimizer
  )
  step = jax.jit(
    lambda b: learner_step(
      state, b, networks=NETWORKS, optimizer=optimizer, config=config
    )
  )
  _, output = step(batch)
  assert output.td_abs_by_row.shape == (config.trace_length - 1,)
  a_t = sequence.a_t.copy()
  # Of the last trained row, too: it starts no transition that is trained.
  a_t[:, config.burn_in + config.trace_length - 1 :] += 1
  _, other = step(batch._replace(sequence=sequence._replace(a_t=a_t % 4)))
  assert_trees_equal(output, other)
  # The rewards in them belong to the returns of the rows before.
  r_t = sequence.inputs.r_t.copy()
  r_t[:, -1] += 5.0
  inputs = sequence.inputs._replace(r_t=r_t)
  _, other = step(batch._replace(sequence=sequence._replace(inputs=inputs)))
  changed = np.flatnonzero(
    np.abs(np.asarray(output.td_abs_by_row - other.td_abs_by_row)) > 1e-6
  )
  assert changed.tolist() == [config.trace_length - 2]


# --- Importance weights ----------------------------------------------------


def test_per_weights_by_hand():
  """P = 1/8, 1/2, 1/4, 1/8: w = (8, 2, 4, 8)^beta / 8^beta."""
  probability = np.array([1 / 8, 1 / 2, 1 / 4, 1 / 8])
  _assert_close(
    importance_weights(probability, exponent=1.0), [1, 0.25, 0.5, 1]
  )
  _assert_close(
    importance_weights(probability, exponent=0.5), [1, 0.5, 0.5**0.5, 1]
  )


def test_the_exponent_is_annealed_to_1():
  at = lambda n: annealed_exponent(0.4, jnp.int32(n), period_updates=100)
  _assert_close([at(n) for n in (0, 50, 100, 1000)], [0.4, 0.7, 1.0, 1.0])
  assert annealed_exponent(0.4, jnp.int32(7), period_updates=0) == 0.4


def test_the_learner_anneals_by_its_own_updates():
  config = dataclasses.replace(
    AGENT, importance_exponent=0.0, importance_anneal_updates=4
  )
  batch = random_batch(1)._replace(
    probability=np.array([0.5, 0.25, 0.125, 0.125], np.float32)
  )
  optimizer = make_optimizer(config)
  state = init_learner_state(
    jax.random.key(0), networks=NETWORKS, optimizer=optimizer
  )
  step = jax.jit(
    lambda s: learner_step(
      s, batch, networks=NETWORKS, optimizer=optimizer, config=config
    )
  )
  mean = lambda n: step(state._replace(num_updates=jnp.int32(n)))[1].metrics[
    "importance_weight_mean"
  ]
  ratio = np.array([0.25, 0.5, 1, 1])
  expected = [(ratio**e).mean() for e in (0, 0.5, 1, 1)]
  _assert_close([mean(n) for n in (0, 2, 4, 9)], expected)


# --- Optimiser -------------------------------------------------------------


def test_rmsprop_is_dqns_own_program():
  """g = 0.95 g + 0.05 x, s = 0.95 s + 0.05 x^2, step lr x / sqrt(s - g^2 +
  .01)."""
  config = _changed(optimizer="rmsprop", learning_rate=0.5, max_grad_norm=0.0)
  optimizer = make_optimizer(config)
  x = np.array([3.0, -0.2], np.float32)
  state = optimizer.init(x)
  g = s = np.zeros(2)
  for gradient in (x, -2 * x, 100 * x):
    g, s = 0.95 * g + 0.05 * gradient, 0.95 * s + 0.05 * gradient**2
    update, state = optimizer.update(jnp.asarray(gradient), state, x)
    expected = -0.5 * gradient / np.sqrt(s - g**2 + 0.01)
    np.testing.assert_allclose(_only(update), expected, rtol=1e-4)


def test_the_default_optimizer_has_the_state_that_it_always_had():
  x = {"w": np.ones(2, np.float32)}
  before = optax.chain(
    optax.clip_by_global_norm(40.0), optax.adam(1e-4, eps=1e-3)
  )
  assert_trees_equal(make_optimizer(AgentConfig()).init(x), before.init(x))
  free = make_optimizer(AgentConfig(max_grad_norm=0.0))
  assert_trees_equal(free.init(x), before.init(x))


def test_the_clip_of_gradients_can_be_left_out():
  gradient = np.array([300.0, 400.0], np.float32)  # norm 500
  for most, scale in ((0.0, 1.0), (50.0, 0.1)):
    optimizer = make_optimizer(
      AgentConfig(
        optimizer="rmsprop", max_grad_norm=most, learning_rate=1.0,
        rmsprop_epsilon=1e10,
      )
    )  # fmt: skip
    step, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(_only(step), -scale * gradient / 1e5, rtol=1e-4)


# --- Exploration -----------------------------------------------------------


def test_linear_exploration():
  at = lambda step: linear_epsilon(step, start=1.0, end=0.1, decay_steps=1000)
  np.testing.assert_allclose(
    [at(0), at(500), at(1000), at(10**9)], [1.0, 0.55, 0.1, 0.1]
  )
  config = AgentConfig(exploration="linear", epsilon_decay_steps=1000)
  epsilon = exploration(3, config=config)
  np.testing.assert_allclose(epsilon(500), [0.55] * 3, rtol=1e-6)
  assert epsilon(500).dtype == np.float32


def test_the_ladder_does_not_know_the_step():
  epsilon = exploration(3, config=AgentConfig())
  assert epsilon(0) is epsilon(10**9)
  np.testing.assert_allclose(epsilon(0), [0.4, 0.4**4.5, 0.4**8], rtol=1e-6)


# --- Network ---------------------------------------------------------------


def test_the_head_without_streams_is_one_layer_of_q():
  networks = make_networks(
    SPEC, config=network_config(core="none", dueling=False, head_units=0)
  )
  params = networks.init(jax.random.key(0))["params"]
  assert set(params) == {"torso", "q"}
  # Torso 6, one-hot action 4, reward 1.
  assert params["q"]["kernel"].shape == (11, 4)


def test_the_core_none_hands_the_features_on():
  networks = make_networks(
    SPEC, config=network_config(core="none", dueling=False)
  )
  params = networks.init(jax.random.key(0))["params"]
  assert params["q_hidden"]["kernel"].shape == (11, 7)
  assert jax.tree.leaves(networks.initial_core_state(2).carry) == []
