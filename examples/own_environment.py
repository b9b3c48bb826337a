"""An environment of one's own: a Gymnasium environment in a few lines.

A lamp shows a colour for one step; after some dark steps the agent has to name
it. Without memory half of the answers are right, a mean return of 0; with
memory all are, 1. Copy it, and change what it does:

  python -m experiments.train --preset control --run.total-steps 30000 \
      --env.task examples.own_environment:make_env

  python -m examples.own_environment --run-dir runs/lamp --steps 30000
"""

import argparse

import gymnasium
import numpy as np

import r2d2_jax as r2


class Lamp(gymnasium.Env):
  """Observations: (red, green, asked). Actions: 0 says red, 1 green."""

  observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)
  action_names = ("red", "green")

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)  # self.np_random is the lane's own
    self._colour = int(self.np_random.integers(2))
    self._dark_steps = int(self.np_random.integers(2, 6))
    self._steps = 0
    return self._observe(), {}

  def step(self, action):
    asked = self._steps == self._dark_steps
    self._steps += 1
    reward = (1.0 if action == self._colour else -1.0) if asked else 0.0
    terminated, truncated = asked, False  # truncated: cut, but not over
    return self._observe(), reward, terminated, truncated, {}

  def _observe(self):
    lit = self._steps == 0
    red, green = lit and self._colour == 0, lit and self._colour == 1
    return np.array([red, green, self._steps == self._dark_steps], np.float32)


def make_env():
  """What env.task names: it is called once for each lane."""
  return Lamp()


def main(run_dir: str, num_steps: int) -> None:
  """Looks whether the rows are right, then trains."""
  config = r2.presets.control().updated(
    {
      "env.task": "examples.own_environment:make_env",
      "run.total_steps": num_steps,
    }
  )
  r2.check_world(r2.make_world(config.env, seed=0))
  result = r2.train(config, run_dir=run_dir)
  print(f"evaluation: {result.evaluation.returns.mean():.2f}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--run-dir", default="runs/own_environment")
  parser.add_argument("--steps", type=int, default=30_000)
  arguments = parser.parse_args()
  main(arguments.run_dir, arguments.steps)
