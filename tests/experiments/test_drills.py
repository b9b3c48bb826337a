"""The drills' own checks: what is not in order is noticed."""

import pytest

from experiments.drills import drill, phases
from experiments.drills.drill import DrillFailed, check_logs


def _write(path, lines):
  path.write_text("".join(f"{line}\n" for line in lines))


def test_logs_in_order(tmp_path):
  _write(
    tmp_path / "log.csv",
    ["minutes,steps,updates", "0.1,100,0", "0.2,200,0", "0.3,200,1"],
  )
  _write(
    tmp_path / "evaluation.csv",
    ["updates,steps,game", "1,200,0", "1,200,1", "2,300,0"],
  )
  with (tmp_path / "log.csv").open("a") as f:
    f.write("0.1,4")  # half a row, as a kill leaves it
  assert check_logs(tmp_path) == 3


@pytest.mark.parametrize(
  "row",
  [
    "0.3,200,1",
    "0.2,300,2",
    "0.4,200,1",
    "0.4,100,2",
    "0.4,300,0",
  ],
)
def test_a_row_that_repeats_or_goes_back(row, tmp_path):
  lines = ["minutes,steps,updates", "0.1,100,0", "0.3,200,1", row, "0.9,900,9"]
  _write(tmp_path / "log.csv", lines)
  with pytest.raises(DrillFailed, match="from row to row"):
    check_logs(tmp_path)


def test_a_game_that_is_written_twice(tmp_path):
  _write(tmp_path / "evaluation.csv", ["updates,steps,game", "1,2,0", "1,2,0"])
  with pytest.raises(DrillFailed, match="no game twice"):
    check_logs(tmp_path)


@pytest.mark.parametrize("at_a_time", [1, 2, 4, 9])
def test_each_training_gets_its_own_end_however_many_run(
  at_a_time, monkeypatch
):
  turns = []

  def in_turn(configs):
    turns.append(configs)
    return [f"end of {config}" for config in configs]

  monkeypatch.setattr(drill, "_train_in_turn", in_turn)
  ends = drill.train_each("abcde", at_a_time=at_a_time)
  assert ends == [f"end of {config}" for config in "abcde"]
  assert len(turns) == min(at_a_time, 5) and all(turns)


@pytest.mark.parametrize(
  "code, text, is_fine",
  [
    (130, "saving\n", True),
    (130, "Traceback (most recent call last)\nValueError\n", False),
    (0, "world: recall\n", False),  # the signal was swallowed
    (0, "wrote learning_curve.png\n", True),  # it came behind the last word
    (-2, "", True),  # before the first one
    (-2, "world: recall\n", False),
    (-15, "", False),  # a signal that nobody sent
    (-2, "Traceback (most recent call last)\nKeyboardInterrupt\n", True),
    (-2, "world: x\nTraceback (most\nKeyboardInterrupt\n", False),
  ],
)
def test_how_a_signal_may_end_a_run(code, text, is_fine):
  end = phases.End(code, text, 0.1)
  if is_fine:
    phases._check_end(end, [2])
  else:
    with pytest.raises(DrillFailed):
      phases._check_end(end, [2])
