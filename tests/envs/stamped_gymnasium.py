"""A Gymnasium environment whose observation is its step index.

The same rows as `tests.stamped.StampedWorld` gives; importable, for lanes in
processes of their own.
"""

import functools
import itertools
import os
import time

import gymnasium
import numpy as np

from tests.stamped import stamped_reward

NUM_ACTIONS = 4
# For every lane the steps of its episodes, in turn.
LENGTHS = [(2, 1, 4), (3,), (1, 1, 5)]
TRUNCATED = [(0, 0), (1, 1), (2, 2), (2, 4)]  # lane, episode


class StampedEnv(gymnasium.Env):
  """Shows float32 [2] = (episode, step); rewards are `stamped_reward`."""

  observation_space = gymnasium.spaces.Box(-1, np.inf, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

  def __init__(self, lane):
    self._lane = lane
    self._lengths = itertools.cycle(LENGTHS[lane])
    self._truncated = [e for i, e in TRUNCATED if i == lane]
    self._episode = -1
    self._is_over = True

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._step, self._is_over = 0, False
    self._episode += 1
    self._length = next(self._lengths)
    return self._observe(), {}

  def step(self, action):
    assert not self._is_over, "stepped on after its end"
    assert self.action_space.contains(action)
    self._step += 1
    self._is_over = self._step == self._length
    truncated = self._is_over and self._episode in self._truncated
    return (
      self._observe(),
      stamped_reward(self._step, int(action)),
      self._is_over and not truncated,
      truncated,
      {"lane": self._lane},
    )

  def _observe(self):
    return np.array([self._episode, self._step], np.float32)


def stamped_lanes():
  return [functools.partial(StampedEnv, lane) for lane in range(len(LENGTHS))]


class Walk(gymnasium.Env):
  """A random walk from a seed; 'faults' by action, for tests of bad lanes."""

  observation_space = gymnasium.spaces.Box(-99, 99, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, fault=""):
    self._fault = fault

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._steps = 0
    return self._observe(), {}

  def step(self, action):
    self._steps += 1
    if action == 1:
      if self._fault == "raise":
        raise KeyError("no such place")
      if self._fault == "hang":
        time.sleep(600)
      if self._fault == "die":
        os._exit(3)
      if self._fault == "shape":
        return np.zeros(3, np.float32), 0.0, False, False, {}
      if self._fault == "reward":
        return self._observe(), [0.0, 1.0], False, False, {}
      if self._fault == "old":
        return self._observe(), 0.0, False, {}
    over = self._steps == 5
    return self._observe(), float(self.np_random.random()), over, False, {}

  def _observe(self):
    return self.np_random.uniform(-1, 1, 2).astype(np.float32)


make_walk = Walk
make_raising = functools.partial(Walk, "raise")
make_hanging = functools.partial(Walk, "hang")
make_dying = functools.partial(Walk, "die")
make_shapeless = functools.partial(Walk, "shape")
make_unrewarding = functools.partial(Walk, "reward")
make_old = functools.partial(Walk, "old")


class NoSpace(Walk):
  """Its space is no array of a fixed size."""

  observation_space = gymnasium.spaces.Text(8)


class Continuous(Walk):
  """Its actions are numbers."""

  action_space = gymnasium.spaces.Box(-1, 1, (1,))


def make_nothing():
  return "no environment"


class Drawn(Walk):
  """It draws itself, and names its actions."""

  metadata = {"render_modes": ["rgb_array"]}
  action_names = ("stay", "go")

  def __init__(self):
    super().__init__()
    self.render_mode = "rgb_array"

  def render(self):
    return np.full((4, 6, 3), self._steps, np.uint8)


gymnasium.register("stamped/Walk-v0", lambda: Walk())
