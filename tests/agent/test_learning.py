"""One update of the learner: target copies, weights, donation, compilation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r2d2_jax.agent.learning import (
  init_learner_state,
  make_learner,
  make_optimizer,
)
from r2d2_jax.agent.loss import sequence_loss
from r2d2_jax.agent.priorities import importance_weights, sequence_priorities
from tests.agent.small import (
  AGENT,
  NETWORKS,
  assert_trees_close,
  assert_trees_equal,
  pad,
  random_batch,
)

CONFIG = dataclasses.replace(
  AGENT, target_period_updates=3, learning_rate=3e-3, adam_epsilon=1e-5
)
OPTIMIZER = make_optimizer(CONFIG)
LEARNER = make_learner(networks=NETWORKS, optimizer=OPTIMIZER, config=CONFIG)
INITIAL = init_learner_state(
  jax.random.key(0), networks=NETWORKS, optimizer=OPTIMIZER
)


def _copy(tree):
  return jax.tree.map(np.array, tree)


def _state():
  """A fresh one: the learner donates what it is given."""
  return jax.tree.map(jnp.copy, INITIAL)


def test_the_target_starts_as_a_copy():
  state = init_learner_state(
    jax.random.key(0), networks=NETWORKS, optimizer=OPTIMIZER
  )
  assert_trees_equal(state.params, state.target_params)
  assert state.num_updates == 0
  # two buffers each: a donated state may not name one twice
  LEARNER(state, random_batch(0))


def test_the_target_is_copied_at_multiples_of_the_period_and_never_else():
  state = _state()
  target = _copy(state.target_params)
  for update in range(1, 8):
    state, _ = LEARNER(state, random_batch(update))
    assert state.num_updates == update
    if update in (3, 6):
      target = _copy(state.params)
    assert_trees_equal(_copy(state.target_params), target)


def test_a_second_call_does_not_compile():
  compiled = []
  # It stays: JAX can only remove all listeners at once, other people's too.
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: (
      compiled.append(event) if "backend_compile" in event else None
    )
  )
  jax.jit(lambda x: x * 1.25)(np.float32(2)).block_until_ready()
  assert compiled  # the listener hears
  state, _ = LEARNER(_state(), jax.device_put(random_batch(0)))
  batches = [pad(random_batch(1), 7, 0), random_batch(2)]
  batches = [jax.device_put(batch) for batch in batches]
  compiled.clear()
  for batch in batches:
    state, _ = LEARNER(state, batch)
  assert not compiled


def test_the_state_is_donated_and_the_batch_is_not():
  state, batch = _state(), jax.device_put(random_batch(0))
  new_state, _ = LEARNER(state, batch)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert not any(x.is_deleted() for x in jax.tree.leaves(batch))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(new_state))


def test_what_an_update_is_made_of():
  """Loss under importance weights; priorities of the parameters before it."""
  state = _state()
  state = state._replace(target_params=NETWORKS.init(jax.random.key(5)))
  params, target_params = _copy(state.params), _copy(state.target_params)
  opt_state = _copy(state.opt_state)
  batch = pad(random_batch(2), 8, 0)
  new_state, output = LEARNER(state, batch)

  weights = importance_weights(batch.probability, exponent=0.6)
  (loss, parts), grads = jax.jit(
    jax.value_and_grad(
      functools.partial(sequence_loss, networks=NETWORKS, config=CONFIG),
      has_aux=True,
    )
  )(params, target_params, batch.sequence, weights)
  np.testing.assert_allclose(
    output.priorities,
    sequence_priorities(parts.td_error, parts.mask, eta=0.9),
    rtol=1e-5,
  )
  updates, _ = OPTIMIZER.update(grads, opt_state, params)
  assert_trees_close(new_state.params, optax.apply_updates(params, updates))

  metrics = {k: float(v) for k, v in output.metrics.items()}
  absolute = np.abs(parts.td_error)[np.asarray(parts.mask)]
  expected = {
    "loss": loss,
    "grad_norm": optax.global_norm(grads),
    "update_norm": optax.global_norm(updates),
    "params_norm": optax.global_norm(new_state.params),
    "td_abs_mean": absolute.mean(),
    "td_abs_max": absolute.max(),
    "q_max_mean": np.asarray(parts.q.max(-1))[:5].mean(),  # valid rows
    "importance_weight_mean": weights.mean(),
    "effective_sample_size": weights.sum() ** 2 / (4 * (weights**2).sum()),
  }
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  # the last row is padding
  assert output.td_abs_by_row.shape == (5,) and output.td_abs_by_row[4] == 0
  np.testing.assert_allclose(
    output.td_abs_by_row[:4],
    np.abs(parts.td_error)[:4].mean(axis=1),
    rtol=1e-4,
  )


def test_td_abs_by_row_is_the_mean_over_the_items_that_reach_the_row():
  whole, short = random_batch(3), pad(random_batch(3), 6, 0)

  def by_row(first, others):
    batch = jax.tree.map(lambda x, y: np.concatenate([x[:1], y]), first, others)
    return np.asarray(LEARNER(_state(), batch)[1].td_abs_by_row)

  others = jax.tree.map(lambda x: x[1:], short)
  copies = jax.tree.map(lambda x: np.repeat(x[:1], 3, axis=0), whole)
  # transitions 2 to 4 are in the first item alone
  np.testing.assert_allclose(
    by_row(whole, others)[2:], by_row(whole, copies)[2:], rtol=1e-4
  )
  assert (by_row(short, others)[:2] > 0).all()
  assert (by_row(short, others)[2:] == 0).all()


def test_gradients_are_clipped_by_their_global_norm():
  # Adam's first step is -lr g / (|g| + eps); with a large eps it shows g.
  config = dataclasses.replace(AGENT, learning_rate=1.0, adam_epsilon=1e6)
  optimizer = make_optimizer(config)
  grads = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([60.0, 60.0])}
  updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
  # norm 90, clipped to 40: 30 -> 13.33, 60 -> 26.67
  expected = {"a": [-13.3333e-6, 0.0], "b": [-26.6667e-6, -26.6667e-6]}
  for name, value in expected.items():
    np.testing.assert_allclose(updates[name], value, rtol=1e-4)


def test_updates_on_one_batch_fit_it():
  state, batch = _state(), random_batch(4)
  losses = []
  for _ in range(200):
    state, output = LEARNER(state, batch)
    losses.append(float(output.metrics["loss"]))
  assert losses[-1] < 0.2 * losses[0]
