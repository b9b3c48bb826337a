"""Evaluating from the command line: tiny agents' checkpoints play `recall`."""

import dataclasses
import io
import sys

import jax
import numpy as np
import pytest

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.cli import evaluate as command
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.presets import smoke
from r2d2_jax.system import evaluation
from r2d2_jax.system.evaluation import read_last_evaluation
from r2d2_jax.system.storage.checkpoints import save_checkpoint
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.rundir import (
  best_dir,
  checkpoints_dir,
  write_config,
)


def _config(seed=0):
  config = smoke()
  config = config.updated({"run.seed": seed})
  network = dataclasses.replace(
    config.network, torso_channels=(4,), core_units=4, head_units=4
  )
  return dataclasses.replace(config, network=network)


@pytest.fixture(scope="module", name="state")
def _state():
  config = _config()
  networks = make_networks(RecallWorld(1, seed=0).spec, config=config.network)
  state = init_learner_state(
    jax.random.key(0),
    networks=networks,
    optimizer=make_optimizer(config.agent),
  )
  return jax.device_get(state)


@pytest.fixture(name="make_run")
def _make_run(tmp_path, state):
  """Makes run directories with checkpoints at these updates."""

  def make(name, *updates, best=None, seed=0):
    run_dir = tmp_path / name
    run_dir.mkdir()
    write_config(run_dir, _config(seed))
    places = [(checkpoints_dir(run_dir), u) for u in updates]
    if best is not None:
      places.append((best_dir(run_dir), best))
    for directory, u in places:
      save_checkpoint(
        directory,
        state._replace(num_updates=np.int32(u)),
        {"steps": 10 * u},
        max_to_keep=9,
      )
    return run_dir

  return make


def _main(*arguments):
  return command.main([*map(str, arguments), "--lanes", "2"])


def test_a_run_is_played_written_and_shown(make_run, capsys):
  run = make_run("a", 3, 7)
  assert _main(run, "--episodes", 5, "--epsilon", 0) == 0
  out = capsys.readouterr().out
  assert f"run 1 of 1: {run}\nrecall: update 7, step 70\n" in out
  progress = [line for line in out.splitlines() if line.endswith(" of 5 games")]
  assert progress == [f"{i} of 5 games" for i in range(6)]
  assert "over 5 games" in out
  assert "note: recall: not among the 57 games, raw score only" in out
  last = read_last_evaluation(run)
  assert last.num_updates == 7 and last.returns.shape == (5,)
  # The same games again, appended; then an older checkpoint.
  assert _main(run, "--episodes", 5, "--epsilon", 0) == 0
  np.testing.assert_array_equal(read_last_evaluation(run).returns, last.returns)
  assert _main(run, "--episodes", 2, "--checkpoint", 3) == 0
  log = read_log(run / "evaluation.csv")
  assert log["updates"] == [7.0] * 10 + [3.0] * 2
  assert read_last_evaluation(run).num_updates == 3


def test_in_a_file_progress_is_ten_lines(make_run, capsys):
  assert _main(make_run("a", 1), "--episodes", 30) == 0
  lines = capsys.readouterr().out.splitlines()
  progress = [line for line in lines if line.endswith(" of 30 games")]
  assert progress == [f"{i} of 30 games" for i in range(0, 31, 3)]


def test_the_best_checkpoint(make_run, capsys):
  run = make_run("a", 7, best=4)
  assert _main(run, "--episodes", 1, "--checkpoint", "best") == 0
  assert "update 4, step 40" in capsys.readouterr().out


def test_settings_reach_the_games(make_run, monkeypatch):
  seen = []
  evaluate = evaluation.evaluate

  def spy(params, *, config, **kwargs):
    seen.append(
      (config.evaluation.epsilon, config.evaluation.num_lanes, kwargs["seed"])
    )
    return evaluate(params, config=config, **kwargs)

  monkeypatch.setattr(evaluation, "evaluate", spy)
  _main(make_run("a", 1), "--episodes", 3, "--epsilon", 0.25, "--seed", 5)
  assert seen == [(0.25, 2, 5)]


def test_one_bad_run_costs_the_others_nothing(make_run, capsys):
  good, bad = make_run("good", 1), make_run("bad")
  other = make_run("other", 2, seed=1)
  assert _main(good, bad, other, "--episodes", 2) == 2
  captured = capsys.readouterr()
  assert f"error: {bad}: checkpoint: expected one of none" in captured.err
  assert "error: 1 of 3 runs could not be evaluated" in captured.err
  assert read_last_evaluation(good).num_updates == 1
  assert read_last_evaluation(other).num_updates == 2
  # Shown as two seeds of one task.
  (row,) = [s for s in captured.out.splitlines() if s.startswith(" recall ")]
  assert row.split()[1:4] == ["2", "?", "4"]  # without a log of the frames


def test_interrupted_in_between_keeps_what_is_whole(make_run, monkeypatch):
  first, second = make_run("first", 1), make_run("second", 1)
  evaluate = evaluation.evaluate
  calls = []

  def interrupted(*args, on_progress, **kwargs):
    calls.append(0)

    def progress(finished):
      on_progress(finished)
      if len(calls) == 2 and finished == 3:
        raise KeyboardInterrupt

    return evaluate(*args, on_progress=progress, **kwargs)

  monkeypatch.setattr(evaluation, "evaluate", interrupted)
  assert _main(first, second, "--episodes", 4) == 130
  assert len(read_last_evaluation(first).returns) == 4
  assert read_last_evaluation(second) is None


def test_slips_are_told_before_anything_is_played(make_run, tmp_path, capsys):
  run = make_run("a", 1)
  for arguments, words in (
    ([], "at least one run directory"),
    ([run, tmp_path / "nowhere"], "holds no run"),
    ([run, "--episodes", 0], "--episodes: expected a number between 1 and"),
    (
      [run, "--epsilon", 1.5],
      "--epsilon: expected a number between 0 and 1, got 1.5",
    ),
    ([run, "--seed", -1], "--seed: expected a number between 0 and"),
    ([run, "--checkpoint", "5"], "expected one of latest, 1"),
  ):
    assert _main(*arguments) == 2
    assert words in capsys.readouterr().err
  assert read_last_evaluation(run) is None


def test_scores_of_a_run_that_cannot_be_written_are_announced_and_printed(
  make_run, monkeypatch, capsys
):
  run = make_run("a", 3)

  def read_only(*args, **kwargs):
    raise OSError(30, "Read-only file system")

  monkeypatch.setattr(evaluation.tempfile, "TemporaryFile", read_only)
  monkeypatch.setattr(evaluation.RunLog, "write_all", read_only)
  assert _main(run, "--episodes", 3, "--epsilon", 0) == 2
  captured = capsys.readouterr()
  before, told = captured.err.splitlines()
  assert before == (
    f"warning: {run}/evaluation.csv cannot be written: Read-only file system;"
    " scores are printed only"
  )
  monkeypatch.undo()
  assert _main(run, "--episodes", 3, "--epsilon", 0) == 0
  scores = " ".join(f"{x:.12g}" for x in read_last_evaluation(run).returns)
  assert told.startswith("error: the scores cannot be written")
  assert told.endswith(f"they are: {scores}")


def test_games_are_kept_where_nobody_reads_the_output(make_run, monkeypatch):
  class Pipe(io.StringIO):
    def write(self, text):
      raise BrokenPipeError(32, "Broken pipe")

  run = make_run("a", 3)
  monkeypatch.setattr(sys, "stdout", Pipe())
  assert _main(run, "--episodes", 3) == 0
  assert len(read_last_evaluation(run).returns) == 3


def test_an_environment_that_gives_nan_is_one_message(
  make_run, monkeypatch, capsys
):
  recv = RecallWorld.recv

  def broken(self):
    t = recv(self)
    return t._replace(obs_t=np.full_like(t.obs_t, np.nan))

  monkeypatch.setattr(RecallWorld, "recv", broken)
  assert command.main([str(make_run("run", 3)), "--episodes", "2"]) == 2
  err = capsys.readouterr().err
  assert "error: environment 'recall', lane 0: expected finite numbers" in err
  assert "Traceback" not in err
