"""A run that was killed goes on: in lock-step as if nothing had happened."""

import csv
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from r2d2_jax.system.checkpoints import list_checkpoints
from tests.system import killed_run

# What tells of the wall clock cannot be the same twice.
_CLOCK = ("minutes", "per_second", "share_", "bottleneck", "seconds")


def run_and_kill(directory, task, moment, count):
  return subprocess.run(
      [sys.executable, "-m", "tests.system.killed_run", directory / "run",
       directory / "keys", task, moment, str(count)],
      check=False, capture_output=True, text=True,
  )  # fmt: skip


def read_rows(path):
  with path.open(newline="") as f:
    return [
        {k: v for k, v in row.items() if not any(c in k for c in _CLOCK)}
        for row in csv.DictReader(f)
    ]


@pytest.fixture(name="straight", scope="module")
def fixture_straight(tmp_path_factory):
  """Runs that nobody disturbed, by task."""
  runs = {}

  def get(task):
    if task not in runs:
      directory = tmp_path_factory.mktemp("straight")
      runs[task] = directory, killed_run.run(
          directory / "run", directory / "keys", task
      )
    return runs[task]

  return get


@pytest.mark.parametrize(
    "task, moment, count",
    [
        ("recall", "update", 17),
        ("recall", "saving", 3),
        pytest.param("Catch-v0", "update", 17, marks=pytest.mark.envpool),
    ],
)
def test_lockstep_killed_and_resumed_equals_undisturbed(
    task, moment, count, straight, tmp_path
):
  if task != "recall":
    pytest.importorskip("envpool")
  undisturbed, expected = straight(task)
  killed = run_and_kill(tmp_path, task, moment, count)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  # The save at update 14 is whole (or, killed in the third save, cut off).
  (*_, last) = list_checkpoints(tmp_path / "run" / "checkpoints")
  assert last.num_updates == 14
  lines = (tmp_path / "keys").read_text().splitlines()
  (tmp_path / "keys").write_text("".join(f"{x}\n" for x in lines[:14]))

  result = killed_run.run(tmp_path / "run", tmp_path / "keys", task)

  assert int(result.state.num_updates) > 25
  jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
  assert result.steps == expected.steps
  assert (tmp_path / "keys").read_text() == (undisturbed / "keys").read_text()
  for name in ("log.csv", "evaluation.csv"):
    rows = read_rows(tmp_path / "run" / name)
    assert rows == read_rows(undisturbed / "run" / name)
    assert len(rows) > 5
