"""The row of numbers that a run says of itself."""

import json

import numpy as np
import pytest

from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.presets import smoke
from r2d2_jax.system.metrics import report as report_module
from r2d2_jax.system.metrics.display import progress_line
from r2d2_jax.system.metrics.report import RunReport


@pytest.fixture(name="clock")
def fixture_clock(monkeypatch):
  class Clock:
    now = 100.0

  monkeypatch.setattr(report_module.time, "monotonic", lambda: Clock.now)
  return Clock


def make_report(clock):
  del clock  # must be in place before the report starts its own
  config = smoke()
  config = config.updated({"run.total_steps": 1_000})
  epsilon = np.array([0.4, 0.01], np.float32)
  return config, RunReport(config, frame_skip=4, epsilon=epsilon)


def row(report, *, steps, updates, **legs):
  return report.row(
    steps=steps,
    updates=updates,
    replay_size=50,
    replay_ratio=1.0,
    metrics={"loss": 0.5},
    leg_seconds=legs,
  )


def test_rates_and_shares_are_those_since_the_last_row(clock):
  _, report = make_report(clock)
  clock.now += 10
  first = row(report, steps=200, updates=20, step=4.0)
  assert first["frames_per_second"] == 80.0  # 200 steps x 4 frames in 10 s
  assert first["updates_per_second"] == 2.0
  assert first["share_step"] == pytest.approx(0.4)
  clock.now += 10
  second = row(report, steps=300, updates=25, step=9.0)
  assert second["frames_per_second"] == 40.0
  assert second["updates_per_second"] == 0.5
  assert second["share_step"] == pytest.approx(0.5)
  assert second["minutes"] == pytest.approx(1 / 3)
  # 700 steps are left, at 10 a second.
  assert second["minutes_left"] == pytest.approx(70 / 60)
  assert second["loss"] == 0.5 and np.isnan(second["grad_norm"])


def test_a_resumed_run_counts_on(clock):
  _, before = make_report(clock)
  clock.now += 7 * 60
  before.count_episode(EpisodeReport(1, 3.0, 40, 10, False))
  before.add_evaluation(5.0)
  saved = json.loads(json.dumps(before.state_dict()))
  clock.now += 1000  # stopped, or lost
  _, report = make_report(clock)
  report.load_state_dict(saved, steps=500, updates=30)
  clock.now += 10
  now = row(report, steps=600, updates=40)
  assert now["minutes"] == pytest.approx(7 + 1 / 6)
  assert now["frames"] == 2400
  assert now["frames_per_second"] == 40.0 and now["updates_per_second"] == 1.0


def test_a_row_that_follows_at_once_is_measured_from_an_earlier_one(clock):
  _, report = make_report(clock)
  clock.now += 10
  row(report, steps=200, updates=20, step=4.0)
  clock.now += 1e-5
  at_once = row(report, steps=216, updates=20, step=4.0)
  assert at_once["frames_per_second"] == pytest.approx(4 * 216 / 10, rel=1e-5)
  assert at_once["updates_per_second"] == pytest.approx(2.0, rel=1e-5)
  assert at_once["share_step"] == pytest.approx(0.4, rel=1e-5)
  assert at_once["minutes_left"] == pytest.approx(784 / 21.6 / 60, rel=1e-5)
  # The next one is measured from the last row again.
  clock.now += 2
  later = row(report, steps=300, updates=25, step=4.5)
  assert later["frames_per_second"] == pytest.approx(4 * 84 / 2)
  assert later["updates_per_second"] == pytest.approx(2.5)


def test_a_resumed_runs_last_row_counts_nothing_of_its_earlier_life(clock):
  _, before = make_report(clock)
  _, report = make_report(clock)
  clock.now += 30  # what was restored meanwhile is not training
  report.load_state_dict(before.state_dict(), steps=50_000, updates=3_000)
  clock.now += 0.5
  first = row(report, steps=50_016, updates=3_001)
  assert first["frames_per_second"] == 128.0
  assert first["updates_per_second"] == 2.0
  clock.now += 1e-5
  last = row(report, steps=50_032, updates=3_001)
  assert last["frames_per_second"] == pytest.approx(256.0, rel=1e-4)


def test_an_evaluation_is_in_one_row_or_taken(clock):
  _, report = make_report(clock)
  report.add_evaluation(3.5)
  clock.now += 10
  assert row(report, steps=10, updates=0)["eval_return"] == 3.5
  assert np.isnan(report.take_evaluation())
  report.add_evaluation(4.5)
  assert report.take_evaluation() == 4.5
  clock.now += 10
  assert np.isnan(row(report, steps=20, updates=0)["eval_return"])


def test_the_final_evaluation_is_not_training_time(clock):
  _, report = make_report(clock)
  clock.now += 60
  report.end_training()
  clock.now += 600
  assert report.minutes() == 1.0


def test_lanes_that_explore_least_are_reported_beside_all(clock):
  _, report = make_report(clock)
  for lane, value in ((0, 1.0), (1, 5.0), (0, 3.0)):
    report.count_episode(EpisodeReport(lane, value, 40, 10, False))
  clock.now += 1
  now = row(report, steps=10, updates=0)
  assert now["return_mean"] == 3.0 and now["return_exploit"] == 5.0
  assert now["episodes"] == 3 and now["return_total"] == 9.0


def test_the_total_of_the_returns_goes_on_after_a_resume(clock):
  _, before = make_report(clock)
  for value in (1.5, -4.0):
    before.count_episode(EpisodeReport(0, value, 40, 10, False))
  saved = before.state_dict()
  _, after = make_report(clock)
  after.load_state_dict(saved, steps=80, updates=0)
  after.count_episode(EpisodeReport(1, 10.0, 40, 10, False))
  clock.now += 1
  now = row(after, steps=120, updates=0)
  assert now["return_total"] == 7.5 and now["episodes"] == 3


def test_the_total_is_unknown_after_a_checkpoint_that_has_none(clock):
  _, before = make_report(clock)
  before.count_episode(EpisodeReport(0, 1.5, 40, 10, False))
  saved = before.state_dict()
  del saved["return_total"]
  _, after = make_report(clock)
  after.load_state_dict(saved, steps=80, updates=0)
  after.count_episode(EpisodeReport(1, 10.0, 40, 10, False))
  clock.now += 1
  assert np.isnan(row(after, steps=120, updates=0)["return_total"])


@pytest.mark.parametrize(
  "updates, legs, expected",
  [
    (0, {"write": 1, "environment": 3, "wait_for_data": 9}, "environment"),
    (5, {"step": 6, "write_back": 1, "wait_for_learner": 4}, "step"),
    (5, {"inference": 6, "write": 2, "wait_for_actors": 3}, "inference"),
    (5, {"sample": 2, "copy": 1, "wait_for_data": 5}, "sample"),
    (5, {"inference": 2, "step": 4}, "step"),
  ],
)
def test_the_bottleneck_is_the_busiest_leg_that_others_wait_for(
  clock, updates, legs, expected
):
  _, report = make_report(clock)
  clock.now += 10
  assert (
    row(report, steps=10, updates=updates, **legs)["bottleneck"] == expected
  )


def test_the_line_says_it_all(clock):
  config, report = make_report(clock)
  clock.now += 60
  line = progress_line(row(report, steps=0, updates=0), config)
  assert "filling replay 50/100" in line and "return -" in line
  report.count_episode(EpisodeReport(1, -20.5, 40, 10, False))
  clock.now += 60
  line = progress_line(row(report, steps=600, updates=60), config)
  for part in (
    "2.0 min",
    "600 steps 2.40k frames",
    "40 frames/s",
    "1.00 updates/s",
    "ratio 1.00/1",
    "return -20.5",
    "replay 2%",
    "limited by",
    "1 min left",
  ):
    assert part in line, (part, line)
