"""Runs whose learner splits its batches over devices."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from r2d2_jax.agent.learning import BATCH_AXIS
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.presets import smoke
from r2d2_jax.system import train as train_module
from r2d2_jax.system.devices import learner_mesh
from r2d2_jax.system.loops import actor, learner
from r2d2_jax.system.storage.csv_log import read_log

ROOT = pathlib.Path(__file__).resolve().parents[3]


def config(settings) -> Config:
  return smoke().updated({"evaluation.num_episodes": 4, **settings})


@pytest.mark.parametrize(
  "found, batch_size, asked, expected",
  [
    (1, 16, 0, None),
    (1, 16, 1, None),
    (8, 64, 0, 8),
    (6, 64, 0, 4),  # the most that divide the batch
    (8, 7, 0, 7),
    (2, 7, 0, None),
    (8, 64, 1, None),
    (8, 64, 2, 2),
    (6, 6, 3, 3),
  ],
)
def test_which_devices(found, batch_size, asked, expected, monkeypatch):
  device = jax.devices()[0]
  monkeypatch.setattr(jax, "local_devices", lambda: [device] * found)
  mesh = learner_mesh(
    config({"agent.batch_size": batch_size, "run.learner_devices": asked})
  )
  if expected is None:
    assert mesh is None
  else:
    assert mesh.shape == {BATCH_AXIS: expected}


def test_more_devices_than_there_are_is_a_fault_of_the_settings():
  with pytest.raises(
    ConfigError, match="learner_devices: .* at most 1,.*got 2"
  ):
    learner_mesh(config({"run.learner_devices": 2}))


# --- A child with two devices ------------------------------------------------


def main(path: str) -> None:
  """Two runs in one directory: in threads, then resumed in lock-step.

  And beside them one whose dQ is measured on the batches that are split.
  """
  devices_of_acting = set()
  act = actor.ActorLoop.step

  def spied_act(actors):
    result = act(actors)
    for x in jax.tree.leaves((actors._params, actors._state)):
      devices_of_acting.add(tuple(sorted(d.id for d in x.sharding.device_set)))
    return result

  actor.ActorLoop.step = spied_act
  devices_of_learning = []
  learn = learner.LearnerLoop.step

  def spied_learn(learner, batch):
    learn(learner, batch)
    devices_of_learning.append(
      [
        len(x.sharding.device_set)
        for x in jax.tree.leaves((learner._state, batch.on_device))
      ]
    )

  learner.LearnerLoop.step = spied_learn
  runs = []
  for total_steps, lockstep in ((3_000, False), (6_000, True)):
    result = train_module.train(
      config({"run.total_steps": total_steps, "run.lockstep": lockstep}),
      run_dir=pathlib.Path(path),
    )
    numbers = [np.asarray(x) for x in jax.tree.leaves(result.state)]
    runs.append(
      {
        "steps": result.steps,
        "updates": int(result.state.num_updates),
        "updates_here": len(devices_of_learning),
        "devices_of_learning": sorted(set(sum(devices_of_learning, []))),
        "games": len(result.evaluation.returns),
        "finite": all(np.isfinite(x).all() for x in numbers),
      }
    )
    devices_of_learning.clear()
  split_dir = pathlib.Path(path).with_name("row-states")
  train_module.train(
    config(
      {
        "run.total_steps": 2_500,
        "run.lockstep": True,
        "log.period_updates": 2,
        "replay.row_states": True,
      }
    ),
    run_dir=split_dir,
  )
  dq_last = read_log(split_dir / "log.csv")["dq_last"]
  print(
    json.dumps(
      {
        "runs": runs,
        "acting": sorted(devices_of_acting),
        "dq_last": [x for x in dq_last if x == x],
      }
    )
  )


def test_a_run_on_two_devices_acts_evaluates_and_resumes_on_one(tmp_path):
  flags = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
    # Compiles faster.
    + " --xla_backend_optimization_level=0"
  )
  child = subprocess.run(
    [
      sys.executable,
      "-m",
      "tests.system.loops.test_learner_devices",
      str(tmp_path / "run"),
    ],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert child.returncode == 0, child.stderr
  assert "donated" not in child.stderr
  found = json.loads(child.stdout.splitlines()[-1])
  assert found["acting"] == [[0]]
  # Measured after the first updates; the items start in a stored state.
  assert len(found["dq_last"]) >= 3 and min(found["dq_last"]) > 0
  updates = 0
  for run in found["runs"]:
    assert run["devices_of_learning"] == [2]
    assert run["finite"] and run["games"] == 4
    assert run["updates_here"] > 0
    # Each goes on where the one before ended.
    assert run["updates"] == updates + run["updates_here"]
    updates = run["updates"]
  steps = [run["steps"] for run in found["runs"]]
  assert steps == sorted(steps) and steps[-1] >= 6_000


if __name__ == "__main__":
  main(sys.argv[1])
