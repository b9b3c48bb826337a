"""The league table: from archives alone, with intervals and commits."""

import json
import pathlib

import numpy as np
import pytest

from experiments import archive, league, memory_chain
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.presets import smoke
from r2d2_jax.system.evaluation import Evaluation, write_evaluation
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.storage.rundir import write_config


def _run(
  directory,
  *,
  returns,
  steps=1000,
  seed=0,
  starts=(),
  goes_on=False,
  **settings,
):
  directory.mkdir(parents=True)
  config = smoke().updated({"run.seed": seed, **settings})
  write_config(directory, config)
  log = RunLog(directory / "log.csv")
  # It was evaluated after 5 updates, and went on.
  for updates in (3, 5, 6) if goes_on else (5,):
    log.write(
      {
        "steps": steps + updates - 5,
        "updates": updates,
        "episodes": 10_000,
        "return_total": 8_000.0,
      }
    )
  games = [EpisodeReport(0, float(r), 10, 10, False) for r in returns]
  write_evaluation(directory, Evaluation(games), num_updates=5, steps=steps)
  (directory / "starts.jsonl").write_text(
    "".join(json.dumps(start) + "\n" for start in starts)
  )


def _rows(text):
  return [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in text.splitlines()
  ]


def _table(capsys, *arguments):
  assert league.main([*map(str, arguments)]) == 0
  return _rows(capsys.readouterr().out.partition("\n\n")[0])


def _packed(tmp_path, name="results"):
  archive.pack(tmp_path / "runs", tmp_path / name / archive.FILE_NAME)
  return tmp_path / name


def test_seeds_are_one_entry_with_steps_score_and_commit(tmp_path, capsys):
  commit = "0123456789abcdef"
  for seed, returns in enumerate(([1.0, 1.0], [0.0, 0.0])):
    _run(
      tmp_path / "runs" / f"a{seed}",
      returns=returns,
      seed=seed,
      steps=100_000,
      goes_on=True,
      starts=[
        {"commit": commit, "modified": False},
        {"commit": commit, "modified": seed == 1},
      ],
    )
  out = tmp_path / "league.md"
  head, line, row = _table(capsys, _packed(tmp_path), "--out", out)
  assert head[:4] == ["task", "agent", "seeds", "steps"]
  assert set(line) == {"---"}
  assert row == [
    "recall",
    "R2D2",
    "2",
    "100k",
    "0.5 [0, 1]",
    "0.25, no memory",
    "0123456, 0123456+",
  ]
  made, _, sources = out.read_text().partition("\n\n")
  assert _rows(made) == [head, line, row]
  assert sources == (
    "- recall: no memory: 0.25 (at most; proved by enumeration in the tests of"
    " r2d2_jax/envs/recall.py).\n"
  )


def test_the_best_agent_comes_first_and_is_named_by_what_differs(
  tmp_path, capsys
):
  for core, score in (("feedforward", 0.25), ("lstm", 1.0)):
    _run(tmp_path / "runs" / core, returns=[score], **{"network.core": core})
  rows = _table(capsys, _packed(tmp_path))[2:]
  assert [row[1] for row in rows] == [
    "R2D2, lstm",
    "R2D2, feedforward",
  ]
  assert [row[-1] for row in rows] == ["-"] * 2


def test_lengths_of_memory_chain_are_one_task(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(memory_chain, "LENGTHS", (1, 20))
  for length, arms in ((1, ("r2d2", "zero", "stored")), (20, ("r2d2", "zero"))):
    for arm in arms:
      _run(
        tmp_path / "runs" / f"memory-chain-{length}" / arm / "seed0",
        returns=[-1.0],
        **{
          "env.task": f"memory-chain-{length}",
          "agent.start_state": "zero" if arm == "zero" else "stored",
        },
      )
  rows = _table(capsys, _packed(tmp_path))[2:]
  # Of 10 000 episodes 1 000 were wrong: a regret of 0.2.
  assert [row[:5] for row in rows] == [
    ["memory-chain", agent, "1", "2k", "1 [1, 1]"]
    for agent in ("R2D2", "R2D2, zero")
  ]
  assert rows[0][5] == "1, bsuite's best"


def test_the_interval_is_that_of_seeds_and_games():
  # Of one seed, that of the mean of its games: 1.96 sqrt(p (1 - p) / n).
  games = np.repeat([0.0, 1.0], 200)
  low, high = league.bootstrap_interval([games])
  assert low == pytest.approx(0.5 - 0.049, abs=0.006)
  assert high == pytest.approx(0.5 + 0.049, abs=0.006)
  # Seeds that disagree count more than their many games.
  low, high = league.bootstrap_interval([np.zeros(400), np.ones(400)])
  assert (low, high) == (0.0, 1.0)


def test_no_archive_is_one_sentence(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert league.main([]) == 2
  told = capsys.readouterr().err
  assert told.startswith("error: expected archives of runs in docs/results/*")
  assert league.main([str(tmp_path)]) == 2
  assert "expected an archive of runs at" in capsys.readouterr().err


def test_the_repositorys_table_is_made_of_its_archives(capsys, monkeypatch):
  root = pathlib.Path(__file__).parents[2]
  monkeypatch.chdir(root)
  assert league.main([]) == 0
  text = capsys.readouterr().out
  assert (root / "docs" / "results" / "league.md").read_text() == text
  assert text.partition("\n\n")[0] in (root / "README.md").read_text()
