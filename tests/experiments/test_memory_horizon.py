"""The study of reliance on memory: tiny agents play `recall`."""

import csv
import dataclasses
import shutil

import jax
import matplotlib.figure
import numpy as np
import pytest

from experiments import horizon
from experiments import memory_horizon as command
from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.analysis.comparison import group_runs
from r2d2_jax.config import ConfigError
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.family import FAMILY
from r2d2_jax.presets import smoke
from r2d2_jax.system.evaluation import evaluate
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.checkpoints import save_checkpoint
from r2d2_jax.system.storage.rundir import checkpoints_dir, write_config


def _config(*, start_state="stored", seed=0, core="lstm", task="recall"):
  config = smoke()
  return config.updated(
    {
      "env.task": task,
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
      "network.core": core,
      "agent.start_state": start_state,
      "run.seed": seed,
    }
  )


@pytest.fixture(name="make_run")
def _make_run(tmp_path):
  """Makes the directory of an untrained run."""

  def make(name, updates=1, **settings):
    config = _config(**settings)
    networks = make_networks(RecallWorld(1, seed=0).spec, config=config.network)
    state = init_learner_state(
      jax.random.key(config.run.seed),
      networks=networks,
      optimizer=make_optimizer(config.agent),
    )
    state = jax.device_get(state)._replace(num_updates=np.int32(updates))
    run_dir = tmp_path / name
    run_dir.mkdir(exist_ok=True)
    write_config(run_dir, config)
    save_checkpoint(
      checkpoints_dir(run_dir), state, {"steps": 10 * updates}, max_to_keep=9
    )
    return run_dir

  return make


@pytest.fixture(name="played")
def _played(monkeypatch):
  """The horizons that were played, in order."""
  horizons = []
  play = horizon.play_with_horizon

  def spy(*args, **kwargs):
    horizons.append(kwargs["horizon"])
    return play(*args, **kwargs)

  monkeypatch.setattr(horizon, "play_with_horizon", spy)
  return horizons


def _main(*arguments):
  return command.main(
    [*map(str, arguments), "--lanes", "2", "--epsilon", "0.1"]
  )


def _table(out):
  with (out / "horizon.csv").open(newline="") as f:
    return list(csv.DictReader(f))


def test_a_row_for_each_run_and_horizon(make_run, tmp_path, capsys):
  runs = [make_run("a", 7), make_run("b", 5, start_state="zero")]
  out = tmp_path / "new" / "out"
  arguments = ("--episodes", 5, "--out", out)
  assert _main(*runs, *arguments, "--horizons", "0, 20,all,0") == 0
  rows = _table(out)
  assert [(r["run"], r["horizon"], r["updates"]) for r in rows] == [
    (str(run), k, updates)
    for run, updates in zip(runs, ("7", "5"), strict=True)
    for k in ("all", "20", "0")
  ]
  for run, (whole, long, none) in zip(runs, (rows[:3], rows[3:]), strict=True):
    # All of the memory is evaluation's, and so is one beyond the game.
    agent = load_agent(run)
    config = agent.config.updated(
      {"evaluation.num_lanes": 2, "evaluation.epsilon": 0.1}
    )
    expected = evaluate(
      agent.params,
      agent=agent.agent,
      config=config,
      num_episodes=5,
      seed=2_000_003,
    )
    for row in (whole, long):
      assert [float(x) for x in row["returns"].split()] == list(
        expected.returns
      )
      assert float(row["return_mean"]) == expected.returns.mean()
      assert int(row["frames"]) == sum(
        e.episode_frames for e in expected.episodes
      )
      # The two are other programs: on some processors the last bit differs.
      assert float(row["max_q_gap"]) < 1e-7 and row["same_greedy"] == "1"
    gap = {"max_q_gap": long["max_q_gap"]}
    assert whole["max_q_gap"] == "0" and whole | {"horizon": "20"} | gap == long
    assert float(none["max_q_gap"]) > 0
    assert (
      none["task"],
      none["episodes"],
      none["lanes"],
      none["epsilon"],
      none["seed"],
    ) == ("recall", "5", "2", "0.1", "2000003")
  assert (out / "horizon.png").read_bytes()[:4] == b"\x89PNG"
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "6 rows of 5 games each, 0 of them there already"
  assert len(lines) == 8  # in a file one for each row, and the end
  assert lines[1].startswith(f"{runs[0]}, k all: return ")
  assert lines[1].endswith(" min left")
  assert lines[6].startswith(f"{runs[1]}, k 0: return ")
  assert lines[6].endswith(" | 0.0 min left")


def test_interrupted_and_resumed_is_the_same(
  make_run, tmp_path, monkeypatch, capsys
):
  runs = [make_run("a"), make_run("b", seed=1)]
  arguments = (*runs, "--episodes", 4, "--horizons", "all,1,0")
  assert _main(*arguments, "--out", tmp_path / "whole") == 0
  play = horizon.play_with_horizon
  calls = []

  def interrupted(*args, on_progress, **kwargs):
    calls.append(0)

    def progress(finished):
      on_progress(finished)
      if len(calls) == 4 and finished == 2:
        raise KeyboardInterrupt

    return play(*args, on_progress=progress, **kwargs)

  monkeypatch.setattr(horizon, "play_with_horizon", interrupted)
  out = tmp_path / "resumed"
  assert _main(*arguments, "--out", out) == 130
  assert len(_table(out)) == 3 and not (out / "horizon.png").exists()
  # Killed while it wrote: half a row, which looks like a whole one up to a
  # comma.
  row = (tmp_path / "whole/horizon.csv").read_text().splitlines()[4]
  with (out / "horizon.csv").open("a") as f:
    f.write(row[: row.rindex(" ")])
  capsys.readouterr()
  assert _main(*arguments, "--out", out) == 0
  assert "6 rows of 4 games each, 3 of them there already\n" in (
    capsys.readouterr().out
  )
  assert len(calls) == 4 + 3
  for name in ("horizon.csv", "horizon.png"):
    assert (out / name).read_bytes() == (
      tmp_path / "whole" / name
    ).read_bytes(), name
  # Nothing is missing now.
  assert _main(*arguments, "--out", out) == 0
  assert len(calls) == 7


def test_a_study_can_grow(make_run, tmp_path, played):
  first, second = make_run("a"), make_run("b", seed=1)
  arguments = ("--episodes", 2, "--out", tmp_path / "out")
  assert _main(first, *arguments, "--horizons", "all,0") == 0
  assert _main(second, first, *arguments, "--horizons", "all,2,0") == 0
  assert played == [None, 0] + [None, 2, 0] + [2]


def test_feed_forward_is_played_once(make_run, tmp_path, played):
  run = make_run("a", core="feedforward")
  out = tmp_path / "out"
  arguments = ("--episodes", 2, "--out", out)
  assert _main(run, *arguments, "--horizons", "all,3") == 0
  assert _main(run, *arguments, "--horizons", f"3,0,{10**17}") == 0
  assert played == [None]
  whole, *others = _table(out)
  assert [r["horizon"] for r in others] == ["3", str(10**17), "0"]
  assert all(r | {"horizon": "all"} == whole for r in others)
  assert (whole["max_q_gap"], whole["same_greedy"]) == ("0", "1")


def test_a_report_needs_no_checkpoints(make_run, tmp_path, played, capsys):
  runs = [make_run("a"), make_run("b", seed=1)]
  out = tmp_path / "out"
  arguments = ("--episodes", 2, "--horizons", "all,0", "--out", out)
  report = (*arguments, "--report-only")
  assert _main(*runs, *report) == 2
  assert "expected runs whose games with all of" in capsys.readouterr().err
  assert not out.exists()
  assert _main(*runs, *arguments) == 0
  before = {p.name: p.read_bytes() for p in out.iterdir()}
  (out / "horizon.png").unlink()
  for run in runs:
    shutil.rmtree(checkpoints_dir(run))
  other = make_run("c", seed=2)
  del played[:]
  capsys.readouterr()
  assert _main(*runs, other, *report) == 0
  said = capsys.readouterr()
  assert said.out == f"wrote {out / 'horizon.png'}\n"
  assert said.err == f"left out, not all of its games are there: {other}\n"
  assert {p.name: p.read_bytes() for p in out.iterdir()} == before
  assert not played
  # Games with another k are not there.
  assert _main(*runs, *report, "--horizons", "3") == 2


def test_tables_are_not_mixed(make_run, tmp_path, played, capsys):
  run, out = make_run("a", 3), tmp_path / "out"
  arguments = (run, "--out", out, "--horizons", "0")
  assert _main(*arguments, "--episodes", 2) == 0
  before = (out / "horizon.csv").read_bytes()
  assert _main(*arguments, "--episodes", 3) == 2
  assert "holds games with episodes 2, now it is 3; give another --out" in (
    capsys.readouterr().err
  )
  assert _main(*arguments, "--episodes", 2, "--seed", 1) == 2
  assert "games with seed 2000003, now it is 1;" in capsys.readouterr().err
  # The run has gone on.
  make_run("a", 8)
  assert _main(*arguments, "--episodes", 2) == 2
  assert f"games of {run} at update 3, now it is 8;" in capsys.readouterr().err
  assert _main(*arguments, "--episodes", 2, "--checkpoint", 3) == 0
  assert (out / "horizon.csv").read_bytes() == before and played == [0]


def test_another_table_is_left_alone(make_run, tmp_path, capsys):
  run, out = make_run("a"), tmp_path / "out"
  arguments = (run, "--out", out, "--horizons", "0", "--episodes", 1)
  assert _main(*arguments) == 0
  path = out / "horizon.csv"
  header, row = path.read_text().splitlines()
  for text in (
    "a,b\n1,2\n",
    f"{header}\n{row},1\n",
    f"{header}\n{row.rpartition(',')[0]}\n",
    f"{header}\n{row.replace(',0.1,', ',x,')}\n",
    f"{header}\n{row.replace(',0.1,', ',nan,')}\n",
    "\udcff\n",
    "x" * 200_000 + "\n",
  ):
    data = text.encode(errors="surrogateescape")
    path.write_bytes(data)
    assert _main(*arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {path}: no table of this study, or damaged" in error
    assert path.read_bytes() == data


def test_slips_are_told_before_anything_is_played(
  make_run, tmp_path, played, capsys
):
  run, out = make_run("a"), tmp_path / "out"
  (tmp_path / "file").touch()
  policy = make_run("policy")
  write_config(policy, FAMILY["impala-small"]())
  for arguments, words in (
    ([], "at least one run directory, got none"),
    ([run, policy], "values of actions, got agent.algorithm 'impala'"),
    ([run, tmp_path / "nowhere"], "nowhere holds no run"),
    ([run, "--episodes", 0], "--episodes: expected a number between 1 and"),
    ([run, "--lanes", 0], "--lanes: expected a number between 1 and 4096"),
    ([run, "--epsilon", "nan"], "--epsilon: expected a number between 0 and 1"),
    ([run, "--seed=-1"], "--seed: expected a number between 0 and"),
    ([run, "--checkpoint", "5"], "expected one of latest, 1"),
    (
      [run, "--horizons=-1"],
      "whole numbers of rows from 0 on, separated by commas, got '-1'",
    ),
    ([run, "--horizons", ""], "got ''"),
    ([run, "--horizons", "all,,0"], "got ''"),
    ([run, "--horizons", "1.5"], "got '1.5'"),
    ([run, "--horizons", "9" * 5000], f"got '{'9' * 40}'"),
    (
      [run, "--horizons", "999999999"],
      "rows of 2 lanes take 327.8 GiB, expected at most 4",
    ),
    (
      [run, "--out", tmp_path / "file"],
      "--out: expected a directory, got file",
    ),
  ):
    given = [*map(str, arguments)]
    defaults = ["--lanes=2", "--episodes=2", f"--out={out}"]
    given += [
      d
      for d in defaults
      if d.partition("=")[0] not in [g.partition("=")[0] for g in given]
    ]
    assert command.main(given) == 2
    assert words in capsys.readouterr().err, arguments
  assert not played and not out.exists()


def test_sizes():
  small, paper = (
    command.parse_horizons(command.SIZES[name].horizons)
    for name in ("small", "paper")
  )
  assert small == [None, 16, 4, 1, 0]
  assert paper == [None, 64, 32, 16, 8, 4, 2, 1, 0]
  with pytest.raises(ConfigError, match="got 'none'"):
    command.parse_horizons("all,none")


def test_seeds_are_one_curve_named_after_what_differs():
  configs = {
    f"runs/{start}-{seed}": _config(start_state=start, seed=seed)
    for start in ("zero", "stored")
    for seed in (0, 1)
  }
  configs["runs/pong"] = _config(task="Pong")
  assert group_runs(configs) == {
    "recall": {
      "start_state zero": ["runs/zero-0", "runs/zero-1"],
      "start_state stored": ["runs/stored-0", "runs/stored-1"],
    },
    "Pong": {"": ["runs/pong"]},
  }
  # Names that tell the groups of a task apart are taken instead.
  names = {run: run.split("/")[1][:-2] for run in configs}
  assert list(group_runs(configs, names)["recall"]) == ["zero", "stored"]
  names["runs/zero-1"] = "other"
  assert list(group_runs(configs, names)["recall"])[0] == "start_state zero"
  assert (
    "start_state zero"
    in group_runs(configs, dict.fromkeys(configs, "a"))["recall"]
  )
  # Too much to name; the seeds are still together.
  other = _config(core="feedforward", start_state="zero")
  agent = dataclasses.replace(other.agent, n_step=1, discount=0.9)
  other = dataclasses.replace(other, agent=agent)
  configs = {"a/0": _config(), "a/1": _config(seed=1), "b/0": other}
  assert group_runs(configs) == {
    "recall": {"a/0": ["a/0", "a/1"], "b/0": ["b/0"]}
  }


def test_the_plot_shows_the_table(make_run, tmp_path, monkeypatch):
  runs = [make_run("a"), make_run("b", seed=1)]
  runs.append(make_run("c", start_state="zero", seed=2))
  figures = []
  savefig = matplotlib.figure.Figure.savefig

  def keep(figure, *args, **kwargs):
    figures.append(figure)
    savefig(figure, *args, **kwargs)

  monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
  out = tmp_path / "out"
  assert _main(*runs, "--episodes=4", "--horizons=all,3,0", "--out", out) == 0
  value = {(row["run"], row["horizon"]): row for row in _table(out)}
  (figure,) = figures
  assert len(figure.axes) == 3
  for axes, column, factor in zip(
    figure.axes,
    ("return_mean", "max_q_gap", "same_greedy"),
    (1, 1, 100),
    strict=True,
  ):
    a, b, c = (
      [factor * float(value[str(run), k][column]) for k in ("0", "3", "all")]
      for run in runs
    )
    stored, zero = axes.lines
    np.testing.assert_allclose(stored.get_xdata(), [0, 2, 3])
    np.testing.assert_allclose(stored.get_ydata(), np.mean([a, b], axis=0))
    np.testing.assert_allclose(zero.get_ydata(), c)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for x, *ends in zip((0, 2, 3), a, b, strict=True):
      at = corners[corners[:, 0] == x, 1]
      np.testing.assert_allclose([at.min(), at.max()], [min(ends), max(ends)])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "3", "all"]
  texts = [t.get_text() for t in figure.legends[0].get_texts()]
  assert texts == ["start_state stored", "start_state zero"]
