"""A Gymnasium environment that shows an image and numbers."""

import functools

import gymnasium
import numpy as np

SIDE = 36
_BOX = gymnasium.spaces.Box


class Lamp(gymnasium.Env):
  """Action 2 side + sign: the side of the lamp in the image, the number's sign.

  Ten steps, each with another lamp and another number. Half of the reward is
  for each: 5 by chance, 7.5 with one part alone, 10 with both.
  """

  observation_space = gymnasium.spaces.Dict(
    sign=_BOX(-1, 1, (1,), np.float32),
    image=_BOX(0, 255, (SIDE, SIDE), np.uint8),
  )
  action_space = gymnasium.spaces.Discrete(4)

  def __init__(self, fault=""):
    self._fault = fault

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._steps = 0
    self._draw()
    return self._observe(), {}

  def step(self, action):
    side, sign = divmod(int(action), 2)
    reward = 0.5 * (side == self._side) + 0.5 * (sign == self._sign)
    self._steps += 1
    self._draw()
    obs = self._observe()
    if self._fault == "nan":
      obs["sign"][0] = np.nan
    return obs, reward, self._steps == 10, False, {}

  def _draw(self):
    self._side, self._sign = self.np_random.integers(2, size=2)

  def _observe(self):
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:, : SIDE // 2] = 255 * (self._side == 0)
    image[:, SIDE // 2 :] = 255 * (self._side == 1)
    sign = np.array([1 if self._sign else -1], np.float32)
    return {"image": image, "sign": sign}


make_lamp = Lamp
make_nan = functools.partial(Lamp, "nan")
