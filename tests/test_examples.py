"""The examples run as they stand, each in a process of its own."""

import pathlib
import re
import subprocess
import sys

import pytest

# Seconds of work each: minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output_of(name, *arguments):
  result = subprocess.run(
    [sys.executable, "-m", f"examples.{name}", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=580,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_own_metric():
  found = re.findall(
    r"update (\d+), distance from the target network: (.*)",
    output_of("own_metric"),
  )
  assert [int(update) for update, _ in found] == [5, 10, 15, 20]
  # The target network is copied after the updates 10 and 20: the distance grows
  # from the first row to the second, and begins anew in the third.
  first, second, third, fourth = (float(distance) for _, distance in found)
  assert 0 < first < second and 0 < third < second and third < fourth


def test_minimal():
  found = output_of("minimal", "--steps", "6000")
  mean = float(re.search(r"mean return of the last games: (.*)", found)[1])
  assert 0 <= mean <= 1
  steps = [
    int(x) for x in re.findall(r"^step (\d+): loss", found, re.MULTILINE)
  ]
  assert len(steps) >= 2 and steps == sorted(steps)


def test_huber_loss_is_found_again_by_the_commands(tmp_path):
  run_dir = str(tmp_path / "run")
  found = output_of("huber_loss", "--run-dir", run_dir, "--steps", "3000")
  assert re.search(r"^step \d+: loss 0\.", found, re.MULTILINE)
  assert "evaluation:" in found
  config = (tmp_path / "run" / "config.json").read_text()
  assert '"make_agent": "examples.huber_loss:make_agent"' in config
  result = subprocess.run(
    [sys.executable, "-m", "experiments.evaluate", run_dir, "--episodes", "2"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=580,
  )
  assert result.returncode == 0, result.stderr


def test_own_torso(tmp_path):
  run_dir = str(tmp_path / "run")
  found = output_of("own_torso", "--run-dir", run_dir, "--steps", "3000")
  assert "kernel (7, 32)" in found


def test_play_wins_with_the_trained_agent():
  found = output_of("play", "pretrained/recall", "--games", "50")
  assert found.startswith("sees [")
  mean = float(re.search(r"mean return of 50 games: (.*)", found)[1])
  assert mean >= 0.9  # 0.25 is the most without memory


def test_own_environment(tmp_path):
  run_dir = str(tmp_path / "run")
  found = output_of("own_environment", "--run-dir", run_dir, "--steps", "3000")
  mean = float(re.search(r"evaluation: (.*)", found)[1])
  assert -1 <= mean <= 1
  assert (tmp_path / "run" / "learning_curve.png").exists()
