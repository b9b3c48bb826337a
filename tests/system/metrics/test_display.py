"""The panel on a terminal, the lines elsewhere, and their warnings."""

import io

import pytest
from rich.console import Console

from r2d2_jax.family import FAMILY
from r2d2_jax.presets import PRESETS, laptop
from r2d2_jax.system.metrics.display import RunPanel, progress_line, run_display
from tests.system.metrics.example_row import example_row, first_row


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
    "0%, - left",
    "filling replay 0/1000",
    "loss -",
    "dQ first -",
    "lag -",
    "exploiting lanes -",
    "evaluation - (best -)",
  ):
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


def test_a_policy_has_a_line_of_its_own():
  row = example_row(value_mean=0.5, policy_entropy=1.02, rho_clipped=0.25)
  text = drawn(row, panel=RunPanel(FAMILY["impala-small"]()))
  assert line_with(text, "policy").split()[2:] == (
    "entropy 1.02 value 0.5 25% of ratios cut │".split()
  )
  assert "ratios" not in drawn(row)


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
    file=io.StringIO(),
    width=100,
    force_terminal=True,
    record=True,
    color_system="standard",
    _environ={},
  )
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
    file=io.StringIO(),
    width=80,
    force_terminal=is_terminal,
    _environ=environment,
  )
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


def test_own_metrics_are_shown_too():
  row = {**example_row(), "q_gap": 0.25}
  assert "q gap 0.25" in line_with(drawn(row), "own")
