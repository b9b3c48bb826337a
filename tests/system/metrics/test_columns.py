"""The registry of columns: what reads it, and which values are unhealthy."""

import pathlib
import re

import numpy as np
import pytest

from r2d2_jax.family import FAMILY
from r2d2_jax.presets import laptop
from r2d2_jax.system.metrics.columns import (
  COLUMNS,
  GROUPS,
  HISTOGRAMS,
  Column,
  label,
  register,
  tag,
  warnings,
)
from r2d2_jax.system.metrics.report import RunReport
from tests.system.metrics.example_row import NAN, example_row, first_row

_METRICS = pathlib.Path(__file__).parents[3] / "docs" / "metrics.md"


def a_row(**metrics):
  report = RunReport(laptop(), frame_skip=4, epsilon=np.array([0.4, 0.01]))
  return report.row(
    steps=0,
    updates=0,
    replay_size=0,
    replay_ratio=0.0,
    metrics=metrics,
    leg_seconds={},
  )


@pytest.fixture(name="own")
def fixture_own(monkeypatch):
  """A registered column of a researcher's, forgotten after the test."""
  monkeypatch.setattr("r2d2_jax.system.metrics.columns.COLUMNS", dict(COLUMNS))
  return Column(
    "q_gap",
    "learner",
    "gap of the two best q",
    "rescaled unit",
    "last",
    lambda row, config: "no choice" if row["q_gap"] < 0.01 else None,
  )


# What is in a row.


def test_rows_have_the_registrys_columns_in_its_order():
  assert list(a_row(q_max_mean=1.0, loss=0.5)) == list(COLUMNS)
  assert list(example_row()) == list(COLUMNS)
  assert {column.group for column in COLUMNS.values()} == set(GROUPS)


def test_a_metric_that_is_not_registered_is_a_column_of_the_learner():
  row = a_row(q_gap=0.25, loss=0.5)
  assert list(row) == [*COLUMNS, "q_gap"]
  assert row["q_gap"] == 0.25 and row["loss"] == 0.5
  assert tag("q_gap") == "learner/q_gap" and label("q_gap") == "q gap"
  assert not warnings({**example_row(), "q_gap": NAN}, laptop())


def test_a_metric_cannot_take_the_place_of_what_the_run_counts():
  with pytest.raises(ValueError, match="step: steps, updates are names of"):
    a_row(steps=1.0, updates=2.0, loss=0.5)


def test_a_registered_column_has_words_and_a_healthy_range(own):
  register(own)
  assert label("q_gap") == "gap of the two best q (rescaled unit)"
  row = {**example_row(), "q_gap": 0.001}
  assert warnings(row, laptop()) == {"q_gap": "no choice"}
  assert not warnings({**row, "q_gap": 0.1}, laptop())


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"name": "loss"}, "'loss', which the log has already"),
    ({"name": "lag_updates"}, "'lag_updates', which the log has already"),
    ({"group": "mine"}, "one of the groups train, learner,.*got 'mine'"),
    ({"reduce": "sum"}, "one of mean, max, last, got 'sum'"),
  ],
)
def test_a_column_that_cannot_be_is_refused(own, changes, words):
  with pytest.raises(ValueError, match=words):
    register(own._replace(**changes))


# What is unhealthy.


def test_a_healthy_row_and_a_first_row_have_no_warnings():
  assert not warnings(example_row(), laptop())
  assert not warnings(first_row(), laptop())


# laptop: gradients clipped at 40, ratio 2, batches of 16, 10 new rows in each
# item of 20: an item is drawn 2 * 10 / 19 = 1.05 times in all.
@pytest.mark.parametrize(
  "column, healthy, unhealthy",
  [
    ("grad_norm", 39.9, 40.1),
    ("replay_ratio", 2.03, 2.05),
    ("replay_ratio", 1.97, 1.95),
    ("effective_sample_size", 0.26, 0.24),
    ("reuse_mean", 20.0, 21.0),
    ("lag_p50", 5_000, 5_001),  # 40 000 items * 2 / 16
    ("dq_first", 0.99, 1.01),
    ("dq_last", 0.49, 0.51),
    ("loss", 1e9, NAN),
    ("loss", 1e9, float("inf")),
    ("td_abs_mean", 1e3, NAN),
    ("q_max_mean", -1e3, float("-inf")),
  ],
)
def test_thresholds(column, healthy, unhealthy):
  assert not warnings(example_row(**{column: healthy}), laptop())
  signs = warnings(example_row(**{column: unhealthy}), laptop())
  assert list(signs) == [column]


def test_the_ratio_is_judged_when_its_slack_no_longer_matters():
  assert not warnings(example_row(updates=999, replay_ratio=1.5), laptop())


def test_dq_is_judged_when_values_have_left_zero():
  changes = dict(dq_first=3.0, dq_last=3.0)
  for value in (0.11, -0.11):
    row = example_row(q_max_mean=value, **changes)
    assert set(warnings(row, laptop())) == set(changes)
  assert not warnings(example_row(q_max_mean=-0.09, **changes), laptop())


def test_a_queue_has_a_lag_of_its_own_and_a_policy_no_q():
  """16 lanes x (10 steps to a refresh + 13 rows) / (8 x 12 rows of a batch) =
  3.8, a queue of 20 batches, and 8 on their way."""
  config = FAMILY["impala-small"]()
  row = example_row(replay_ratio=1.0, reuse_mean=1.0, q_max_mean=NAN)
  assert not warnings({**row, "lag_p50": 31}, config)
  assert list(warnings({**row, "lag_p50": 32}, config)) == ["lag_p50"]
  assert "q_max_mean" in warnings({**row, "lag_p50": 1}, laptop())


# docs/metrics.md.


def documented():
  headings = re.findall("^### (.*)$", _METRICS.read_text(), re.MULTILINE)
  names = [name for line in headings for name in re.findall("`(.*?)`", line)]
  assert len(names) == len(set(names))
  return set(names)


def test_every_column_and_histogram_is_explained_and_nothing_else():
  assert documented() == set(COLUMNS) | set(HISTOGRAMS)


def test_every_warning_is_explained():
  text = _METRICS.read_text()
  row = example_row(
    grad_norm=1e3,
    replay_ratio=9.0,
    effective_sample_size=0.1,
    reuse_mean=1e3,
    lag_p50=10**6,
    dq_first=9.0,
    dq_last=9.0,
    loss=NAN,
  )
  signs = warnings(row, laptop())
  assert len(signs) == 8
  for words in signs.values():
    assert f"**{words}**" in text, words
