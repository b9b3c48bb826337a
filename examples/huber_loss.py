"""Another loss: Huber's instead of the square, in a whole run.

`make_agent` is a function of this module, so the run's config.json names it,
and `python -m experiments.evaluate RUN` finds it again when it is started from
the directory that holds `examples/`.

  python -m examples.huber_loss --run-dir runs/huber --steps 20000
"""

import argparse
import functools

import optax

import r2d2_jax as r2

huber_loss = functools.partial(
  r2.sequence_loss,
  penalty=functools.partial(optax.losses.huber_loss, delta=1.0),
)


def make_agent(spec, config):
  """R2D2 with Huber's loss; priorities stay |td|."""
  return r2.make_r2d2_agent(spec, config, loss=huber_loss)


def main(run_dir: str, num_steps: int) -> None:
  """Trains on the built-in memory task and shows each row of the log."""
  # By its import path, not as a function of `__main__`.
  from examples.huber_loss import make_agent as importable

  config = r2.presets.smoke().updated({"run.total_steps": num_steps})
  result = r2.train(
    config,
    run_dir=run_dir,
    make_agent=importable,
    on_row=lambda row: print(
      f"step {row['steps']}: loss {row['loss']:.4f},"
      f" return {row['return_mean']:.2f}",
      flush=True,
    ),
  )
  print(f"evaluation: {result.evaluation.returns.mean():.2f}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--run-dir", default="runs/huber")
  parser.add_argument("--steps", type=int, default=20_000)
  arguments = parser.parse_args()
  main(arguments.run_dir, arguments.steps)
