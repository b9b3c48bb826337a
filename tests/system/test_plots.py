"""Plots: what is drawn, and how runs are grouped."""


import numpy as np
import pytest

from experiments import plot as command
from experiments.configs.presets import smoke
from r2d2_jax.system import plots
from r2d2_jax.system.comparison import group_runs
from r2d2_jax.system.rundir import read_config, write_config
from r2d2_jax.system.runlog import RunLog, read_log

# pylint: disable=protected-access


def make_run(path, *, task="recall", seed=0, core="lstm", scale=1.0):
  config = smoke()
  config = config.updated({"env.task": task, "network.core": core, "run.seed": seed})
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


def _group(runs):
  return group_runs({d: read_config(d) for d in runs})


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
  runs = [
      make_run(tmp_path / f"{core}{seed}", seed=seed, core=core)
      for core in ("lstm", "feedforward")
      for seed in (0, 1)
  ]
  assert _group(runs) == {
      "recall": {"core lstm": runs[:2], "core feedforward": runs[2:]}
  }


def test_tasks_are_compared_within_themselves(tmp_path):
  runs = [
      make_run(tmp_path / "a", task="recall"),
      make_run(tmp_path / "b", task="Pong", core="lstm"),
      make_run(tmp_path / "c", task="Pong", core="feedforward"),
  ]
  assert _group(runs) == {
      "recall": {"": runs[:1]},
      "Pong": {"core lstm": runs[1:2], "core feedforward": runs[2:]},
  }


@pytest.fixture(name="drawn")
def _drawn(monkeypatch):
  """The panels of every figure: title -> axes."""
  panels = {}
  legend = plots._legend

  def keep(figure, *args, **kwargs):
    panels.update({axes.get_title(): axes for axes in figure.axes})
    legend(figure, *args, **kwargs)
    panels["legend"] = [t.get_text() for t in figure.legends[0].get_texts()]

  monkeypatch.setattr(plots, "_legend", keep)
  return panels


def test_a_group_is_drawn_as_the_mean_of_its_seeds(tmp_path, drawn):
  runs = [
      make_run(tmp_path / "a", seed=0, scale=1.0),
      make_run(tmp_path / "b", seed=1, scale=3.0),
  ]
  assert not plots.plot_runs(runs, tmp_path / "out.png")
  mean, *circles = drawn["recall"].lines
  np.testing.assert_allclose(
      mean.get_ydata(), 2.0 * mean.get_xdata() / 1000, atol=1e-9
  )
  assert mean.get_xdata()[-1] == 4000
  # Evaluations of each run, on the last row: not averaged, and no line.
  assert [tuple(np.ravel(c.get_data())) for c in circles] == [(4000, 1), (4000, 3)]
  assert all(c.get_linestyle() == "None" for c in circles)
  assert drawn["legend"] == ["2 run(s)", "evaluation"]
  assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_each_task_has_a_panel(tmp_path, drawn):
  runs = [
      make_run(tmp_path / f"{task}{seed}", task=task, seed=seed)
      for task, seeds in (("Pong", 2), ("recall", 1), ("Qbert", 3))
      for seed in range(seeds)
  ]
  plots.plot_runs(runs, tmp_path / "out.png", column="return_mean", x="minutes")
  assert len(drawn["Pong"].lines) == 1 + 2 and len(drawn["Qbert"].lines) == 1 + 3
  assert drawn["legend"] == ["1 to 3 runs", "evaluation"]


def test_other_columns_have_no_evaluations_beside(tmp_path, drawn):
  run = make_run(tmp_path / "a")
  plots.plot_runs([run], tmp_path / "out.png", column="minutes")
  assert len(drawn["recall"].lines) == 1
  assert drawn["legend"] == ["1 run(s)"]


def test_a_run_that_has_nothing_yet_is_left_out(tmp_path, drawn, capsys):
  runs = [make_run(tmp_path / name) for name in ("a", "new", "cut")]
  (runs[1] / "log.csv").unlink()
  # Of a run that is being written: half a row at the end.
  log = (runs[2] / "log.csv").read_text()
  (runs[2] / "log.csv").write_text(log + "2.5,50")
  out = str(tmp_path / "out.png")
  assert command.main([*map(str, runs), "--out", out]) == 0
  assert f"nothing to draw yet: {runs[1]}\n" in capsys.readouterr().err
  assert drawn["legend"] == ["2 run(s)", "evaluation"]
  assert command.main([str(runs[1]), "--out", out]) == 2
  assert "no log has numbers in column 'return_exploit' yet" in (
      capsys.readouterr().err
  )


def test_frames_are_read_at_a_glance():
  texts = [plots._in_thousands(x, 0) for x in (0, 950, 2.5e6, 2e9, -4000)]
  assert texts == ["0", "950", "2.5M", "2G", "-4k"]


def test_the_runs_own_curve(tmp_path):
  run = make_run(tmp_path / "a")
  plots.plot_learning_curve(
      run / "log.csv", run / "learning_curve.png", title="recall"
  )
  assert (run / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"


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


def test_a_log_goes_on_in_its_file(tmp_path):
  path = tmp_path / "log.csv"
  RunLog(path).write({"a": 1, "b": 2.5})
  RunLog(path).write({"a": 2, "b": float("nan")})
  log = read_log(path)
  assert log["a"] == [1.0, 2.0] and log["b"][0] == 2.5
  assert np.isnan(log["b"][1])
