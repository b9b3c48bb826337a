"""The drills' own checks: what is not in order is noticed."""

import pytest

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
