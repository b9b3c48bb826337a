"""The panel on a terminal, the lines elsewhere, and their warnings."""

import io
import pathlib
import re

import numpy as np
import pytest
from rich.console import Console

from r2d2_jax.presets import PRESETS, laptop
from r2d2_jax.system.metrics.display import RunPanel, progress_line, run_display
from r2d2_jax.system.metrics.report import RunReport
from r2d2_jax.system.metrics.warning_signs import warning_signs
from tests.system.metrics.example_row import NAN, example_row, first_row

_METRICS = pathlib.Path(__file__).parents[3] / "docs" / "metrics.md"
_HISTOGRAMS = {"lag_updates", "td_abs_by_row", "samples_by_lane"}


def drawn(row, *, width=80, panel=None):
  console = Console(
      file=io.StringIO(), width=width, force_terminal=True, record=True
  )
  console.print((panel or RunPanel(laptop())).draw(row))
  return console.export_text()


def line_with(text, label):
  (line,) = [x for x in text.splitlines() if label in x]
  return line


# The panel.


def test_the_panel_says_it_all_in_80_columns():
  text = drawn(example_row())
  lines = text.splitlines()
  assert len(lines) == 13 and {len(x) for x in lines} == {80}
  for part in (
      "Pong, 46 min", "38%, 74 min left", "1.23M steps", "4.94M frames",
      "8.12k updates", "1.20k games", "3457 frames/s", "12.35 updates/s",
      "exploiting lanes 12.3", "all -3.21", "100% full", "ratio 2.00 of 2",
      "loss 0.0215", "|td| 0.0543", "gradient 0.128", "max q 1.5",
      "dQ first 0.12", "last 0.043", "lag 1302 updates",
      "71% of a batch count", "drawn 2.4 times each", "inference 42%",
      "write_back 2%", "limited by step",
  ):  # fmt: skip
    assert part in text, (part, text)


def test_what_is_not_known_yet_is_a_dash():
  text = drawn(first_row())
  assert "nan" not in text.lower()
  for part in (
      "0%, - left", "filling replay 0/1000", "loss -", "dQ first -", "lag -",
      "exploiting lanes -", "evaluation - (best -)",
  ):  # fmt: skip
    assert part in text, (part, text)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_every_preset_fits_every_terminal(preset, width):
  row = example_row(
      steps=123_456_789, frames=493_827_156, episodes=1_234_567,
      grad_norm=1.2e9, dq_first=12.3, dq_last=4.5, reuse_mean=4_000.0,
      effective_sample_size=0.01, lag_p50=123_456, replay_ratio=9.0,
      minutes_left=1e6, share_step=1.7,
  )  # fmt: skip
  text = drawn(row, width=width, panel=RunPanel(PRESETS[preset]()))
  assert max(len(x) for x in text.splitlines()) <= width


def test_the_last_and_the_best_evaluation_stay():
  panel = RunPanel(laptop())
  drawn(first_row(), panel=panel)
  for value in (3.0, 20.5, 17.5):
    drawn(example_row(eval_return=value), panel=panel)
  text = drawn(example_row(), panel=panel)
  assert "evaluation 17.5 (best 20.5)" in text


def test_a_threads_bar_is_as_long_as_it_was_busy():
  row = example_row(
      share_environment=0.25, share_inference=0.25, share_write=0.0
  )
  line = line_with(drawn(row), "actors")
  assert line.count("█") == 12 and line.count("·") == 12  # half of 24
  # A leg counts when it ends: the row may be shorter than it.
  line = line_with(drawn(example_row(share_step=1.7)), "write_back")
  assert line.count("█") == 24


def test_what_is_unhealthy_is_named_and_red():
  console = Console(
      file=io.StringIO(), width=100, force_terminal=True, record=True,
      color_system="standard", _environ={},
  )  # fmt: skip
  console.print(RunPanel(laptop()).draw(example_row(dq_first=3.0)))
  coloured = console.export_text(styles=True)
  assert "\x1b[1;31mdQ first 3 (stale states)" in coloured
  assert coloured.count("\x1b[1;31m") == 1


# The live display.


def test_messages_appear_above_the_panel(monkeypatch):
  monkeypatch.setenv("TERM", "xterm-256color")
  console = Console(file=io.StringIO(), width=80, force_terminal=True)
  with run_display(console, laptop()) as show:
    show(example_row())
    console.print("a message", highlight=False)
    show(example_row(return_exploit=19.9))
  text = console.file.getvalue()
  # Again after the message: it was put above.
  assert text.index("lanes 12.3") < text.index("a message")
  assert text.index("a message") < text.rindex("lanes 12.3")
  assert text.rindex("lanes 12.3") < text.index("lanes 19.9")
  assert "\x1b[1A" in text  # redrawn in place


@pytest.mark.parametrize(
    "environment, is_terminal", [({}, False), ({"TERM": "dumb"}, True)]
)
def test_without_a_terminal_every_row_is_a_line(environment, is_terminal):
  console = Console(
      file=io.StringIO(), width=80, force_terminal=is_terminal,
      _environ=environment,
  )  # fmt: skip
  with run_display(console, laptop()) as show:
    show(first_row())
    show(example_row())
  lines = console.file.getvalue().splitlines()
  assert lines == [
      progress_line(first_row(), laptop()),
      progress_line(example_row(), laptop()),
  ]


def test_the_line_names_what_is_unhealthy():
  assert "stale" not in progress_line(example_row(), laptop())
  line = progress_line(example_row(dq_first=3.0, grad_norm=55.0), laptop())
  assert line.endswith(" | grad_norm 55: clipped | dq_first 3: stale states")


# What is unhealthy.


def test_a_healthy_row_and_a_first_row_have_no_warnings():
  assert not warning_signs(example_row(), laptop())
  assert not warning_signs(first_row(), laptop())


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
  assert not warning_signs(example_row(**{column: healthy}), laptop())
  signs = warning_signs(example_row(**{column: unhealthy}), laptop())
  assert list(signs) == [column]


def test_the_ratio_is_judged_when_its_slack_no_longer_matters():
  assert not warning_signs(
      example_row(updates=999, replay_ratio=1.5), laptop()
  )


def test_dq_is_judged_when_values_have_left_zero():
  changes = dict(dq_first=3.0, dq_last=3.0)
  for value in (0.11, -0.11):
    row = example_row(q_max_mean=value, **changes)
    assert set(warning_signs(row, laptop())) == set(changes)
  assert not warning_signs(example_row(q_max_mean=-0.09, **changes), laptop())


# docs/metrics.md.


def documented():
  headings = re.findall("^### (.*)$", _METRICS.read_text(), re.MULTILINE)
  names = [name for line in headings for name in re.findall("`(.*?)`", line)]
  assert len(names) == len(set(names))
  return set(names)


def test_every_column_and_histogram_is_explained_and_nothing_else():
  report = RunReport(laptop(), frame_skip=4, epsilon=np.array([0.4, 0.01]))
  row = report.row(
      steps=0, updates=0, replay_size=0, replay_ratio=0.0, metrics={},
      leg_seconds={},
  )  # fmt: skip
  assert list(row) == list(example_row())
  assert documented() == set(row) | _HISTOGRAMS


def test_every_warning_is_explained():
  text = _METRICS.read_text()
  row = example_row(
      grad_norm=1e3, replay_ratio=9.0, effective_sample_size=0.1,
      reuse_mean=1e3, lag_p50=10**6, dq_first=9.0, dq_last=9.0, loss=NAN,
  )  # fmt: skip
  signs = warning_signs(row, laptop())
  assert len(signs) == 8
  for words in signs.values():
    assert f"**{words}**" in text, words
