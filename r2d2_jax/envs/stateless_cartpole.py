"""stateless-cartpole: CartPole-v1 whose velocities are hidden.

Source: the physics, the limits and the reward are those of Gymnasium's
CartPole-v1 (Barto, Sutton and Anderson, 1983;
`gymnasium/envs/classic_control/cartpole.py`, Euler's method). The agent sees
the two positions alone, as RLlib's StatelessCartPole shows them: obs = (x,
theta), float32.

    reward 1 per step, the last one included; over when |x| > 2.4 or
    |theta| > 12 degrees; truncated after 500 steps
    action 0 pushes to the left, 1 to the right; a start is uniform in
    [-0.05, 0.05] in all four of (x, x', theta, theta')
"""

import math

import numpy as np

from r2d2_jax.envs.lane_random import lane_uniform
from r2d2_jax.envs.numpy_world import NumpyWorld
from r2d2_jax.types import EnvSpec

MAX_STEPS = 500

_GRAVITY, _FORCE, _SECONDS = 9.8, 10.0, 0.02
_CART, _POLE, _HALF_LENGTH = 1.0, 0.1, 0.5
_MASS, _POLE_MOMENT = _CART + _POLE, _POLE * _HALF_LENGTH
_MAX_X, _MAX_THETA = 2.4, 12 * 2 * math.pi / 360
_START = 0.05


def physics(state: np.ndarray, a_t: np.ndarray) -> np.ndarray:
  """One step of Euler's method.

  Args:
    state: float64 [B, 4], (x, x', theta, theta') in metres, radians, seconds.
    a_t: int [B], 0 or 1.

  Returns:
    The next state, float64 [B, 4].
  """
  x, x_dot, theta, theta_dot = state.T
  force = np.where(a_t == 1, _FORCE, -_FORCE)
  cos, sin = np.cos(theta), np.sin(theta)
  push = (force + _POLE_MOMENT * np.square(theta_dot) * sin) / _MASS
  theta_acc = (_GRAVITY * sin - cos * push) / (
    _HALF_LENGTH * (4.0 / 3.0 - _POLE * np.square(cos) / _MASS)
  )
  x_acc = push - _POLE_MOMENT * theta_acc * cos / _MASS
  return np.stack(
    [
      x + _SECONDS * x_dot,
      x_dot + _SECONDS * x_acc,
      theta + _SECONDS * theta_dot,
      theta_dot + _SECONDS * theta_acc,
    ],
    axis=1,
  )


class StatelessCartPoleWorld(NumpyWorld):
  """Many lanes of the task above."""

  def __init__(
    self,
    num_envs: int,
    *,
    seed: int,
    batch_size: int = 0,
    max_episode_steps: int = MAX_STEPS,
  ):
    """Args: as for `NumpyWorld`; no episode is longer than 500 steps."""
    super().__init__(
      EnvSpec((2,), np.dtype(np.float32), 2, 1),
      num_envs,
      seed=seed,
      batch_size=batch_size,
      max_episode_steps=min(max_episode_steps, MAX_STEPS),
    )
    self._state = np.zeros((num_envs, 4))

  def _begin(self, env_id: np.ndarray) -> None:
    for i in range(4):
      draw = lane_uniform(self.seed, env_id, self.episode[env_id], np.array(i))
      self._state[env_id, i] = _START * (2 * draw - 1)

  def _act(
    self, env_id: np.ndarray, a_t: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    state = self._state[env_id] = physics(self._state[env_id], a_t)
    far = np.abs(state[:, 0]) > _MAX_X
    return np.ones(len(env_id)), far | (np.abs(state[:, 2]) > _MAX_THETA)

  def _observe(self, env_id: np.ndarray) -> np.ndarray:
    return self._state[env_id][:, [0, 2]].astype(np.float32)
