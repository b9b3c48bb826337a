"""Plots: what is drawn, and how runs are grouped."""

import numpy as np
import pytest

from r2d2_jax.analysis import plots
from r2d2_jax.analysis.comparison import find_runs, group_runs
from r2d2_jax.cli import plot as command
from r2d2_jax.presets import smoke
from r2d2_jax.system.metrics import learning_curve
from r2d2_jax.system.storage.csv_log import RunLog, read_log
from r2d2_jax.system.storage.rundir import read_config, write_config


def make_run(
  path,
  *,
  task="recall",
  seed=0,
  core="lstm",
  scale=1.0,
  rows=5,
  skip=4,
  evaluated=True,
  games=True,
  exploit=True,
  settings=None,
):
  config = smoke()
  config = config.updated(
    {
      "env.task": task,
      "network.core": core,
      "run.seed": seed,
      **(settings or {}),
    }
  )
  path.mkdir(parents=True)
  write_config(path, config)
  log = RunLog(path / "log.csv")
  for i in range(rows):
    log.write(
      {
        "minutes": 0.5 * i,
        "steps": 1000 * i // skip,
        "frames": 1000 * i,
        "return_mean": scale * i if i and games else float("nan"),
        "return_exploit": scale * i if games and exploit else float("nan"),
        "eval_return": scale if evaluated and i == rows - 1 else float("nan"),
      }
    )
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


@pytest.mark.parametrize(
  "setting, value",
  [
    ("run.total_steps", 20_000),
    ("run.max_minutes", 5.0),
    ("run.lockstep", True),
    ("run.actor_refresh_steps", 20),
    ("evaluation.epsilon", 0.05),
  ],
)
def test_what_changes_the_training_makes_a_group(tmp_path, setting, value):
  runs = [
    make_run(tmp_path / "a"),
    make_run(tmp_path / "b", seed=1, settings={setting: value}),
  ]
  usual = smoke().setting(setting)
  name = setting.split(".")[1]
  assert _group(runs) == {
    "recall": {f"{name} {usual}": runs[:1], f"{name} {value}": runs[1:]}
  }


def test_what_only_shows_makes_none(tmp_path):
  runs = [
    make_run(tmp_path / "a"),
    make_run(
      tmp_path / "b",
      seed=1,
      settings={
        "run.run_dir": "elsewhere",
        "log.period_seconds": 9.0,
        "log.period_updates": 7,
        "log.tensorboard": False,
        "log.wandb_project": "w",
        "limits.memory_gib": 2.0,
        "checkpoint.period_minutes": 1.0,
        "checkpoint.period_updates": 3,
        "checkpoint.save_replay": False,
        "checkpoint.max_to_keep": 1,
        "evaluation.num_episodes": 3,
        "evaluation.num_lanes": 3,
        "evaluation.period_steps": 500,
        "run.compile_cache_gib": 0.0,
        "run.learner_devices": 1,
        "limits.max_td_error": 9.0,
      },
    ),
  ]
  config = read_config(runs[1])
  config = config.updated({"env.num_threads": 1, "replay.port": 12345})
  write_config(runs[1], config)
  assert _group(runs) == {"recall": {"": runs}}


def test_runs_are_found_below_a_directory(tmp_path):
  runs = [
    make_run(tmp_path / name)
    for name in ("study/recall/zero/seed0", "study/recall/zero/seed1", "b")
  ]
  (runs[0] / "old").mkdir()
  write_config(runs[0] / "old", smoke())  # inside a run: not looked at
  (tmp_path / "link").symlink_to(runs[2])
  (tmp_path / "loop").symlink_to(tmp_path)
  assert find_runs([tmp_path]) == [runs[2], *runs[:2]]
  assert find_runs([runs[1], tmp_path / "study", runs[1] / ".." / "seed1"]) == [
    runs[1],
    runs[0],
  ]
  empty = tmp_path / "empty"
  empty.mkdir()
  assert find_runs([empty, tmp_path / "none"]) == [empty, tmp_path / "none"]


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
  assert plots.plot_runs(runs, tmp_path / "out.png") == ([], [])
  mean, *circles = drawn["recall"].lines
  np.testing.assert_allclose(
    mean.get_ydata(), 2.0 * mean.get_xdata() / 1000, atol=1e-9
  )
  assert mean.get_xdata()[-1] == 4000
  # Evaluations of each run, on the last row: not averaged, and no line.
  assert [tuple(np.ravel(c.get_data())) for c in circles] == [
    (4000, 1),
    (4000, 3),
  ]
  assert all(c.get_linestyle() == "None" for c in circles)
  assert drawn["legend"] == [
    "mean of 2 runs",
    "range of the runs",
    "evaluation",
  ]
  axes = drawn["recall"]
  assert axes.get_ylabel() == "raw return, lanes that explore least"
  assert axes.get_xlabel() == "frames"
  assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_each_task_has_a_panel(tmp_path, drawn):
  runs = [
    make_run(tmp_path / f"{task}{seed}", task=task, seed=seed)
    for task, seeds in (("Pong", 2), ("recall", 1), ("Qbert", 3))
    for seed in range(seeds)
  ]
  plots.plot_runs(runs, tmp_path / "out.png", column="return_mean", x="minutes")
  assert (
    len(drawn["Pong"].lines) == 1 + 2 and len(drawn["Qbert"].lines) == 1 + 3
  )
  assert drawn["legend"] == [
    "mean of 1 to 3 runs",
    "range of the runs",
    "evaluation",
  ]
  assert [drawn[task].get_xlabel() for task in ("Pong", "recall", "Qbert")] == [
    "",
    "minutes of training",
    "minutes of training",
  ]


def test_other_columns_have_no_evaluations_beside(tmp_path, drawn):
  run = make_run(tmp_path / "a")
  plots.plot_runs([run], tmp_path / "out.png", column="minutes")
  assert len(drawn["recall"].lines) == 1
  assert drawn["legend"] == ["1 run"]
  assert drawn["recall"].get_ylabel() == "minutes of training"


def test_frames_are_steps_where_a_task_skips_none(tmp_path, drawn):
  runs = [
    make_run(tmp_path / "a", task="Pong"),
    make_run(tmp_path / "b", task="recall", skip=1),
  ]
  plots.plot_runs(runs, tmp_path / "out.png")
  assert drawn["Pong"].get_xlabel() == "frames"
  assert drawn["recall"].get_xlabel() == "steps"


def test_how_far_a_mean_goes_is_said(tmp_path, drawn, capsys):
  runs = [
    make_run(tmp_path / "a", seed=0),
    make_run(tmp_path / "b", seed=1, rows=3),
    make_run(tmp_path / "c", seed=0, task="Pong"),
  ]
  out = str(tmp_path / "out.png")
  assert command.main([*map(str, runs), "--out", out]) == 0
  assert drawn["recall"].lines[0].get_xdata()[-1] == 2000
  assert capsys.readouterr().err == (
    "note: recall: runs of 2k to 4k frames, their mean is drawn as far as the"
    " shortest goes\n"
  )
  assert drawn["legend"][0] == (
    "mean of 1 to 2 runs, as far as the shortest goes"
  )


def test_a_copy_is_no_second_seed(tmp_path, drawn):
  runs = [
    make_run(tmp_path / "a", rows=4),
    make_run(tmp_path / "copy", settings={"log.period_seconds": 3.0}),
    make_run(tmp_path / "b", seed=1),
  ]
  _, notes = plots.plot_runs(runs, tmp_path / "out.png")
  assert notes == [
    f"{runs[0]}, {runs[1]}: same seed and settings, one run of them is drawn,"
    f" {runs[1]}"
  ]
  assert drawn["legend"][0] == "mean of 2 runs"


def test_a_short_run_is_drawn_by_what_it_has(tmp_path, drawn, capsys):
  runs = [make_run(tmp_path / "a", games=False, rows=1)]
  out = ["--out", str(tmp_path / "out.png")]
  assert command.main([str(tmp_path), *out]) == 0
  assert capsys.readouterr().err == (
    "note: no run has numbers in return_exploit yet: eval_return is drawn"
    " instead\n"
  )
  assert drawn["recall"].get_ylabel() == "raw return, evaluations"
  (point, _) = drawn["recall"].lines
  # A line of one point would not be seen.
  assert point.get_marker() == "." and point.get_xdata().tolist() == [0.0]
  # What was asked for is not replaced.
  arguments = [str(runs[0]), "--column", "return_exploit", *out]
  assert command.main(arguments) == 2
  assert capsys.readouterr().err == (
    "error: no log has numbers in column 'return_exploit' yet; these have some:"
    " minutes, steps, eval_return\n"
  )
  # Lanes that explore have ended games, the others none yet.
  other = make_run(tmp_path / "b", exploit=False)
  assert command.main([str(other), *out]) == 0
  assert "return_exploit yet: return_mean is drawn" in capsys.readouterr().err


def test_yardsticks_are_labelled_lines(tmp_path, drawn):
  runs = [make_run(tmp_path / "a", task="Pong-v5")]
  plots.plot_runs(runs, tmp_path / "out.png", yardsticks=True)
  axes = drawn["Pong-v5"]
  heights = [line.get_ydata()[0] for line in axes.lines[-4:]]
  assert heights == [20.0, 4.7, 14.6, -20.7]
  labels = [text.get_text() for text in axes.texts]
  assert labels[::2] == [
    "DI-engine's R2D2 after 4M steps: 20",
    "a human: 14.6",
  ]
  # They are returns, and no line of another column's plot.
  plots.plot_runs(runs, tmp_path / "out.png", yardsticks=True, column="minutes")
  assert not drawn["Pong-v5"].texts


def test_a_run_that_has_nothing_yet_is_left_out(tmp_path, drawn, capsys):
  runs = [
    make_run(tmp_path / name, seed=seed)
    for seed, name in enumerate(("a", "new", "cut"))
  ]
  (runs[1] / "log.csv").unlink()
  # Of a run that is being written: half a row at the end.
  log = (runs[2] / "log.csv").read_text()
  (runs[2] / "log.csv").write_text(log + "2.5,50")
  out = str(tmp_path / "out.png")
  assert command.main([*map(str, runs), "--out", out]) == 0
  assert f"nothing to draw yet: {runs[1]}\n" in capsys.readouterr().err
  assert drawn["legend"][0] == "mean of 2 runs"
  assert command.main([str(runs[1]), "--out", out]) == 2
  assert "no log has numbers in column 'return_exploit' yet" in (
    capsys.readouterr().err
  )


def test_frames_are_read_at_a_glance():
  texts = [learning_curve.in_thousands(x) for x in (0, 950, 2.5e6, 2e9, -4000)]
  assert texts == ["0", "950", "2.5M", "2G", "-4k"]
  assert learning_curve.rounded(9_657_321) == "9.66M"


@pytest.mark.parametrize(
  "shape, title, unit",
  [
    ({}, "recall: 4k frames in 2.0 min", "frames"),
    ({"rows": 41, "skip": 1}, "recall: 40k steps in 20 min", "steps"),
  ],
)
def test_the_runs_own_curve(tmp_path, own_curve, shape, title, unit):
  axes = own_curve(make_run(tmp_path / "a", **shape))
  assert axes.get_title() == title and axes.get_xlabel() == unit
  assert axes.get_ylabel() == "raw return" and not axes.texts
  assert len(axes.lines) == 3


def test_a_run_whose_lanes_finish_no_game_says_so(tmp_path, own_curve):
  axes = own_curve(make_run(tmp_path / "a", games=False))
  assert [t.get_text() for t in axes.texts] == ["no game ended in training"]
  assert len(axes.lines) == 1


@pytest.fixture(name="own_curve")
def _own_curve(monkeypatch):
  """Draws a run's own curve; returns the axes."""
  figures = []
  figure = learning_curve.new_figure
  monkeypatch.setattr(
    learning_curve,
    "new_figure",
    lambda *x: figures.append(figure(*x)) or figures[-1],
  )

  def draw(run):
    png = run / "learning_curve.png"
    learning_curve.plot_learning_curve(run / "log.csv", png, title="recall")
    assert png.read_bytes()[:4] == b"\x89PNG"
    return figures[-1].axes[0]

  return draw


def test_command_refuses_what_it_cannot_draw(tmp_path, capsys):
  run = make_run(tmp_path / "run")
  out = ["--out", str(tmp_path / "x.png")]
  assert command.main([*out]) == 2
  (tmp_path / "empty").mkdir()
  assert command.main([str(tmp_path / "empty"), *out]) == 2
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
