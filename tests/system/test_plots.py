"""Plots: what is drawn, and how runs are grouped."""

import dataclasses

import numpy as np
import pytest

from experiments import plot as command
from experiments.configs.presets import smoke
from r2d2_jax.system import plots
from r2d2_jax.system.rundir import write_config
from r2d2_jax.system.runlog import RunLog, read_log


def make_run(path, *, seed=0, core="lstm", scale=1.0):
  config = smoke()
  config = dataclasses.replace(
      config,
      network=dataclasses.replace(config.network, core=core),
      run=dataclasses.replace(config.run, seed=seed),
  )
  path.mkdir()
  write_config(path, config)
  log = RunLog(path / "log.csv")
  for i in range(5):
    log.write({
        "minutes": 0.5 * i,
        "frames": 1000 * i,
        "return_mean": float("nan") if i == 0 else scale * i,
        "return_exploit": scale * i,
        "eval_return": scale if i == 4 else float("nan"),
    })
  return path


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
  runs = [
      make_run(tmp_path / f"{core}{seed}", seed=seed, core=core)
      for core in ("lstm", "feedforward")
      for seed in (0, 1)
  ]
  groups = plots._group(runs)  # pylint: disable=protected-access
  assert groups == {
      "core lstm": runs[:2],
      "core feedforward": runs[2:],
  }


def test_a_group_is_drawn_as_the_mean_of_its_seeds(tmp_path, monkeypatch):
  runs = [
      make_run(tmp_path / "a", seed=0, scale=1.0),
      make_run(tmp_path / "b", seed=1, scale=3.0),
  ]
  drawn = {}
  finish = plots._finish  # pylint: disable=protected-access

  def keep(figure, axes, *args, **kwargs):
    (line,) = axes.lines
    drawn.update(x=line.get_xdata(), y=line.get_ydata())
    finish(figure, axes, *args, **kwargs)

  monkeypatch.setattr(plots, "_finish", keep)
  plots.plot_runs(runs, tmp_path / "out.png")
  np.testing.assert_allclose(drawn["y"], 2.0 * drawn["x"] / 1000, atol=1e-9)
  assert drawn["x"][-1] == 4000
  assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_command_refuses_what_it_cannot_draw(tmp_path, capsys):
  run = make_run(tmp_path / "run")
  out = ["--out", str(tmp_path / "x.png")]
  assert command.main([*out]) == 2
  assert command.main([str(tmp_path), *out]) == 2
  assert command.main([str(run), "--column", "reward", *out]) == 2
  errors = capsys.readouterr().err.splitlines()
  assert "at least one run directory" in errors[0]
  assert "holds no run" in errors[1]
  assert "expected a column 'reward'" in errors[2]
  assert command.main([str(run), *out]) == 0


def test_a_log_goes_on_in_its_file_and_refuses_other_columns(tmp_path):
  path = tmp_path / "log.csv"
  RunLog(path).write({"a": 1, "b": 2.5})
  RunLog(path).write({"a": 2, "b": float("nan")})
  log = read_log(path)
  assert log["a"] == [1.0, 2.0] and log["b"][0] == 2.5
  assert np.isnan(log["b"][1])
  with pytest.raises(ValueError, match="another version"):
    RunLog(path).write({"a": 1, "c": 2})
