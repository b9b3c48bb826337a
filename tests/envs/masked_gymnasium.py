"""Gymnasium environments that say which actions may be taken."""

import functools

import gymnasium
import numpy as np

NUM_DOORS = 4
STEPS = 6


class Doors(gymnasium.Env):
  """Four doors, some of them locked; a door further right pays more.

  It shows which are open, and its step: float32 [5]. A locked door raises, as
  a move against the rules ends a game for good. Reward: 0 for the last of the
  open doors, less for those before it.
  """

  observation_space = gymnasium.spaces.Box(0, STEPS, (5,), np.float32)
  action_space = gymnasium.spaces.Discrete(NUM_DOORS)

  def __init__(self, fault="", truncated=False):
    self._fault = fault
    self._truncated = truncated

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._step = 0
    self._lock()
    return self._observe(), self._info()

  def step(self, action):
    assert self._open[action], f"door {action} is locked"
    reward = (int(action) - np.flatnonzero(self._open)[-1]) / NUM_DOORS
    self._step += 1
    over = self._step == STEPS
    self._lock()
    if over and not self._truncated or self._fault == "none":
      self._open[:] = False
    ends = (over and not self._truncated, over and self._truncated)
    return self._observe(), float(reward), *ends, self._info()

  def _lock(self):
    self._open = self.np_random.random(NUM_DOORS) < 0.5
    self._open[self.np_random.integers(NUM_DOORS)] = True

  def _observe(self):
    return np.append(self._open, self._step).astype(np.float32)

  def _info(self):
    if self._fault == "missing" and self._step:
      return {"locked": ~self._open}
    mask = self._open.astype(np.int8)
    if self._fault == "shape" and self._step:
      mask = mask[:3]
    return {"action_mask": mask, "other": "x" * self._step}


class Factors(gymnasium.Env):
  """MultiDiscrete actions, a mask for each of its two numbers."""

  observation_space = gymnasium.spaces.Box(0, 1, (5,), np.float32)
  action_space = gymnasium.spaces.MultiDiscrete([2, 3])

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    return self._show()

  def step(self, action):
    assert self.action_space.contains(action)
    assert self._masks[0][action[0]] and self._masks[1][action[1]]
    obs, info = self._show()
    return obs, 0.0, bool(self.np_random.random() < 0.2), False, info

  def _show(self):
    self._masks = []
    for n in (2, 3):
      mask = (self.np_random.random(n) < 0.5).astype(np.int8)
      mask[self.np_random.integers(n)] = 1
      self._masks.append(mask)
    obs = np.concatenate(self._masks).astype(np.float32)
    return obs, {"action_mask": tuple(self._masks)}


make_doors = Doors
make_truncated = functools.partial(Doors, truncated=True)
make_none = functools.partial(Doors, "none")
make_missing = functools.partial(Doors, "missing")
make_shape = functools.partial(Doors, "shape")
