"""A toy sweep: skipped, failed, killed and interrupted runs."""

import os
import signal
import threading
import time

import pytest

pytest.importorskip("ray", reason="a sweep runs over Ray")
from r2d2_jax.cluster.sweep.command import main
from r2d2_jax.cluster.sweep.jobs import make_jobs
from r2d2_jax.cluster.sweep.run import run_sweep
from r2d2_jax.presets import smoke

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def this_machine_alone(monkeypatch):
  monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.envpool
def test_one_that_fails_does_not_stop_the_others(tmp_path, capsys):
  arguments = [
    "--tasks", "Catch-v0", "recall", "--seeds", "2", "--preset", "smoke",
    "--cpus", "1", "--sweep-dir", str(tmp_path), "--run.total-steps", "1000",
    "--evaluation.num-episodes", "2", "--log.no-tensorboard",
  ]  # fmt: skip
  in_the_way = tmp_path / "recall-seed1"
  in_the_way.write_text("no directory")
  assert main(arguments) == 1
  shown = capsys.readouterr()
  assert "1 failed, 3 done; 4 runs" in shown.out
  assert shown.err.startswith(f"error: {in_the_way}: run.run_dir: cannot write")
  # The scoreboard has the others.
  assert "Raw scores" in shown.out and " Catch-v0 " in shown.out

  in_the_way.unlink()
  assert main(arguments) == 0
  assert "1 done, 3 skipped; 4 runs" in capsys.readouterr().out
  assert (in_the_way / "evaluation.csv").exists()


def test_killed_runs_go_on_and_a_stop_saves_all(tmp_path):
  config = smoke().updated(
    {
      "run.total_steps": 10**7,
      "evaluation.num_episodes": 0,
      "log.period_seconds": 0.2,
      "log.tensorboard": False,
    }
  )
  jobs = make_jobs(config, ["recall"], seeds=2, sweep_dir=tmp_path)
  stop = threading.Event()

  def lives(index):
    path = tmp_path / "logs" / "processes.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    parts = [line.split(",") for line in lines]
    return [int(p[5]) for p in parts if int(p[2]) == index]

  def rows(index):
    path = jobs[index].run_dir / "log.csv"
    return len(path.read_text().splitlines()) if path.exists() else 0

  def until(question):
    deadline = time.monotonic() + 400.0
    while not question() and time.monotonic() < deadline:
      time.sleep(0.1)

  def disturb():
    until(lambda: rows(0) > 3 and rows(1) > 3)
    os.kill(lives(0)[0], signal.SIGKILL)
    until(lambda: len(lives(0)) > 1 and rows(0) < 3)
    until(lambda: rows(0) > 3)
    stop.set()

  thread = threading.Thread(target=disturb)
  thread.start()
  try:
    lines = run_sweep(jobs, sweep_dir=tmp_path, cpus=1, gpus=0, stop=stop)
  finally:
    thread.join()
  assert [line.state for line in lines] == ["saved", "saved"]
  assert [line.deaths for line in lines] == [1, 0]
  assert len(lives(0)) == 2 and len(lives(1)) == 1
  for job, line in zip(jobs, lines, strict=True):
    assert line.steps > 0
    assert any((job.run_dir / "checkpoints").iterdir())

  # Fewer steps than were done: nothing is left of them.
  config = config.updated({"run.total_steps": 10})
  jobs = make_jobs(config, ["recall"], seeds=2, sweep_dir=tmp_path)
  lines = run_sweep(jobs, sweep_dir=tmp_path, cpus=1, gpus=0)
  assert [line.state for line in lines] == ["skipped", "skipped"]
