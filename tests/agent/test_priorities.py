"""The eta mix and the importance weights, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.priorities import importance_weights, sequence_priorities


def _priorities(td_error, mask, eta):
  return np.asarray(
    sequence_priorities(
      jnp.array(td_error, jnp.float32).T, jnp.array(mask, bool).T, eta=eta
    )
  )


def test_eta_mix_golden():
  td_error = [[1, -3, 2, 0], [0.5, 0.5, 0.5, 0.5]]
  mask = [[1, 1, 1, 1], [1, 1, 1, 1]]
  np.testing.assert_allclose(
    _priorities(td_error, mask, 0.9),
    [0.9 * 3 + 0.1 * (1 + 3 + 2 + 0) / 4, 0.9 * 0.5 + 0.1 * 0.5],
    rtol=1e-6,
  )
  np.testing.assert_allclose(_priorities(td_error, mask, 1.0), [3, 0.5])
  np.testing.assert_allclose(_priorities(td_error, mask, 0.0), [1.5, 0.5])


def test_padding_is_in_neither_maximum_nor_denominator():
  td_error = [[1, -3, 2, 99], [7, 99, 99, 99], [99, 99, 99, 99]]
  mask = [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
  np.testing.assert_allclose(
    _priorities(td_error, mask, 0.9),
    [0.9 * 3 + 0.1 * (1 + 3 + 2) / 3, 7.0, 0.0],
    rtol=1e-6,
  )


def test_importance_weights_golden():
  # (1 / (N P))^0.5 is (1/4)^-0.5 .. (4)^-0.5 up to a factor; divided by the max
  weights = importance_weights(np.array([0.01, 0.04, 0.16]), exponent=0.5)
  np.testing.assert_allclose(weights, [1.0, 0.5, 0.25], rtol=1e-6)
  weights = importance_weights(np.array([0.4, 0.1]), exponent=0.6)
  np.testing.assert_allclose(weights, [0.25**0.6, 1.0], rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.4, 0.6, 1.0])
def test_weights_are_normalised_over_the_whole_batch(exponent):
  p = np.random.default_rng(0).uniform(1e-6, 1e-2, 64)
  weights = np.asarray(importance_weights(p, exponent=exponent))
  raw = (64 * p) ** -exponent
  np.testing.assert_allclose(weights, raw / raw.max(), rtol=1e-5)
  assert weights.max() == 1 and weights.min() > 0
  # one maximum, not one for each half of the batch
  halves = [weights[:32].max(), weights[32:].max()]
  assert max(halves) == 1 and min(halves) < 1


def test_exponent_zero_is_exactly_one():
  weights = importance_weights(np.array([1e-12, 1e-3, 0.7]), exponent=0.0)
  np.testing.assert_array_equal(weights, np.ones(3, np.float32))


def test_tiny_probabilities_stay_in_range():
  weights = np.asarray(importance_weights(np.array([1e-36, 1.0]), exponent=2.0))
  assert np.isfinite(weights).all() and weights[0] == 1


@pytest.mark.parametrize("compile_it", [False, True])
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 2.0])
def test_weights_are_finite_and_above_zero_whatever_the_table_says(
  exponent, compile_it
):
  # 1e-44 is below what float32 holds in full, 1e-60 below what it holds at all.
  weigh = functools.partial(importance_weights, exponent=exponent)
  weigh = jax.jit(weigh) if compile_it else weigh
  for probability in (
      [0.5, 1e-44], [0.5, 1e-60], [0.5, 0.0], [1e-44, 1e-60], [0.0, 0.0],
      [1.0, 1e-38], [1.0, 1e-30],
  ):  # fmt: skip
    weights = np.asarray(weigh(np.array(probability, np.float32)))
    assert np.isfinite(weights).all() and weights.max() == 1
    assert (weights > 0).all(), (probability, weights)
  weights = np.asarray(weigh(np.array([0.5, 1e-44], np.float32)))
  # (1.17549435e-38 / 0.5)^exponent, by hand
  expected = max((2.3509887e-38) ** exponent, np.finfo(np.float32).tiny)
  np.testing.assert_allclose(weights, [expected, 1.0], rtol=1e-4)
