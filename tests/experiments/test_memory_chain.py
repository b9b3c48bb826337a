"""The study of memory's length: bsuite's protocol and its score."""

import pathlib
import shutil

import numpy as np
import pytest

from experiments import archive, memory_chain
from experiments.studies import results
from experiments.studies.command import Options, run_study
from experiments.studies.study import make_runs
from r2d2_jax.config import ConfigError, validate
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.system.evaluation import Evaluation, write_evaluation
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.storage.rundir import write_config
from tests.help import help_of

_ROOT = pathlib.Path(__file__).parents[2]


def _log(**columns):
  return {name: np.array(values, float) for name, values in columns.items()}


def _runs(**options):
  study = memory_chain.study("small")
  return make_runs(study, out=pathlib.Path("out"), **options)


def test_the_protocol():
  """23 lengths from 1 to 100, 10 000 episodes of length + 1 steps, 3 seeds."""
  runs = _runs(arms=("r2d2",))
  assert len(runs) == 3 * 23
  assert memory_chain.LENGTHS[:10] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
  assert memory_chain.LENGTHS[10:] == (
      12, 14, 17, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100,
  )  # fmt: skip
  steps = {run.task: run.config.run.total_steps for run in runs}
  assert steps["memory-chain-1"] == 20_000
  assert steps["memory-chain-100"] == 1_010_000
  for run in runs:
    # Each lane plays as many whole episodes.
    assert 10_000 % run.config.env.num_envs == 0


def test_every_arm_can_work():
  for run in _runs(seeds=1):
    validate(run.config)


def test_one_agent_for_all_lengths():
  agents = {
    (run.arm, run.config.agent, run.config.network, run.config.replay)
    for run in _runs(seeds=1)
  }
  assert len(agents) == len(memory_chain.ARMS) == 6


def test_an_update_trains_as_many_rows_in_all_arms():
  rows = {
    run.arm: run.config.agent.batch_size * (run.config.agent.trace_length - 1)
    for run in _runs(seeds=1, tasks=("memory-chain-30",))
  }
  for arm, number in rows.items():
    assert number == pytest.approx(rows["r2d2"], rel=0.01), arm


def test_items_hold_the_longest_episode():
  (run,) = _runs(seeds=1, tasks=("memory-chain-100",), arms=("r2d2",))
  assert run.config.agent.trace_length >= 100 + 2  # rows 0 to L + 1
  assert run.config.agent.burn_in == 0


def test_other_tasks_are_refused():
  with pytest.raises(ConfigError, match="expected memory-chain-LENGTH"):
    _runs(tasks=("recall",))


def test_help_is_quick_and_imports_no_jax():
  shown = help_of(memory_chain.__name__, "matplotlib", "numpy")
  assert "--report-only" in shown


def test_regret_counts_what_was_wrong_in_ten_thousand_episodes():
  # 4 000 right and 2 000 wrong, then all right.
  log = _log(
    episodes=[0, 6_000, 10_000, 12_000], return_total=[0, 2_000, 6_000, 8_000]
  )
  assert memory_chain.regret_ratio(log) == pytest.approx(0.4)
  # Between two rows: 8 000 episodes have 4 000, so 12 000 is not needed.
  log = _log(episodes=[8_000, 12_000], return_total=[4_000, 8_000])
  assert memory_chain.regret_ratio(log) == pytest.approx(0.4)


def test_guessing_has_a_regret_of_one():
  log = _log(episodes=[100, 9_000], return_total=[4, 0])
  assert memory_chain.regret_ratio(log) == 1.0
  assert memory_chain.regret_ratio(_log(episodes=[9], return_total=[9])) == 0.0


def test_without_an_episode_there_is_no_regret():
  log = _log(episodes=[0], return_total=[0])
  assert np.isnan(memory_chain.regret_ratio(log))
  log = _log(episodes=[50], return_total=[np.nan])
  assert np.isnan(memory_chain.regret_ratio(log))


def test_the_score_is_the_share_of_lengths_below_the_bar():
  assert memory_chain.bsuite_score({1: 0.1, 2: 0.74, 3: 0.75, 4: 1.0}) == 0.5
  # What is not known is not passed.
  assert memory_chain.bsuite_score({1: float("nan")}) == 0.0


def _write(run, total):
  run.directory.mkdir(parents=True)
  write_config(run.directory, run.config)
  steps = run.config.run.total_steps
  RunLog(run.directory / "log.csv").write(
    {
      "minutes": 1.0,
      "steps": steps,
      "frames": steps,
      "updates": 9,
      "episodes": 10_000,
      "return_total": total,
      **dict.fromkeys(results.LATE_COLUMNS, 0.5),
    }
  )
  games = Evaluation([EpisodeReport(0, 1.0, 10, 10, False)] * 200)
  write_evaluation(run.directory, games, num_updates=9, steps=steps)


def test_the_report_has_the_score_of_each_seed(tmp_path):
  study = memory_chain.study("small")
  runs = make_runs(
    study,
    out=tmp_path,
    seeds=2,
    arms=("r2d2", "feedforward"),
    tasks=("memory-chain-1", "memory-chain-9"),
  )
  for run in runs:
    right = run.arm == "r2d2" or run.task == "memory-chain-1"
    _write(run, 8_000 if right else 200)
  records = results.read_records(runs)
  memory_chain.report(records, tmp_path / "memory_chain.png")
  assert (tmp_path / "score.csv").read_text().splitlines() == [
    "arm,seed,lengths,score,worst_regret_ratio",
    "r2d2,0,2,1,0.2",
    "r2d2,1,2,1,0.2",
    "feedforward,0,2,0.5,0.98",
    "feedforward,1,2,0.5,0.98",
  ]
  assert (tmp_path / "memory_chain.png").read_bytes()[:4] == b"\x89PNG"


def test_the_results_of_the_repository_are_made_of_their_archive(tmp_path):
  known = _ROOT / "docs" / "results" / "studies" / "memory_chain"
  shutil.copy(known / archive.FILE_NAME, tmp_path)
  options = Options(out=tmp_path, report_only=True)
  study = memory_chain.study("small")
  assert run_study(study, options, memory_chain.report) == 0
  for name in ("results.csv", "summary.csv", "minutes.csv", "score.csv"):
    assert (tmp_path / name).read_bytes() == (known / name).read_bytes(), name
  scores = (known / "score.csv").read_text().splitlines()[1:4]
  assert [row.split(",")[:4] for row in scores] == [
    ["r2d2", str(seed), "23", "1"] for seed in range(3)
  ]
