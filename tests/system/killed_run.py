"""A lock-step run that writes down which keys it sampled, and may kill itself.

    python -m tests.system.killed_run RUN_DIR KEYS_FILE TASK [MOMENT]

MOMENT: `update N`: kill -9 when update N is done; `saving N`: in the middle of the
N-th save.
"""

import dataclasses
import os
import pathlib
import signal
import sys

from experiments.configs.presets import smoke
from r2d2_jax.config import Config
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.learning import LearnerLoop
from r2d2_jax.system.train import TrainResult, train


def lockstep_config(task: str) -> Config:
  config = smoke()
  network = config.network
  if task != "recall":
    network = dataclasses.replace(network, torso="mlp", torso_channels=(16,))
  return dataclasses.replace(
      config,
      env=dataclasses.replace(config.env, task=task, flicker_probability=0.1),
      network=network,
      run=dataclasses.replace(
          config.run, lockstep=True, total_steps=6_000, log_updates=3,
          checkpoint_updates=7, eval_period_steps=2_000, eval_episodes=2,
          actor_refresh_steps=13, tensorboard=False,
      ),
  )  # fmt: skip


def run(run_dir: pathlib.Path, keys_file: pathlib.Path, task: str) -> TrainResult:
  """Trains; each sampled batch adds a line to keys_file."""
  sample = LocalReplay.sample

  def sample_and_tell(self, *args, **kwargs):
    batch = sample(self, *args, **kwargs)
    with keys_file.open("a") as f:
      print(*batch.keys, file=f)
    return batch

  LocalReplay.sample = sample_and_tell
  try:
    return train(lockstep_config(task), run_dir=run_dir)
  finally:
    LocalReplay.sample = sample


def _kill_myself(*args, **kwargs) -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
  run_dir, keys_file, task, moment, count = sys.argv[1:]
  if moment == "update":
    step = LearnerLoop.step

    def step_then_die(self, batch):
      step(self, batch)
      if self.num_updates == int(count):
        _kill_myself()

    LearnerLoop.step = step_then_die
  elif moment == "saving":
    save, saves = LocalReplay.save, []

    def save_then_die(self, directory):
      save(self, directory)
      saves.append(directory)
      if len(saves) == int(count):
        _kill_myself()

    LocalReplay.save = save_then_die
  run(pathlib.Path(run_dir), pathlib.Path(keys_file), task)


if __name__ == "__main__":
  main()
