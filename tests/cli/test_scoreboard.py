"""Tables and plots of evaluated runs, from hand-written evaluations."""

import csv
import io

import numpy as np
import pytest
from rich.console import Console

from r2d2_jax.analysis import aggregates
from r2d2_jax.analysis.score_plots import plot_profile
from r2d2_jax.analysis.score_tables import show, write_csv
from r2d2_jax.analysis.scores import published_scores
from r2d2_jax.analysis.standings import read_standings
from r2d2_jax.cli import scoreboard as command
from r2d2_jax.config import Config, ConfigError, EnvConfig
from r2d2_jax.system.storage.rundir import write_config

pytest.importorskip("rliable")


FRAMES_NOTE = (
  "frames: trained on before the evaluation; the published R2D2 has about 10"
  " billion for each game"
)


def make_run(
  path,
  returns,
  *,
  updates=100,
  core="lstm",
  seed=0,
  frames=80_000,
  settings=None,
  **env,
):
  """A run directory with a log, and an evaluation of these returns."""
  path.mkdir(parents=True)
  config = Config(env=EnvConfig(**env))
  config = config.updated(
    {"network.core": core, "run.seed": seed, **(settings or {})}
  )
  write_config(path, config)
  if frames:
    # The evaluation's moment, and what was trained after it.
    (path / "log.csv").write_text(
      "frames,updates\n"
      + "".join(
        f"{x},{y}\n"
        for x, y in ((0, 0), (frames, updates), (2 * frames, 2 * updates))
      )
    )
  rows = [f"{updates},{i},{r},10,0\n" for i, r in enumerate(returns)]
  (path / "evaluation.csv").write_text(
    "updates,game,return,frames,truncated\n" + "".join(rows)
  )
  return path


def shown(standings):
  text = io.StringIO()
  show(standings, Console(file=text))
  return text.getvalue()


@pytest.fixture(name="no_intervals")
def _no_intervals(monkeypatch):
  """As where rliable's library cannot be imported."""

  def broken(*args, **kwargs):
    raise ImportError("pandas is too new")

  monkeypatch.setattr(aggregates, "bootstrap_interval", broken)


def test_the_human_gets_100_and_random_play_0(tmp_path):
  runs = [
    make_run(tmp_path / "a", [14.6, 14.6], task="Pong"),
    make_run(tmp_path / "b", [227.8], task="alien"),
  ]
  standings = read_standings(runs)
  alien, pong = standings.games
  assert (alien.name, pong.name) == ("alien", "pong")
  np.testing.assert_array_equal(pong.human_normalised, [100.0])
  np.testing.assert_array_equal(alien.human_normalised, [0.0])
  own, impala, apex, r2d2 = standings.aggregates
  # Fractions 0 and 1: mean, median and IQM are a half, and half is missing.
  np.testing.assert_allclose(own.values, [50, 50, 50, 50])
  assert own.interval is None and own.above_human == 0
  # Alien: 100 (40804.9 - 227.8) / 6900 = 588.07; Pong: 100 (20.9 + 20.7) / 35.3
  # = 117.85.
  assert apex.agent == "Ape-X" and impala.agent == "IMPALA"
  np.testing.assert_allclose(
    apex.values[0], (588.0739 + 117.8470) / 2, rtol=1e-6
  )
  assert r2d2.above_human == 2 and r2d2.values[3] == 0.0
  assert standings.notes == [
    FRAMES_NOTE,
    "no intervals: they need two seeds or more of a game",
  ]


def test_all_57_give_the_papers_numbers_beside(tmp_path):
  runs = [
    make_run(tmp_path / game, [scores["r2d2"]], task=game)
    for game, scores in published_scores().items()
  ]
  own, _, apex, r2d2 = read_standings(runs).aggregates
  np.testing.assert_allclose(own.values, r2d2.values)
  assert own.values[0] == pytest.approx(1920.6, rel=0.002)
  assert apex.values[0] == pytest.approx(434.1, rel=0.002)
  assert own.above_human == r2d2.above_human == 52
  text = shown(read_standings(runs))
  assert "over 57 of 57 games, 1 seed each" in text
  assert "52 of 57" in text


def test_runs_of_a_game_are_its_seeds(tmp_path, no_intervals):
  del no_intervals
  runs = [
    make_run(tmp_path / "0", [0.0, 2.0], task="Pong"),
    make_run(tmp_path / "1", [5.0], task="pong-v5", seed=1),
    make_run(tmp_path / "2", [100.0], task="Breakout"),
  ]
  # The same directory twice, in two spellings, is one run.
  again = [*runs, tmp_path / "0" / ".." / "0"]
  standings = read_standings(again)
  breakout, pong = standings.games
  assert [len(g.run_returns) for g in (breakout, pong)] == [1, 2]
  # The mean of the runs' means 1 and 5; the median of 0, 2, 5.
  assert (pong.score, pong.median, pong.num_games) == (3.0, 2.0, 3)
  assert standings.notes == [
    FRAMES_NOTE,
    "no intervals, rliable cannot be imported: pandas is too new",
  ]
  text = shown(standings)
  assert "over 2 of 57 games, 1 to 2 seeds each" in text
  assert "note: no intervals" in text


def test_a_copy_counts_once(tmp_path):
  runs = [
    make_run(tmp_path / "a", [0.0], task="Pong", frames=50_000),
    # Another spelling, another log, trained and evaluated further.
    make_run(
      tmp_path / "b",
      [4.0],
      task="pong-v5",
      updates=200,
      settings={"log.period_seconds": 3.0},
    ),
    make_run(tmp_path / "c", [6.0], task="Pong", seed=1),
    make_run(
      tmp_path / "d", [8.0], task="Pong", settings={"run.total_steps": 7}
    ),
  ]
  standings = read_standings(runs[:3])
  (pong,) = standings.games
  assert pong.run_means.tolist() == [4.0, 6.0]
  assert standings.notes == [
    f"{runs[0]}, {runs[1]}: same seed and settings, counted once, as {runs[1]}",
    FRAMES_NOTE,
  ]
  # Other lengths are no copies, but no seeds of one agent either.
  assert read_standings(runs[2:]).notes == [
    "pong: runs are counted as seeds of one agent, but differ in"
    " run.total_steps",
    FRAMES_NOTE,
  ]


def test_frames_are_shown_beside_the_scores(tmp_path):
  for seed, frames in enumerate((80_000, 1_234_567)):
    make_run(
      tmp_path / f"runs/pong/{seed}",
      [1.0],
      task="Pong",
      seed=seed,
      frames=frames,
    )
  make_run(tmp_path / "runs/boxing", [1.0], task="boxing", frames=0)
  standings = read_standings([tmp_path / "runs"])
  head, _, boxing, pong = shown(standings).splitlines()[2:6]
  assert head.split()[:4] == ["game", "seeds", "frames", "games"]
  assert boxing.split()[:4] == ["boxing", "1", "?", "1"]
  assert pong.split()[:6] == ["pong", "2", "80k", "to", "1.23M", "2"]
  assert f"note: {FRAMES_NOTE}" in shown(standings)
  path, _ = write_csv(standings, tmp_path / "scores.csv")
  with path.open(newline="") as f:
    boxing, pong = csv.DictReader(f)
  assert (float(pong["frames_min"]), float(pong["frames_max"])) == (
    80_000,
    1_234_567,
  )
  assert boxing["frames_min"] == boxing["frames_max"] == ""


def test_intervals_are_shown_and_written(tmp_path):
  pytest.importorskip("rliable.library", exc_type=ImportError)
  runs = [
    make_run(tmp_path / f"{game}{seed}", [score + seed], task=game, seed=seed)
    for game, score in (("pong", 0.0), ("breakout", 20.0))
    for seed in range(3)
  ]
  runs.append(make_run(tmp_path / "x", [5.0], task="boxing"))
  standings = read_standings(runs)
  own, *published = standings.aggregates
  low, high = own.interval
  assert (low <= own.values).all() and (own.values <= high).all()
  assert all(row.interval is None for row in published)
  assert standings.notes == [
    FRAMES_NOTE,
    "1 of 3 games have one seed and add nothing to the intervals, which are"
    " too narrow",
  ]
  assert f"{own.values[0]:.1f} ({low[0]:.1f} to {high[0]:.1f})" in shown(
    standings
  )
  _, beside = write_csv(standings, tmp_path / "scores.csv")
  with beside.open(newline="") as f:
    rows = list(csv.DictReader(f))
  assert [r["agent"] for r in rows] == ["these runs", "IMPALA", "Ape-X", "R2D2"]
  assert float(rows[0]["iqm_low_percent"]) == low[2]
  assert rows[1]["iqm_low_percent"] == ""
  png = tmp_path / "profile.png"
  plot_profile(standings.published, png, with_interval=True)
  assert png.read_bytes()[:4] == b"\x89PNG"


def test_other_tasks_have_raw_scores_only(tmp_path):
  runs = [
    make_run(tmp_path / "a", [1.0, 0.25], task="recall"),
    make_run(tmp_path / "b", [0.0], task="recall", core="feedforward"),
    make_run(tmp_path / "c", [21.0], task="Pong"),
  ]
  standings = read_standings(runs)
  assert [g.name for g in standings.games] == ["pong", "recall"]
  assert not standings.aggregates  # over one game they would say nothing
  assert standings.notes == [
    "recall: not among the 57 games, raw score only",
    "recall: runs are counted as seeds of one agent, but differ in"
    " network.core",
    FRAMES_NOTE,
  ]
  row = next(s for s in shown(standings).splitlines() if "recall " in s).split()
  assert row == ["recall", "2", "80k", "3", "0.3125", "0.25", *"------"]
  (path,) = write_csv(standings, tmp_path / "scores.csv")
  with path.open(newline="") as f:
    pong, recall = csv.DictReader(f)
  assert float(pong["human_normalised_percent"]) == pytest.approx(118.130, 1e-4)
  assert (pong["r2d2"], pong["human"]) == ("21.0", "14.6")
  assert recall["human_normalised_percent"] == recall["r2d2"] == ""


def test_other_rules_than_the_published_are_said(tmp_path):
  run = make_run(
    tmp_path / "a", [1.0], task="Pong", sticky_action_probability=0.25
  )
  assert read_standings([run]).notes == [
    "pong: played with sticky_action_probability 0.25, the published scores"
    " with 0.0",
    FRAMES_NOTE,
  ]


def test_a_run_without_evaluation_is_named(tmp_path):
  done = make_run(tmp_path / "done", [1.0], task="Pong")
  new = make_run(tmp_path / "new", [], task="Pong")
  assert read_standings([done, new]).notes == [
    f"not evaluated, left out: {new}",
    FRAMES_NOTE,
  ]
  with pytest.raises(ConfigError, match=f"experiments.evaluate {new}"):
    read_standings([new])


def test_numbers_are_never_cut_on_a_narrow_terminal(tmp_path):
  run = make_run(tmp_path / "a", [123456.75], task="video_pinball")
  text = io.StringIO()
  show(read_standings([run]), Console(file=text, width=40))
  assert "123456.8" in text.getvalue() and "999383.2" in text.getvalue()


def test_the_command_writes_table_and_plots(tmp_path, capsys, no_intervals):
  del no_intervals
  # Above, between and below: a score that no human and no agent has.
  runs = [
    str(make_run(tmp_path / str(i), [score], task=task, seed=i))
    for i, (task, score) in enumerate(
      [("pong", 1e6), ("pong", 0.0), ("boxing", 5.0), ("skiing", -30000.0)]
    )
  ]
  code = command.main(
    [*runs, "--csv", str(tmp_path / "s.csv"), "--plots", str(tmp_path / "p")]
  )
  assert code == 0
  out = capsys.readouterr().out
  for name in (
    "s.csv",
    "s-aggregates.csv",
    "p/performance_profile.png",
    "p/games.png",
  ):
    assert f"wrote {tmp_path / name}" in out
    assert (tmp_path / name).stat().st_size
  assert (tmp_path / "p/games.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_refuses(tmp_path, capsys):
  assert command.main([]) == 2
  assert command.main([str(tmp_path / "none")]) == 2
  run = make_run(tmp_path / "a", [1.0], task="recall")
  assert command.main([str(run), "--plots", str(tmp_path)]) == 2
  (run / "evaluation.csv").write_text("updates,game,return\n1,0,1.5\n1,1,\n")
  assert command.main([str(run)]) == 2
  errors = capsys.readouterr().err.splitlines()
  assert "expected evaluated runs, got none" in errors[0]
  assert "holds no run" in errors[1]
  assert "--plots: expected runs of the 57 games" in errors[2]
  assert "damaged" in errors[3]
