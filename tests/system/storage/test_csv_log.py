"""The log: goes on, is widened, cut and begun anew."""

import numpy as np
import pytest

from r2d2_jax.config import FileError
from r2d2_jax.system.storage.csv_log import RunLog, read_log


@pytest.fixture(name="path")
def _path(tmp_path):
  path = tmp_path / "log.csv"
  log = RunLog(path)
  for steps in (100, 200, 200, 300):
    log.write({"steps": steps, "updates": steps // 10, "loss": 0.5})
  assert log.num_rows == 4
  return path


def _lines(path):
  return path.read_text().splitlines()


def test_new_columns_are_added_with_nan_in_the_rows_before(path):
  log = RunLog(path)
  row = {"steps": 400, "lag": 2.0, "updates": 40}
  assert log.new_columns(row) == ["lag"]
  log.write(row)
  assert _lines(path) == [
    "steps,lag,updates,loss",
    "100,nan,10,0.5",
    "200,nan,20,0.5",
    "200,nan,20,0.5",
    "300,nan,30,0.5",
    "400,2,40,nan",
  ]
  assert not log.new_columns(row)
  # What is gone from the rows stays in the file.
  RunLog(path).write({"steps": 500, "updates": 50})
  assert _lines(path)[-1] == "500,nan,50,nan"
  assert RunLog(path).num_rows == 6
  assert np.isnan(read_log(path)["lag"]).tolist() == [True] * 4 + [False, True]


def test_an_empty_log_lacks_no_columns(tmp_path):
  assert not RunLog(tmp_path / "log.csv").new_columns(["a"])
  (tmp_path / "log.csv").touch()
  assert not RunLog(tmp_path / "log.csv").new_columns(["a"])


def test_a_log_is_cut_by_its_rows_where_counts_stand_still(path):
  log = RunLog(path)
  log.cut(2, steps=200, updates=20)
  assert [line.split(",")[0] for line in _lines(path)] == [
    "steps",
    "100",
    "200",
  ]
  log.write({"steps": 250, "updates": 25, "loss": 1.0})
  assert _lines(path)[1:] == ["100,10,0.5", "200,20,0.5", "250,25,1"]
  assert log.num_rows == 3


def test_and_by_counts_where_the_rows_are_not_known(path):
  RunLog(path).cut(steps=200, updates=20)
  assert [line[:3] for line in _lines(path)[1:]] == ["100", "200", "200"]
  # Rows that were taken away by hand are no reason to keep later ones.
  RunLog(path).cut(9, steps=100, updates=10)
  assert len(_lines(path)) == 2


def test_a_column_that_is_missing_or_nan_drops_nothing(tmp_path):
  path = tmp_path / "evaluation.csv"
  path.write_text("updates,steps\n1,nan\n2,20\n3,nan\n2,30\n")
  RunLog(path).cut(steps=25, updates=2)
  assert _lines(path) == ["updates,steps", "1,nan", "2,20"]
  path.write_text("updates,score\n1,5\n2,5\n")
  RunLog(path).cut(steps=10, updates=1)
  assert _lines(path) == ["updates,score", "1,5"]


def test_spreadsheets_may_have_saved_it(path):
  before = read_log(path)
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
  assert read_log(path) == before
  log = RunLog(path)
  assert log.num_rows == 4
  log.write({"steps": 400, "updates": 40, "loss": 0.5})
  assert read_log(path)["steps"] == [100, 200, 200, 300, 400]
  log.cut(1, steps=400, updates=40)
  assert path.read_bytes() == b"steps,updates,loss\n100,10,0.5\n"


def test_half_a_row_is_cut_off(path):
  with path.open("a") as file:
    file.write("400,4")
  RunLog(path).write({"steps": 400, "updates": 40, "loss": 0.5})
  assert _lines(path)[-2:] == ["300,30,0.5", "400,40,0.5"]


def test_many_rows_are_written_in_one_piece(tmp_path):
  log = RunLog(tmp_path / "a.csv")
  log.write_all([])
  assert not (tmp_path / "a.csv").exists()
  log.write_all([{"a": 1}, {"a": 2}])
  assert _lines(tmp_path / "a.csv") == ["a", "1", "2"] and log.num_rows == 2


def test_a_log_that_is_set_aside_begins_anew(path):
  old = path.read_text()
  log = RunLog(path)
  log.set_aside()
  assert not path.exists() and log.num_rows == 0
  log.write({"steps": 1})
  assert _lines(path) == ["steps", "1"]
  assert (path.parent / "log.csv.old").read_text() == old


@pytest.mark.parametrize(
  "data",
  [
    b"\xff\xfe\x00garbage\n\x00\n",
    b"\n1,2\n",
    b"x" * 200_000 + b"\n",
  ],
)
def test_what_is_no_csv_is_refused_when_it_is_opened(data, path):
  path.write_bytes(data)
  with pytest.raises(FileError, match="log.csv: damaged"):
    RunLog(path)


@pytest.mark.parametrize(
  "text",
  [
    "steps,updates\n1,x\n",
    "steps,updates\n1\n",
    "a,b\n1,2\n",
  ],
)
def test_a_damaged_log_is_not_cut(text, path):
  path.write_text(text)
  with pytest.raises(FileError, match="log.csv: damaged"):
    RunLog(path).cut(5, steps=1, updates=1)
  assert path.read_text() == text


def test_the_counts_of_the_last_row(tmp_path):
  path = tmp_path / "log.csv"
  log = RunLog(path)
  assert log.last_counts() == ()
  log.write_all([{"steps": 1, "updates": 0}, {"steps": 7, "updates": 2}])
  assert log.last_counts() == RunLog(path).last_counts() == (7, 2)
  log.cut(1)
  assert log.last_counts() == (1, 0)
