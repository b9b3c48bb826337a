"""A torso of one's own: a function from the settings to a flax module.

A run takes it by name, here as everywhere:

  python -m experiments.train --preset smoke \\
    --network.torso examples.own_torso:make_torso

  python -m examples.own_torso --run-dir runs/own_torso --steps 20000
"""

import argparse

import flax.linen as nn

import r2d2_jax as r2


class Gated(nn.Module):
  """One hidden layer whose units are gated: x W * sigmoid(x V)."""

  units: int

  @nn.compact
  def __call__(self, x):
    # M stacked observations, as they come from replay.
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(self.units)(x) * nn.sigmoid(nn.Dense(self.units)(x))


def make_torso(config):
  """The torso, from `Config.network`."""
  return Gated(units=config.torso_channels[0])


def main(run_dir: str, num_steps: int) -> None:
  """Trains on the built-in memory task; reads the agent back."""
  config = r2.presets.smoke().updated(
    {
      "network.torso": "examples.own_torso:make_torso",
      "run.total_steps": num_steps,
    }
  )
  result = r2.train(config, run_dir=run_dir)
  print(f"evaluation: {result.evaluation.returns.mean():.2f}")
  saved = r2.load_agent(run_dir)
  shape = saved.params["params"]["torso"]["Dense_0"]["kernel"].shape
  print(f"read back: update {saved.num_updates}, kernel {shape}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--run-dir", default="runs/own_torso")
  parser.add_argument("--steps", type=int, default=20_000)
  arguments = parser.parse_args()
  main(arguments.run_dir, arguments.steps)
