"""Cores: the GRU against its equations, and a core of one's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.cores import CORES, Core
from r2d2_jax.agent.networks import make_networks
from tests.agent.small import (
  SPEC,
  assert_trees_close,
  assert_trees_equal,
  network_config,
  random_core_state,
  random_inputs,
)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_gru_by_its_equations():
  config = network_config(core="gru", core_units=3)
  core = CORES["gru"].make(config)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 2, 5)).astype(np.float32)
  carry = rng.normal(size=(2, 3)).astype(np.float32)
  is_first_t = np.array([[0, 0], [0, 1], [0, 0], [1, 0]], bool)
  params = core.init(jax.random.key(0), x, carry, is_first_t)
  params = jax.tree.map(
    lambda p: rng.normal(size=p.shape).astype(np.float32), params
  )
  y, last = core.apply(params, x, carry, is_first_t)

  p = params["params"]
  h, expected = carry, []
  for t in range(4):
    h = np.where(is_first_t[t][:, None], 0, h)
    x_r, x_z, x_n = np.split(x[t] @ p["w_x"] + p["b"], 3, axis=-1)
    h_r, h_z, h_n = np.split(h @ p["w_h"], 3, axis=-1)
    r, z = _sigmoid(x_r + h_r), _sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * (h_n + p["b_hn"]))
    h = (1 - z) * n + z * h
    expected.append(h)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(last, y[-1])


def _biases(core, **settings):
  config = network_config(core=core, core_units=400, **settings)
  x = np.zeros((1, 2, 5), np.float32)
  carry = CORES[core].initial_carry(config, 2)
  first = np.zeros((1, 2), bool)
  params = CORES[core].make(config).init(jax.random.key(0), x, carry, first)
  return np.split(np.asarray(params["params"]["b"]), 4 if core == "lstm" else 3)


def test_forget_gates_begin_open():
  i, f, g, o = _biases("lstm")
  assert (f == 1).all() and not (i.any() or g.any() or o.any())
  assert not np.any(_biases("gru"))


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_gates_begin_by_remembering_up_to_so_many_rows(core):
  """exp(b_f) is uniform in [1, T - 1]; b_i = -b_f."""
  biases = _biases(core, core_memory_rows=101)
  if core == "lstm":
    i, kept, *others = biases
    np.testing.assert_array_equal(i, -kept)
  else:
    r, kept, n = biases
    others = (r, n)
  assert not np.any(others)
  rows = np.exp(kept)
  assert rows.min() >= 1 - 1e-5 and rows.max() <= 100 + 1e-3
  # Standard errors of mean and quartile of 400 draws: 1.4 and 2.1 rows.
  assert abs(rows.mean() - 50.5) < 6
  assert abs(np.quantile(rows, 0.25) - 25.75) < 9


def _gradient_by_the_first_row(memory_rows):
  """Norm of the gradient of the last of 100 outputs by the first input."""
  config = network_config(
    core="lstm", core_units=64, core_memory_rows=memory_rows
  )
  core = CORES["lstm"].make(config)
  x = 0.1 * np.random.default_rng(1).normal(size=(100, 1, 5))
  x = x.astype(np.float32)
  carry = CORES["lstm"].initial_carry(config, 1)
  first = np.zeros((100, 1), bool)
  params = core.init(jax.random.key(0), x, carry, first)
  last = lambda x: core.apply(params, x, carry, first)[0][-1].sum()
  return float(np.linalg.norm(jax.grad(last)(x)[0]))


def test_a_bit_is_kept_for_a_hundred_rows():
  assert _gradient_by_the_first_row(0) < 1e-6
  assert _gradient_by_the_first_row(100) > 1e-4


class _Means(nn.Module):
  """A running sum and a count: a carry that is a dict."""

  @nn.compact
  def __call__(self, x, carry, is_first_t):
    x = nn.Dense(4)(x)

    def step(carry, row):
      x, is_first = row
      keep = ~is_first[:, None]
      carry = {
        "sum": carry["sum"] * keep + x,
        "count": carry["count"] * keep + 1,
      }
      return carry, carry["sum"] / carry["count"]

    carry, y = jax.lax.scan(step, carry, (x, is_first_t))
    return y, carry


MEANS = Core(
  lambda config: _Means(),
  lambda config, batch_size: {
    "sum": jnp.zeros((batch_size, 4)),
    "count": jnp.zeros((batch_size, 1)),
  },
)


@pytest.mark.parametrize("core", ["gru", "tests.agent.test_cores:MEANS"])
def test_another_core_unrolls_as_it_steps(core):
  networks = make_networks(
    SPEC, config=network_config(core=core, frame_stack=2)
  )
  params = networks.init(jax.random.key(1))
  rng = np.random.default_rng(1)
  inputs = random_inputs(rng, (5, 3), first_probability=0.3)
  state = start = random_core_state(rng, networks, 3)
  q, last = networks.unroll(params, inputs, state)
  for t in range(5):
    q_t, state = networks.step(
      params, jax.tree.map(lambda x, t=t: x[t], inputs), state
    )
    np.testing.assert_allclose(q_t, q[t], rtol=0, atol=1e-5)
  assert_trees_close(state, last)
  # What came before a first row means nothing, whatever the carry is.
  row = inputs._replace(is_first_t=np.ones_like(inputs.is_first_t))
  assert_trees_equal(
    networks.unroll(params, row, start)[0],
    networks.unroll(params, row, networks.initial_core_state(3))[0],
  )
