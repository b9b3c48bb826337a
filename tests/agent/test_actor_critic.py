"""Actor-critic: acting by a policy, its loss, its update, the Agent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r2d2_jax.agent.acting import compile_actor, init_actor_state
from r2d2_jax.agent.actor_critic import (
  actor_critic_loss,
  actor_critic_step,
  init_policy_learner,
  policy_step,
)
from r2d2_jax.agent.agent import make_agent, make_impala_agent
from r2d2_jax.agent.learning import make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.agent.vtrace import vtrace
from r2d2_jax.config import AgentConfig, Config, ReplayConfig
from r2d2_jax.types import AgentInputs, Sequence, Timestep
from tests.agent.small import (
  SPEC,
  assert_trees_close,
  assert_trees_equal,
  network_config,
  pad,
  random_batch,
  random_params,
)

AGENT = AgentConfig(
  algorithm="impala", burn_in=0, trace_length=6, overlap=1, batch_size=4,
  discount=0.9, value_rescaling=False, optimizer="rmsprop",
  rmsprop_centered=False, max_grad_norm=0.0, value_cost=0.3, entropy_cost=0.2,
)  # fmt: skip
NETWORK = network_config(frame_stack=2, head_units=0)
NETWORKS = make_networks(SPEC, config=NETWORK, policy=True)
PARAMS = random_params(np.random.default_rng(0), NETWORKS)
A = SPEC.num_actions
_LOSS = jax.jit(
  functools.partial(actor_critic_loss, networks=NETWORKS, config=AGENT)
)
_GRAD = jax.jit(
  jax.grad(
    lambda params, sequence: actor_critic_loss(
      params, sequence, networks=NETWORKS, config=AGENT
    )[0],
    argnums=(0, 1),
    allow_int=True,
  )
)


def _batch(seed, *, padding_from=6):
  """Items [4, 6] that another policy played."""
  batch = random_batch(seed, networks=NETWORKS, rows=6)
  if padding_from < 6:
    batch = pad(batch, padding_from, seed)
  log_mu = np.random.default_rng(seed).uniform(-2, -0.5, (4, 6))
  return batch._replace(
    sequence=batch.sequence._replace(log_prob_t=log_mu.astype(np.float32))
  )


def _timestep(rng, lanes, is_first=False):
  n = len(lanes)
  return Timestep(
    obs_t=rng.normal(size=(n, *SPEC.obs_shape)).astype(np.float32),
    r_t=rng.normal(size=n).astype(np.float32),
    discount_t=np.ones(n, np.float32),
    is_first_t=np.full(n, is_first),
    is_last_t=np.zeros(n, bool),
    env_id=np.asarray(lanes, np.int32),
  )


# --- Acting ------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_actions_have_the_chances_that_are_stored(epsilon):
  """The same row in 4000 lanes: shares of actions are the policy's, mixed with
  epsilon; log_prob_t is the logarithm of that chance."""
  n = 4000
  rng = np.random.default_rng(1)
  one = _timestep(rng, [0], is_first=True)
  timestep = jax.tree.map(lambda x: np.repeat(x, n, axis=0), one)
  timestep = timestep._replace(env_id=np.arange(n, dtype=np.int32))
  state = init_actor_state(jax.random.key(2), n, networks=NETWORKS)
  step = jax.jit(functools.partial(policy_step, networks=NETWORKS))
  new_state, output = step(
    PARAMS, state, timestep, np.full(n, epsilon, np.float32)
  )
  pi = np.exp(np.asarray(output.q_t[0], np.float64))
  assert pi.min() < 0.15 and abs(pi.sum() - 1) < 1e-6
  mu = (1 - epsilon) * pi + epsilon / A
  share = np.bincount(output.a_t, minlength=A) / n
  np.testing.assert_allclose(share, mu, atol=4 * 0.5 / n**0.5)
  np.testing.assert_allclose(
    output.log_prob_t, np.log(mu[output.a_t]), rtol=1e-5, atol=1e-6
  )
  if not epsilon:  # not even rounding
    np.testing.assert_array_equal(
      output.log_prob_t, output.q_t[np.arange(n), output.a_t]
    )
  np.testing.assert_array_equal(new_state.a_tm1, output.a_t)


def test_lanes_that_are_not_there_keep_their_state_and_dice():
  """And whatever the order of arrival, each lane's actions are the same."""
  rng = np.random.default_rng(3)
  step = compile_actor(
    functools.partial(policy_step, networks=NETWORKS), donate=False
  )
  epsilon = np.full(3, 0.1, np.float32)
  start = init_actor_state(jax.random.key(0), 3, networks=NETWORKS)
  both = _timestep(rng, [2, 0])
  flipped = jax.tree.map(lambda x: x[::-1], both)
  state, output = step(PARAMS, start, both, epsilon)
  other, again = step(PARAMS, start, flipped, epsilon)
  np.testing.assert_array_equal(output.a_t, np.asarray(again.a_t)[::-1])
  np.testing.assert_array_equal(state.a_tm1, other.a_tm1)
  data = jax.random.key_data
  np.testing.assert_array_equal(data(state.key)[1], data(start.key)[1])
  assert (data(state.key)[0] != data(start.key)[0]).any()


def test_unchanged_parameters_are_on_policy():
  """Rows played by `policy_step` have pi / mu = 1 in the learner's unroll, from
  the stored state, in the middle of an episode and at its first row."""
  rng = np.random.default_rng(4)
  step = jax.jit(functools.partial(policy_step, networks=NETWORKS))
  state = init_actor_state(jax.random.key(1), 4, networks=NETWORKS)
  epsilon = np.zeros(4, np.float32)
  timesteps, outputs = [], []
  for t in range(8):
    timestep = _timestep(rng, range(4), is_first=t in (0, 5))
    state, output = step(PARAMS, state, timestep, epsilon)
    timesteps.append(timestep)
    outputs.append(output)
  rows = jax.tree.map(lambda *x: np.stack(x, 1), *timesteps[2:])
  acted = jax.tree.map(lambda *x: np.stack(x, 1), *outputs[2:])
  sequence = Sequence(
    AgentInputs(rows.obs_t, acted.a_tm1, rows.r_t, rows.is_first_t),
    acted.a_t,
    rows.discount_t,
    np.ones((4, 6), bool),
    outputs[2].core_state,
    acted.log_prob_t,
  )
  _, parts = _LOSS(PARAMS, sequence)
  np.testing.assert_allclose(parts.rho, 1.0, atol=1e-5)


# --- Loss --------------------------------------------------------------------


def test_the_loss_is_its_sum():
  sequence = _batch(5, padding_from=5).sequence
  loss, parts = _LOSS(PARAMS, sequence)
  inputs = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), sequence.inputs)
  (logits, value), _ = NETWORKS.unroll(PARAMS, inputs, sequence.core_state)
  pi = jax.nn.softmax(logits)
  time_first = lambda x: np.swapaxes(x, 0, 1)
  a_t = time_first(sequence.a_t)
  log_pi = np.log(np.take_along_axis(np.asarray(pi), a_t[..., None], -1))[
    ..., 0
  ]
  td, advantage, mask = vtrace(
    value,
    log_pi - time_first(sequence.log_prob_t),
    inputs.r_t,
    time_first(sequence.discount_t),
    time_first(sequence.valid_t),
    config=AGENT,
  )
  by_hand = 0.0
  for s in range(4):  # rows 0 to 4 are valid
    for b in range(4):
      entropy = -sum(float(p * np.log(p)) for p in pi[s, b])
      by_hand += (
        -float(advantage[s, b]) * log_pi[s, b]
        + 0.3 * 0.5 * float(td[s, b]) ** 2
        - 0.2 * entropy
      )
  assert mask[:4].all() and not mask[4:].any()
  np.testing.assert_allclose(loss, by_hand, rtol=1e-4)
  np.testing.assert_allclose(parts.td_error, td, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_paper():
  """Of section 4.2, targets and advantages being numbers."""
  sequence = _batch(6).sequence
  _, parts = _LOSS(PARAMS, sequence)
  time_first = lambda x: np.swapaxes(x, 0, 1)
  inputs = jax.tree.map(time_first, sequence.inputs)
  a_t = time_first(sequence.a_t)[:-1, :, None]

  def surrogate(params, target, advantage):
    (logits, value), _ = NETWORKS.unroll(params, inputs, sequence.core_state)
    log_pi = jax.nn.log_softmax(logits)[:-1]
    chosen = jnp.take_along_axis(log_pi, a_t, -1)[..., 0]
    entropy = -(jnp.exp(log_pi) * log_pi).sum(-1)
    return (
      -(advantage * chosen).sum()
      + 0.3 * 0.5 * jnp.square(target - value[:-1]).sum()
      - 0.2 * entropy.sum()
    )

  (_, value), _ = NETWORKS.unroll(PARAMS, inputs, sequence.core_state)
  _, advantage, _ = vtrace(
    value,
    np.concatenate([np.log(parts.rho), np.zeros((1, 4), np.float32)]),
    inputs.r_t,
    time_first(sequence.discount_t),
    time_first(sequence.valid_t),
    config=AGENT,
  )
  expected = jax.jit(jax.grad(surrogate))(
    PARAMS, np.asarray(parts.td_error + value[:-1]), np.asarray(advantage)
  )
  assert_trees_close(_GRAD(PARAMS, sequence)[0], expected, atol=1e-4)


def test_padding_and_stored_state_get_no_gradient_and_give_none():
  sequence = _batch(7, padding_from=4).sequence
  by_params, by_sequence = _GRAD(PARAMS, sequence)
  for leaf in jax.tree.leaves(by_sequence.core_state):
    np.testing.assert_array_equal(leaf, 0.0)
  np.testing.assert_array_equal(by_sequence.inputs.obs_t[:, 4:], 0.0)
  assert (np.asarray(by_sequence.inputs.obs_t[:, :3]) != 0).all()
  # The last valid row is the bootstrap, a number.
  np.testing.assert_array_equal(by_sequence.inputs.obs_t[:, 3], 0.0)
  noise = _batch(8, padding_from=4).sequence
  other = jax.tree.map(
    lambda x, y: (
      np.concatenate([x[:, :4], y[:, 4:]], 1)
      if x.ndim > 1 and x.shape[1] == 6
      else x
    ),
    sequence._replace(core_state=()),
    noise._replace(core_state=()),
  )._replace(core_state=sequence.core_state)
  assert_trees_equal(_GRAD(PARAMS, other)[0], by_params)


def test_what_is_missing_is_said():
  sequence = _batch(9).sequence
  with pytest.raises(ValueError, match="log_prob_t.*got None"):
    actor_critic_loss(
      PARAMS,
      sequence._replace(log_prob_t=None),
      networks=NETWORKS,
      config=AGENT,
    )
  with pytest.raises(ValueError, match="items first, then rows"):
    actor_critic_loss(
      PARAMS,
      jax.tree.map(
        lambda x: np.swapaxes(x, 0, 1), sequence._replace(core_state=())
      )._replace(core_state=sequence.core_state),
      networks=NETWORKS,
      config=AGENT,
    )


# --- Update ------------------------------------------------------------------


def _step(optimizer, **kwargs):
  return functools.partial(
    actor_critic_step,
    networks=NETWORKS,
    optimizer=optimizer,
    config=AGENT,
    **kwargs,
  )


def test_an_update_is_one_step_against_the_gradient():
  optimizer = optax.sgd(0.01)
  state = init_policy_learner(
    jax.random.key(0), networks=NETWORKS, optimizer=optimizer
  )._replace(params=PARAMS)
  batch = _batch(10, padding_from=5)
  new_state, output = jax.jit(_step(optimizer))(state, batch)
  grads = _GRAD(PARAMS, batch.sequence)[0]
  assert_trees_close(
    new_state.params,
    jax.tree.map(lambda p, g: p - 0.01 * g, PARAMS, grads),
    atol=1e-6,
  )
  assert int(new_state.num_updates) == 1 and new_state.target_params == ()
  loss, parts = _LOSS(PARAMS, batch.sequence)
  td = np.abs(parts.td_error)[:4]  # transitions that count
  metrics = {k: float(v) for k, v in output.metrics.items()}
  assert metrics == pytest.approx(
    {
      "loss": float(loss),
      "grad_norm": float(optax.tree.norm(grads)),
      "update_norm": 0.01 * float(optax.tree.norm(grads)),
      "params_norm": float(optax.tree.norm(new_state.params)),
      "td_abs_mean": td.mean(),
      "td_abs_max": td.max(),
      "importance_weight_mean": 1.0,
      "effective_sample_size": 1.0,
      "value_mean": float(parts.value[:4].mean()),
      "policy_entropy": float(parts.entropy[:4].mean()),
      "rho_clipped": float((parts.rho[:4] > 1.0).mean()),
    },
    rel=1e-5,
  )
  assert 0 < metrics["rho_clipped"] < 1
  np.testing.assert_allclose(output.priorities, td.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(
    output.td_abs_by_row, [*td.mean(axis=1), 0.0], rtol=1e-5
  )


def test_a_batch_split_over_devices_is_the_whole_batch():
  """`vmap` with a name stands for the mesh axis: two devices of two items."""
  optimizer = optax.sgd(0.01)
  state = init_policy_learner(
    jax.random.key(0), networks=NETWORKS, optimizer=optimizer
  )._replace(params=PARAMS)
  batch = _batch(11, padding_from=5)
  whole = jax.jit(_step(optimizer))(state, batch)
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
  new_state, output = jax.jit(
    jax.vmap(_step(optimizer, axis_name="i"), (None, 0), axis_name="i")
  )(state, halves)
  for device in range(2):
    assert_trees_close(
      jax.tree.map(lambda x, i=device: x[i], new_state), whole[0], atol=1e-5
    )
    assert_trees_close(
      jax.tree.map(lambda x, i=device: x[i], output.metrics),
      whole[1].metrics,
      atol=1e-4,
    )


def test_rmsprop_without_centring_and_a_rate_that_falls():
  """Second steps by hand: g / sqrt(mean(g^2) + eps), rate 2/3 of the first."""
  config = dataclasses.replace(
    AGENT, learning_rate=0.3, learning_rate_decay_updates=3,
    rmsprop_decay=0.9, rmsprop_epsilon=0.01,
  )  # fmt: skip
  optimizer = make_optimizer(config)
  params = {"w": jnp.zeros(1)}
  state = optimizer.init(params)
  first, state = optimizer.update({"w": jnp.array([2.0])}, state, params)
  second, state = optimizer.update({"w": jnp.array([1.0])}, state, params)
  nu = 0.1 * 4
  np.testing.assert_allclose(first["w"], -0.3 * 2 / (nu + 0.01) ** 0.5)
  nu = 0.9 * nu + 0.1
  np.testing.assert_allclose(second["w"], -0.2 / (nu + 0.01) ** 0.5, rtol=1e-6)
  for _ in range(2):
    last, state = optimizer.update({"w": jnp.array([1.0])}, state, params)
  np.testing.assert_array_equal(last["w"], 0.0)  # update 4 of 3


# --- The Agent ---------------------------------------------------------------


def test_the_setting_chooses_the_agent():
  config = Config(
    network=NETWORK, agent=AGENT, replay=ReplayConfig(order="fifo")
  )
  agent = make_agent(SPEC, config)
  assert agent.initial_priorities is None and agent.q_discrepancy is None
  params = jax.eval_shape(agent.init, jax.random.key(0)).params["params"]
  assert {"policy", "value"} <= set(params) and "advantage" not in params
  r2d2 = make_agent(SPEC, config.updated({"agent.algorithm": "r2d2"}))
  assert r2d2.q_discrepancy is not None
  own = make_impala_agent(
    SPEC, config, networks=NETWORKS, optimizer=optax.sgd(1.0)
  )
  assert own.networks is NETWORKS
  assert jax.eval_shape(own.init, jax.random.key(0)).opt_state == (
    optax.EmptyState(),
    optax.EmptyState(),
  )
