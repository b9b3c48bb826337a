"""stateless-cartpole: Gymnasium's CartPole-v1, step by step."""

import numpy as np
import pytest

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.stateless_cartpole import physics


def test_physics_written_out():
  """From rest, upright: force / mass, and the lever of the pole."""
  temp = 10 / 1.1
  theta_acc = -temp / (0.5 * (4 / 3 - 0.1 / 1.1))
  x_acc = temp - 0.05 * theta_acc / 1.1
  np.testing.assert_allclose(
    physics(np.zeros((2, 4)), np.array([1, 0])),
    0.02 * np.array([[0, x_acc, 0, theta_acc], [0, -x_acc, 0, -theta_acc]]),
    rtol=1e-12,
  )


def test_every_step_is_gymnasiums():
  gymnasium = pytest.importorskip("gymnasium")
  world = make_world(EnvConfig(task="stateless-cartpole", num_envs=3), seed=4)
  envs = [gymnasium.make("CartPole-v1").unwrapped for _ in range(3)]
  chooser = np.random.default_rng(0)
  world.reset()
  t = world.recv()
  terminations = 0
  for _ in range(300):
    for lane, env in enumerate(envs):
      if t.is_first_t[lane]:
        env.reset(seed=0)
        env.state = world._state[lane].copy()
        assert (np.abs(env.state) <= 0.05).all()
    a_t = chooser.integers(2, size=3).astype(np.int32)
    world.send(a_t, t.env_id)
    before, t = t, world.recv()
    for lane, env in enumerate(envs):
      if before.is_last_t[lane]:
        continue
      obs, reward, terminated, _, _ = env.step(int(a_t[lane]))
      np.testing.assert_allclose(world._state[lane], env.state, rtol=1e-9)
      np.testing.assert_allclose(t.obs_t[lane], obs[[0, 2]], rtol=1e-5)
      assert t.r_t[lane] == reward == 1
      assert t.discount_t[lane] == 1 - terminated
      assert t.is_last_t[lane] == terminated
      terminations += terminated
  assert terminations > 20


def test_500_steps_are_a_truncation():
  """A controller that knows the velocities holds it up, and is cut."""
  world = make_world(EnvConfig(task="stateless-cartpole", num_envs=4), seed=0)
  world.reset()
  for _ in range(502):
    t = world.recv()
    x, x_dot, theta, theta_dot = world._state.T
    up = 0.1 * x + 0.3 * x_dot + 3 * theta + theta_dot > 0
    world.send(up.astype(np.int32), t.env_id)
  assert world.pop_episodes() == [(i, 500.0, 500, 500, True) for i in range(4)]


def test_a_lane_is_the_same_in_every_pool():
  def first(num_envs, seed=1):
    world = make_world(
      EnvConfig(task="stateless-cartpole", num_envs=num_envs), seed=seed
    )
    world.reset()
    rows = []
    for k in range(40):
      rows.append(world.recv())
      world.send(np.full(num_envs, k % 2, np.int32), rows[-1].env_id)
    return np.stack([t.obs_t[0] for t in rows])

  np.testing.assert_array_equal(first(1), first(3))
  assert np.abs(first(1) - first(1, seed=2)).max() > 1e-4
