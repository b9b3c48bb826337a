"""The network: the paper's shapes, step = unroll, null rule, frame stacks."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent import torsos
from r2d2_jax.agent.frames import stack_frames
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import NetworkConfig
from r2d2_jax.types import EnvSpec
from tests.agent.small import (
  NETWORKS,
  SPEC,
  assert_trees_close,
  assert_trees_equal,
  network_config,
  random_core_state,
  random_inputs,
  random_params,
)

ATARI = EnvSpec((84, 84), np.dtype(np.uint8), 18, 4)
IMAGES = EnvSpec((36, 36), np.dtype(np.uint8), 3, 1)
GRID = EnvSpec((7, 7, 3), np.dtype(np.uint8), 3, 1)


def _shapes(networks):
  params = jax.eval_shape(networks.init, jax.random.key(0))["params"]
  return {
    "/".join(str(k.key) for k in path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


# --- Shapes ----------------------------------------------------------------


def test_the_papers_network():
  """Nature on 84x84x4, LSTM 512 over 512 + 18 + 1, duelling heads of 512."""
  shapes = _shapes(make_networks(ATARI, config=NetworkConfig()))
  assert shapes == {
      "torso/conv_0/kernel": (8, 8, 4, 32), "torso/conv_0/bias": (32,),
      "torso/conv_1/kernel": (4, 4, 32, 64), "torso/conv_1/bias": (64,),
      "torso/conv_2/kernel": (3, 3, 64, 64), "torso/conv_2/bias": (64,),
      "torso/dense/kernel": (7 * 7 * 64, 512), "torso/dense/bias": (512,),
      "core/w_x": (512 + 18 + 1, 4 * 512), "core/w_h": (512, 4 * 512),
      "core/b": (4 * 512,),
      "advantage_hidden/kernel": (512, 512), "advantage_hidden/bias": (512,),
      "advantage/kernel": (512, 18), "advantage/bias": (18,),
      "value_hidden/kernel": (512, 512), "value_hidden/bias": (512,),
      "value/kernel": (512, 1), "value/bias": (1,),
  }  # fmt: skip
  assert sum(map(math.prod, shapes.values())) == 4_357_299


def test_impala_has_15_convolutions():
  config = NetworkConfig(torso="impala", torso_channels=(16, 32, 32))
  shapes = _shapes(make_networks(ATARI, config=config))
  kernels = {k: s for k, s in shapes.items() if len(s) == 4}
  assert len(kernels) == 15 and all(s[:2] == (3, 3) for s in kernels.values())
  assert [kernels[f"torso/stage_{i}_conv/kernel"][2:] for i in range(3)] == [
    (4, 16),
    (16, 32),
    (32, 32),
  ]
  assert shapes["torso/dense/kernel"] == (11 * 11 * 32, 512)  # 84/2/2/2


def test_initial_core_state_is_zero():
  state = make_networks(ATARI, config=NetworkConfig()).initial_core_state(2)
  assert state.frames.shape == (2, 3, 84, 84) and state.frames.dtype == np.uint8
  assert [x.shape for x in state.carry] == [(2, 512), (2, 512)]
  assert not any(np.any(x) for x in jax.tree.leaves(state))
  config = NetworkConfig(core="feedforward", frame_stack=1)
  state = make_networks(ATARI, config=config).initial_core_state(2)
  assert state.carry == () and state.frames.shape == (2, 0, 84, 84)


TORSOS = {
  "nature": (
    IMAGES,
    dict(torso_channels=(3, 3, 3), torso_units=4, frame_stack=4),
  ),
  "impala": (
    IMAGES._replace(obs_shape=(36, 36, 3)),
    dict(torso_channels=(2, 2, 2), frame_stack=2, torso_units=4),
  ),
  "grid": (GRID, dict()),
  "mlp": (SPEC, dict(torso_channels=(6, 5))),
}


@pytest.mark.parametrize(
  "torso, dtype",
  [
    ("nature", "bfloat16"),
    ("impala", "float32"),
    ("grid", "float32"),
    ("mlp", "bfloat16"),
  ],
)
def test_torsos_run_and_learn(torso, dtype):
  spec, settings = TORSOS[torso]
  networks = make_networks(
    spec,
    config=network_config(torso=torso, compute_dtype=dtype, **settings),
  )
  rng = np.random.default_rng(0)
  params = random_params(rng, networks)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
  inputs = random_inputs(rng, (3, 2), spec=spec)
  if torso == "grid":
    inputs = inputs._replace(obs_t=inputs.obs_t % 4)
  state = random_core_state(rng, networks, 2)

  @jax.jit
  def run(params):
    def total(params):
      q, new_state = networks.unroll(params, inputs, state)
      return jnp.square(q - 3.0).sum(), (q, new_state)

    return jax.grad(total, has_aux=True)(params)

  grads, (q, new_state) = run(params)
  assert q.shape == (3, 2, spec.num_actions) and q.dtype == np.float32
  assert np.isfinite(q).all()
  # acting would compile again, or drift, if the state changed its type
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all() and np.any(g), path


# --- Identities ------------------------------------------------------------


def _jitted(networks):
  return dataclasses.replace(
    networks,
    init=jax.jit(networks.init),
    step=jax.jit(networks.step),
    unroll=jax.jit(networks.unroll),
  )


LSTM = _jitted(NETWORKS)
FEEDFORWARD = _jitted(
  make_networks(SPEC, config=network_config(core="feedforward", frame_stack=3))
)


@pytest.mark.parametrize("networks", [LSTM, FEEDFORWARD], ids=["lstm", "ff"])
def test_unroll_is_as_many_steps(networks):
  params = networks.init(jax.random.key(1))
  rng = np.random.default_rng(1)
  inputs = random_inputs(rng, (9, 4), first_probability=0.2)
  assert 0 < inputs.is_first_t[1:-1].sum()
  state = random_core_state(rng, networks, 4)
  q, last_state = networks.unroll(params, inputs, state)
  for t in range(9):
    row = jax.tree.map(lambda x, t=t: x[t], inputs)
    q_t, state = networks.step(params, row, state)
    np.testing.assert_allclose(q_t, q[t], rtol=0, atol=1e-5)
  assert_trees_close(state, last_state)


def test_unroll_in_two_halves():
  networks, params = LSTM, LSTM.init(jax.random.key(1))
  rng = np.random.default_rng(2)
  inputs = random_inputs(rng, (8, 4), first_probability=0.2)
  state = random_core_state(rng, networks, 4)
  q, last_state = networks.unroll(params, inputs, state)
  q_1, state = networks.unroll(
    params, jax.tree.map(lambda x: x[:4], inputs), state
  )
  q_2, state = networks.unroll(
    params, jax.tree.map(lambda x: x[4:], inputs), state
  )
  np.testing.assert_allclose(np.concatenate([q_1, q_2]), q, rtol=0, atol=1e-5)
  assert_trees_close(state, last_state)


def test_what_came_before_a_first_row_means_nothing():
  """State, previous action and previous reward are null there, bit for bit."""
  params = LSTM.init(jax.random.key(2))
  rng = np.random.default_rng(4)
  first = np.array([True, False, True, True])  # of lane 1 it means something
  inputs = random_inputs(rng, (4,))._replace(is_first_t=first)
  noise = random_inputs(rng, (4,))
  state = random_core_state(rng, LSTM, 4)
  other_state = random_core_state(rng, LSTM, 4)
  other = inputs._replace(a_tm1=(inputs.a_tm1 + 1) % 4, r_t=noise.r_t)
  null = inputs._replace(a_tm1=0 * inputs.a_tm1, r_t=0 * inputs.r_t)

  q, new_state = LSTM.step(params, inputs, state)
  for rows, before in (
    (other, state),
    (inputs, other_state),
    (other, other_state),
    (null, LSTM.initial_core_state(4)),
  ):
    q_2, new_state_2 = LSTM.step(params, rows, before)
    pick = lambda x: np.asarray(x)[first]
    assert_trees_equal(
      jax.tree.map(pick, (q, new_state)), jax.tree.map(pick, (q_2, new_state_2))
    )
    assert np.any(np.asarray(q)[~first] != np.asarray(q_2)[~first])
  # each of the three alone reaches a row that is not first
  for rows in (
    inputs._replace(r_t=noise.r_t),
    inputs._replace(a_tm1=other.a_tm1),
  ):
    q_2, _ = LSTM.step(params, rows, state)
    assert np.any(np.asarray(q)[~first] != np.asarray(q_2)[~first])


def test_the_same_in_the_middle_of_an_unroll():
  params = LSTM.init(jax.random.key(2))
  rng = np.random.default_rng(5)
  inputs = random_inputs(rng, (6, 2))
  inputs.is_first_t[3] = True
  q, state = LSTM.unroll(params, inputs, random_core_state(rng, LSTM, 2))
  changed = jax.tree.map(np.copy, inputs)
  changed.obs_t[:3] += 1
  changed.a_tm1[:4] = (changed.a_tm1[:4] + 1) % 4
  changed.r_t[:4] += 1
  q_2, state_2 = LSTM.unroll(params, changed, random_core_state(rng, LSTM, 2))
  assert_trees_equal((q[3:], state), (q_2[3:], state_2))
  assert np.any(np.asarray(q[:3]) != np.asarray(q_2[:3]))


def test_previous_action_and_reward_can_be_left_out():
  networks = make_networks(
    SPEC,
    config=network_config(use_previous_action=False, use_previous_reward=False),
  )
  # torso 6, and 6 + 4 actions + 1 reward with both
  assert _shapes(networks)["core/w_x"] == (6, 4 * 5)
  assert _shapes(NETWORKS)["core/w_x"] == (6 + 4 + 1, 4 * 5)


def test_the_head_is_duelling():
  """q = v + a - mean a: a constant in the advantages changes nothing."""
  params = LSTM.init(jax.random.key(3))
  rng = np.random.default_rng(6)
  inputs = random_inputs(rng, (2, 3))
  state = random_core_state(rng, LSTM, 3)

  def q_with(head, amount):
    p = jax.tree.map(lambda x: x, params)
    p["params"][head]["bias"] = p["params"][head]["bias"] + amount
    return np.asarray(LSTM.unroll(p, inputs, state)[0])

  q = q_with("value", 0.0)
  np.testing.assert_allclose(q_with("value", 2.0), q + 2, atol=1e-5)
  np.testing.assert_allclose(q_with("advantage", 2.0), q, atol=1e-5)
  np.testing.assert_allclose(
    q_with("advantage", np.array([4.0, 0, 0, 0])),
    q + [3, -1, -1, -1],
    atol=1e-5,
  )


# --- Frame stacks ----------------------------------------------------------


def _slow_stacks(obs_t, is_first_t, frames):
  """Stacks [T, B, ..., k] by keeping a list of frames for each lane."""
  num_rows, num_lanes = is_first_t.shape
  kept = [list(frames[b]) for b in range(num_lanes)]
  stacks = []
  for t in range(num_rows):
    for b in range(num_lanes):
      if is_first_t[t, b]:
        kept[b] = [obs_t[t, b]] * len(kept[b])
    stacks.append(
      [np.stack(kept[b] + [obs_t[t, b]], axis=-1) for b in range(num_lanes)]
    )
    kept = [(kept[b] + [obs_t[t, b]])[1:] for b in range(num_lanes)]
  return np.array(stacks), np.array(kept)


@pytest.mark.parametrize("k, shape", [(4, (2, 3)), (2, (5,)), (3, (2, 2, 3))])
def test_frame_stack_against_a_slow_loop(k, shape):
  rng = np.random.default_rng(k)
  obs_t = rng.integers(0, 256, (11, 3, *shape), np.uint8)
  frames = rng.integers(0, 256, (3, k - 1, *shape), np.uint8)
  is_first_t = rng.random((11, 3)) < 0.2
  assert is_first_t.any()
  stacks, new_frames = jax.jit(stack_frames)(obs_t, is_first_t, frames)
  slow, slow_frames = _slow_stacks(obs_t, is_first_t, frames)
  if len(shape) == 3:  # [H, W, C]: channels of the oldest frame first
    slow = np.moveaxis(slow, -1, -2).reshape(11, 3, 2, 2, 9)
  np.testing.assert_array_equal(stacks, slow)
  np.testing.assert_array_equal(new_frames, slow_frames)


def test_a_stack_of_one_frame():
  obs_t = np.arange(6, dtype=np.uint8).reshape(3, 2, 1)
  frames = np.zeros((2, 0, 1), np.uint8)
  stacks, new_frames = stack_frames(obs_t, np.zeros((3, 2), bool), frames)
  np.testing.assert_array_equal(stacks, obs_t[..., None])
  assert new_frames.shape == frames.shape


# --- The CPU's own order of the same arithmetic -------------------------------


@pytest.mark.parametrize(
  "torso, shape, frame_stack",
  [
    ("nature", (84, 84), 4),
    ("nature", (39, 45), 2),  # no multiples of the stride
    ("nature", (38, 37, 3), 3),
    ("nature", (36, 36), 1),
    ("impala", (36, 36), 2),
  ],
)
def test_equals_the_plain_network(torso, shape, frame_stack, monkeypatch):
  """Forward, gradient and state against what accelerators compute."""
  spec = EnvSpec(shape, np.dtype(np.uint8), 3, 1)
  config = network_config(
    torso=torso,
    torso_channels=(4, 6, 8),
    torso_units=16,
    frame_stack=frame_stack,
  )
  networks = make_networks(spec, config=config)
  rng = np.random.default_rng(0)
  params = random_params(rng, networks)
  core_state = random_core_state(rng, networks, 2)
  inputs = random_inputs(rng, (5, 2), spec=spec, first_probability=0.3)
  weights = rng.normal(size=(5, 2, 3)).astype(np.float32)

  def unroll():
    def loss(params):
      q, state = networks.unroll(params, inputs, core_state)
      return (q * weights).sum(), (q, state)

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  ours = unroll()
  assert "custom_vjp" in str(jax.make_jaxpr(networks.unroll)(
      params, inputs, core_state))  # fmt: skip
  plain_torso = torsos.TORSOS[torso]._replace(on_cpu=None)
  monkeypatch.setitem(torsos.TORSOS, torso, plain_torso)
  networks = make_networks(spec, config=config)
  plain = unroll()
  assert jax.tree.structure(ours) == jax.tree.structure(plain)
  for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
    assert x.shape == y.shape and x.dtype == y.dtype
    scale = max(1e-6, np.abs(y).max()) if y.dtype != np.uint8 else 0
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("torso", ["nature", "impala"])
def test_unroll_without_gradient(torso, monkeypatch):
  """The same values in chunks of 5 of the 10 rows, and no gradient."""
  monkeypatch.setattr("r2d2_jax.agent.networks._CHUNK_ROWS", 6)
  config = network_config(torso=torso, torso_channels=(4, 6, 8), frame_stack=2)
  networks = make_networks(IMAGES, config=config)
  rng = np.random.default_rng(0)
  params = random_params(rng, networks)
  inputs = random_inputs(rng, (5, 2), spec=IMAGES, first_probability=0.3)
  args = (params, inputs, random_core_state(rng, networks, 2))
  assert_trees_close(
    jax.jit(networks.unroll_without_gradient)(*args),
    jax.jit(networks.unroll)(*args),
  )
  # Two chunks, which nobody who needs the gradient goes through. (A trace is of
  # all platforms' branches.)
  for unroll, chunked in (
    (networks.unroll_without_gradient, True),
    (networks.unroll, False),
  ):
    assert ("length=2" in str(jax.make_jaxpr(unroll)(*args))) == chunked
  gradient = jax.jit(
    jax.grad(lambda p: networks.unroll_without_gradient(p, *args[1:])[0].sum())
  )(params)
  assert not any(x.any() for x in jax.tree.leaves(gradient))


# --- Misuse ----------------------------------------------------------------


@pytest.mark.parametrize(
  "spec, settings, message",
  [
    (SPEC, dict(torso="nature", torso_channels=(1, 1, 1)), "at least 36x36"),
    (
      IMAGES._replace(obs_shape=(20, 84)),
      dict(torso="impala", torso_channels=(1, 1, 1)),
      "at least 36x36",
    ),
    (IMAGES, dict(torso="nature", torso_channels=(1, 1)), "three"),
    (SPEC, dict(torso="grid"), "MiniGrid"),
    (GRID, dict(torso="grid", frame_stack=2), "frame_stack 1"),
    (
      SPEC._replace(obs_shape=None),
      {},
      "obs_shape .* got None; .*several parts",
    ),
  ],
)
def test_observations_that_do_not_fit_are_refused(spec, settings, message):
  with pytest.raises(ValueError, match=message):
    make_networks(spec, config=network_config(**settings))


def test_networks_are_hashable():
  assert hash(NETWORKS) == hash(NETWORKS)
  assert NETWORKS == dataclasses.replace(NETWORKS)
