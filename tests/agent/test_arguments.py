"""What the agent's functions refuse: swapped axes, settings, spent states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.acting import (
  init_actor_state,
  initial_priorities,
  make_actor,
)
from r2d2_jax.agent.diagnostics import (
  compare_q,
  first_and_last_row,
  init_horizon_state,
  make_horizon_actor,
  q_discrepancy,
)
from r2d2_jax.agent.learning import (
  init_learner_state,
  learner_step,
  make_learner,
  make_optimizer,
)
from r2d2_jax.agent.loss import sequence_loss, start_state
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import Config
from r2d2_jax.presets import PRESETS
from r2d2_jax.types import Timestep
from tests.agent.small import (
  AGENT,
  ITEM_ROWS,
  NETWORKS,
  SPEC,
  assert_trees_equal,
  random_batch,
)

OPTIMIZER = make_optimizer(AGENT)
_PARAMS = jax.eval_shape(NETWORKS.init, jax.random.key(0))
_LEARNER_STATE = jax.eval_shape(
  lambda key: init_learner_state(key, networks=NETWORKS, optimizer=OPTIMIZER),
  jax.random.key(0),
)
_WEIGHTS = np.ones(4, np.float32)


def _swapped(batch):
  """The same with rows first: [L, B, ...]. What has no rows stays."""
  s = batch.sequence
  swap = lambda x: np.swapaxes(x, 0, 1)
  sequence = jax.tree.map(swap, s._replace(core_state=()))
  return batch._replace(sequence=sequence._replace(core_state=s.core_state))


def _shapes(function, *args):
  """Traced only: shapes are looked at, nothing is computed."""
  return jax.eval_shape(function, *args)


def _zeros(shapes):
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _item_rows(sequence):
  """What initial priorities are computed from."""
  q_t = np.zeros((*sequence.a_t.shape, 4), np.float32)
  return (
    q_t,
    sequence.a_t,
    sequence.inputs.r_t,
    sequence.discount_t,
    (sequence.valid_t),
  )


def _loss(sequence, weights=_WEIGHTS):
  return _shapes(
    lambda params, sequence: sequence_loss(
      params, params, sequence, weights, networks=NETWORKS, config=AGENT
    ),
    _PARAMS,
    sequence,
  )


def _learner_step(batch):
  return _shapes(
    lambda state, batch: learner_step(
      state, batch, networks=NETWORKS, optimizer=OPTIMIZER, config=AGENT
    ),
    _LEARNER_STATE,
    batch,
  )


def _dq(sequence):
  rows = np.zeros((4, ITEM_ROWS, 5), np.float32)
  return _shapes(
    lambda params, sequence: q_discrepancy(
      params,
      sequence,
      (rows, rows),
      np.array([3]),
      networks=NETWORKS,
      config=AGENT,
    ),
    _PARAMS,
    sequence,
  )


def _unroll(sequence):
  """Wants rows first: it is the other way round."""
  return _shapes(NETWORKS.unroll, _PARAMS, sequence.inputs, sequence.core_state)


# --- The order of axes -------------------------------------------------------


@pytest.mark.parametrize(
  "call",
  [
    lambda batch: _loss(batch.sequence),
    _learner_step,
    lambda batch: _dq(batch.sequence),
    lambda batch: _shapes(
      lambda *x: initial_priorities(*x, config=AGENT),
      *_item_rows(batch.sequence),
    ),
    lambda batch: first_and_last_row(batch.sequence.valid_t, config=AGENT),
  ],
  ids=["loss", "learner", "dq", "priorities", "rows"],
)
def test_items_come_first(call):
  call(random_batch(0))
  with pytest.raises(ValueError, match=r"items first, then rows.*= 9; got"):
    call(_swapped(random_batch(0)))


@pytest.mark.parametrize("field", ["a_t", "discount_t", "valid_t", "inputs"])
def test_one_swapped_field_is_enough(field):
  batch = random_batch(0)
  sequence = batch.sequence._replace(
    **{field: getattr(_swapped(batch).sequence, field)}
  )
  with pytest.raises(ValueError, match="items first, then rows"):
    _loss(sequence)


def test_rows_come_first_in_an_unroll():
  sequence = random_batch(0).sequence
  _unroll(_swapped(random_batch(0)).sequence)
  said = (
    r"rows first, then lanes.*stack of 2 frames; got obs_t \(4, 9, 3\).*"
    r"core_state.frames \(4, 1, 3\)"
  )
  with pytest.raises(ValueError, match=said):
    _unroll(sequence)
  # with neither a stack of frames nor an LSTM nothing else would notice
  plain = make_networks(
    SPEC,
    config=dataclasses.replace(PRESETS["smoke"]().network, core="feedforward"),
  )
  params = jax.eval_shape(plain.init, jax.random.key(0))
  with pytest.raises(ValueError, match="rows first"):
    _shapes(plain.unroll, params, sequence.inputs, plain.initial_core_state(4))
  row = jax.tree.map(lambda x: x[:, 0], sequence.inputs)
  _shapes(plain.step, params, row, plain.initial_core_state(4))
  with pytest.raises(ValueError, match=r"expected inputs with lanes: \[B"):
    _shapes(plain.step, params, sequence.inputs, plain.initial_core_state(4))


def test_rows_come_first_in_targets():
  trained = jax.tree.map(
    lambda x: x[:, AGENT.burn_in :], _item_rows(random_batch(0).sequence)
  )
  q, *others = trained
  call = lambda q, *x: n_step_td_error(q, q, *x, config=AGENT)
  said = r"rows first, then items.*q \(4, 6, 4\).*trace_length 6"
  with pytest.raises(ValueError, match=said):
    _shapes(call, q, *others)
  whole = _item_rows(random_batch(0).sequence)
  with pytest.raises(ValueError, match=r"rows first.*q \(4, 9, 4\)"):
    _shapes(call, *whole)
  swap = lambda x: np.swapaxes(x, 0, 1)
  td_error, _ = _shapes(call, *jax.tree.map(swap, trained))
  assert td_error.shape == (5, 4)
  # any number of rows is fine, and any number of items with as many rows
  few = jax.tree.map(lambda x: swap(x)[:3], trained)
  assert _shapes(call, *few)[0].shape == (2, 4)
  many = jax.tree.map(lambda x: np.repeat(swap(x), 3, axis=1)[:, :9], trained)
  assert _shapes(call, *many)[0].shape == (5, 9)


def test_nothing_is_broadcast():
  sequence = random_batch(0).sequence
  for weights in (np.float32(1), _WEIGHTS[:1], _WEIGHTS[:, None]):
    with pytest.raises(ValueError, match=r"weights: .*\(4,\), got"):
      _loss(sequence, weights)
  batch = random_batch(0)
  with pytest.raises(ValueError, match=r"probability: .*\(4,\), got \(4, 1\)"):
    _learner_step(batch._replace(probability=batch.probability[:, None]))
  with pytest.raises(AssertionError):
    compare_q(np.zeros((3, 2)), np.zeros(2))


@pytest.mark.parametrize("name", PRESETS)
def test_no_presets_axes_could_be_swapped_unseen(name):
  config = PRESETS[name]()
  others = {config.agent.batch_size, config.env_batch}
  assert not others & {config.item_rows, config.agent.trace_length}


# --- Settings ----------------------------------------------------------------


@pytest.mark.parametrize(
  "call",
  [
    lambda c: make_optimizer(c),
    lambda c: make_learner(networks=NETWORKS, optimizer=OPTIMIZER, config=c),
    lambda c: learner_step(
      None, random_batch(0), networks=NETWORKS, optimizer=OPTIMIZER, config=c
    ),
    lambda c: sequence_loss(
      None,
      None,
      random_batch(0).sequence,
      _WEIGHTS,
      networks=NETWORKS,
      config=c,
    ),
    lambda c: start_state(random_batch(0).sequence.core_state, config=c),
    lambda c: initial_priorities(
      *_item_rows(random_batch(0).sequence), config=c
    ),
    lambda c: n_step_td_error(
      np.zeros((2, 1, 3)),
      np.zeros((2, 1, 3)),
      *[np.zeros((2, 1))] * 4,
      config=c,
    ),
    lambda c: first_and_last_row(np.ones((4, ITEM_ROWS), bool), config=c),
    lambda c: q_discrepancy(
      None,
      random_batch(0).sequence,
      None,
      np.array([3]),
      networks=NETWORKS,
      config=c,
    ),
  ],
)
def test_the_agents_functions_want_the_agents_settings(call):
  with pytest.raises(
    TypeError, match=r"expected AgentConfig \(config.agent\), got Config"
  ):
    call(Config())


def test_networks_want_the_networks_settings():
  with pytest.raises(
    TypeError, match=r"expected NetworkConfig \(config.network\), got Config"
  ):
    make_networks(SPEC, config=Config())


# --- States that were given away ---------------------------------------------


def _learner(donate):
  learner = make_learner(
    networks=NETWORKS, optimizer=OPTIMIZER, config=AGENT, donate=donate
  )
  batch = random_batch(0)
  return lambda state: learner(state, batch), _zeros(_LEARNER_STATE)


def _actor(donate):
  return _acting(
    make_actor(networks=NETWORKS, donate=donate),
    init_actor_state(jax.random.key(0), 2, networks=NETWORKS),
  )


def _horizon_actor(donate):
  return _acting(
    make_horizon_actor(horizon=1, networks=NETWORKS, donate=donate),
    init_horizon_state(jax.random.key(0), 2, horizon=1, networks=NETWORKS),
  )


def _acting(actor, state):
  params = _zeros(_PARAMS)
  timestep = Timestep(
    obs_t=np.zeros((2, 3), np.float32),
    r_t=np.zeros(2, np.float32),
    discount_t=np.ones(2, np.float32),
    is_first_t=np.ones(2, bool),
    is_last_t=np.zeros(2, bool),
    env_id=np.arange(2, dtype=np.int32),
  )
  epsilon = jnp.zeros(2)
  return lambda state: actor(params, state, timestep, epsilon), state


@pytest.mark.parametrize("make", [_learner, _actor, _horizon_actor])
def test_a_cell_that_runs_twice(make):
  call, state = make(donate=True)
  call(state)
  with pytest.raises(RuntimeError, match="donat.*donate=False"):
    call(state)
  call, state = make(donate=False)
  first, second = call(state), call(state)
  assert_trees_equal(_numbers(first), _numbers(second))


def _numbers(tree):
  is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.tree.map(
    lambda x: jax.random.key_data(x) if is_key(x) else x, tree
  )


def test_other_errors_of_a_compiled_function_are_its_own():
  call, state = _learner(donate=True)
  with pytest.raises(ValueError, match="items first"):
    make_learner(networks=NETWORKS, optimizer=OPTIMIZER, config=AGENT)(
      state, _swapped(random_batch(0))
    )
  call(state)
