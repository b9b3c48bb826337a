"""A run that was killed goes on: in lock-step as if nothing had happened."""

import threading

import pytest
from rich.console import Console

from experiments.drills import kills
from experiments.drills.drill import small_run
from r2d2_jax.system.loops.learner import LearnerLoop
from r2d2_jax.system.run import lockstep
from r2d2_jax.system.run import state as module
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
)
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.train import RunError, train


@pytest.fixture(name="directory", scope="module")
def fixture_directory(tmp_path_factory):
  # Shared: the undisturbed run of a task is done once.
  return tmp_path_factory.mktemp("kills")


def test_lockstep_killed_and_resumed_equals_undisturbed(directory):
  kills.kill_in_lockstep(directory)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(directory):
  kills.kill_in_lockstep(directory, sabotage="kill-save", at=3)


@pytest.mark.envpool
@pytest.mark.slow
def test_the_games_of_envpool_are_brought_back(directory):
  pytest.importorskip("envpool")
  kills.kill_in_lockstep(directory, task="Catch-v0")


def test_everything_goes_on_while_a_save_is_written(tmp_path, monkeypatch):
  """The disk may be slow: updates and rows of the log come in the middle."""
  step, save = LearnerLoop.step, module.save_checkpoint
  write = RunLog.write
  updates, rows = threading.Semaphore(0), threading.Semaphore(0)
  seen = []

  def counted_write(log, row):
    write(log, row)
    rows.release()

  def counted(loop, batch):
    step(loop, batch)
    updates.release()

  def slow(directory, state, record, **kwargs):
    if not seen:
      for counter in (updates, rows):
        while counter.acquire(blocking=False):
          pass
        seen.append(all(counter.acquire(timeout=20) for _ in range(3)))
    return save(directory, state, record, **kwargs)

  monkeypatch.setattr(LearnerLoop, "step", counted)
  monkeypatch.setattr(module, "save_checkpoint", slow)
  monkeypatch.setattr(RunLog, "write", counted_write)
  config = small_run(
    tmp_path / "run",
    {
      "run.total_steps": 25_000,
      "checkpoint.period_updates": 5,
      "evaluation.num_episodes": 0,
      "log.period_seconds": 0.2,
    },
  )
  train(config, run_dir=tmp_path / "run")
  assert seen == [True, True]


def test_a_save_that_fails_is_a_warning_and_the_next_one_succeeds(
  tmp_path, monkeypatch
):
  save, failed = module.save_checkpoint, []

  def fail_once(*args, **kwargs):
    if not failed:
      failed.append(1)
      raise CheckpointError("cannot save: no space left")
    return save(*args, **kwargs)

  monkeypatch.setattr(module, "save_checkpoint", fail_once)
  console = Console(record=True, width=200)
  config = small_run(
    tmp_path / "run",
    {
      "run.lockstep": True,
      "run.total_steps": 2_500,
      "checkpoint.period_updates": 3,
      "evaluation.num_episodes": 0,
    },
  )
  result = train(config, run_dir=tmp_path / "run", console=console)
  assert "warning: cannot save: no space left" in console.export_text()
  saved = list_checkpoints(tmp_path / "run" / "checkpoints")
  assert [c.num_updates for c in saved][-1] == int(result.state.num_updates)
  assert len(saved) == 2

  # At the end of a run, though, it is an error.
  monkeypatch.setattr(
    module, "save_checkpoint", lambda *a, **k: fail_once(failed.clear())
  )
  longer = config.updated({"run.total_steps": 2_600})
  with pytest.raises(RunError, match="no space left"):
    train(longer, run_dir=tmp_path / "run")
  assert list_checkpoints(tmp_path / "run" / "checkpoints") == saved


def test_a_run_stopped_before_its_first_step_can_be_saved(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(lockstep, "is_over", lambda parts: True)
  config = small_run(
    tmp_path / "run", {"run.lockstep": True, "evaluation.num_episodes": 0}
  )
  result = train(config, run_dir=tmp_path / "run")
  assert result.steps == 0
  monkeypatch.undo()
  config = config.updated({"run.total_steps": 1_500})
  assert train(config, run_dir=tmp_path / "run").steps >= 1_500
