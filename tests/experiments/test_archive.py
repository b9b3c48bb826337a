"""Archives of runs: the same bytes come back, and nothing lands elsewhere."""

import gzip
import json
import os
import pathlib

import pytest

from experiments import archive
from r2d2_jax.config import Config
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.storage.rundir import read_config, write_config

ROOT = pathlib.Path(__file__).parents[2]
ARCHIVES = sorted((ROOT / "docs" / "results").rglob(archive.FILE_NAME))

_FILES = {
  "b/seed1/config.json": b'{\n  "a": "\xc3\xa9\xe2\x80\xa8"\n}\n',
  "b/seed1/log.csv": b"steps,loss\r\n1,nan\n2,0.",  # half a row at its end
  "b/seed1/evaluation.csv": b"",
  "a/config.json": b"{}",
}


def _write(directory: pathlib.Path, files: dict[str, bytes]) -> None:
  for name, data in files.items():
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _read(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    path.relative_to(directory).as_posix(): path.read_bytes()
    for path in directory.rglob("*")
    if path.is_file()
  }


def _main(*arguments) -> int:
  return archive.main(list(map(str, arguments)))


def test_the_same_bytes_come_back(tmp_path, capsys):
  source, packed, target = (tmp_path / name for name in ("s", "p", "t"))
  left_out = {
    "b/seed1/checkpoints/7-70/config.json": b"{}",
    "b/output-seed1.txt": b"",
    "a/tensorboard/events": b"\xff",
    "results.csv": b"",
  }
  _write(source, _FILES | left_out)
  assert _main("pack", source, packed) == 0
  assert _read(source) == _FILES | left_out
  assert list(_read(packed)) == ["runs.jsonl.gz"]
  assert _main("unpack", packed, target) == 0
  assert _read(target) == _FILES
  told = capsys.readouterr().out.splitlines()
  assert told == [
    f"wrote {packed / 'runs.jsonl.gz'}: 2 runs",
    f"wrote 2 runs into {target}",
  ]


def test_the_format_is_the_documented_one(tmp_path):
  _write(tmp_path, _FILES)
  archive.pack(tmp_path, tmp_path / "runs.jsonl.gz")
  with gzip.open(tmp_path / "runs.jsonl.gz", "rb") as lines:
    a, b = map(json.loads, lines)
  assert a == {"run": "a", "config.json": "{}"}
  assert b["run"] == "b/seed1"
  assert b["log.csv"] == "steps,loss\r\n1,nan\n2,0."


def test_the_same_runs_give_the_same_archive(tmp_path):
  _write(tmp_path / "one", dict(sorted(_FILES.items())))
  _write(tmp_path / "two", dict(sorted(_FILES.items(), reverse=True)))
  paths = [tmp_path / "p" / "a.gz", tmp_path / "q" / "b.gz"]
  for source, path in zip(("one", "two"), paths, strict=True):
    archive.pack(tmp_path / source, path)
  first, second = (path.read_bytes() for path in paths)
  assert first == second
  assert first[3] == 0 and first[4:8] == bytes(4)  # neither name nor time


def test_a_run_by_itself(tmp_path):
  _write(tmp_path / "run", {"config.json": b"{}"})
  archive.pack(tmp_path / "run", tmp_path / "a.gz")
  new = tmp_path / "new"
  assert archive.unpack(tmp_path / "a.gz", new) == [new]
  assert _read(new) == {"config.json": b"{}"}


def test_nothing_is_overwritten(tmp_path, capsys):
  _write(tmp_path / "runs", _FILES)
  _write(tmp_path / "target", {"b/seed1/mine": b"1"})
  assert _main("pack", tmp_path / "runs", tmp_path / "packed") == 0
  before = _read(tmp_path)
  assert _main("pack", tmp_path / "runs", tmp_path / "packed") == 2
  assert "runs.jsonl.gz exists already" in capsys.readouterr().err
  assert _main("unpack", tmp_path / "packed", tmp_path / "target") == 2
  assert "seed1 exists already, expected a new" in capsys.readouterr().err
  assert _read(tmp_path) == before


def test_where_nothing_is(tmp_path, capsys):
  for name in ("empty", "pipe"):
    (tmp_path / name).mkdir()
  os.mkfifo(tmp_path / "pipe" / "runs.jsonl.gz")
  for source in ("empty", "nowhere", "pipe"):
    assert _main("pack", tmp_path / source, tmp_path / "out") == 2
    assert f"{source} holds no run: expected config.json" in (
      capsys.readouterr().err
    )
    assert _main("unpack", tmp_path / source, tmp_path / "out") == 2
    assert "expected an archive of runs at" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_what_is_no_text_is_named(tmp_path, capsys):
  _write(tmp_path / "runs", _FILES | {"a/log.csv": b"\xff"})
  assert _main("pack", tmp_path / "runs", tmp_path / "out") == 2
  assert f"{tmp_path / 'runs/a/log.csv'}: damaged" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def _line(**texts) -> bytes:
  return json.dumps({"run": "a", "config.json": "{}"} | texts).encode() + b"\n"


_UNPACKED = {  # name -> what is in the archive once gzip has been undone
  "nothing": b"",
  "no run": b"{}\n",
  "list": b"[1]\n",
  "number": b"1\n",
  "no text": b"\xff\n",
  "brackets": b"[" * 100_000,
  "half": _line()[:-3],
  "twice": _line() * 2,
  "twice spelled": _line() + _line(run="./a"),
  "run number": _line(run=1),
  "run list": _line(run=[]),
  "absolute": _line(run="/a"),
  "above": _line(run="../a"),
  "above later": _line(run="b/../../a"),
  "zero byte": _line(run="a\0"),
  "no settings": b'{"run": "a", "log.csv": ""}\n',
  "file above": _line(**{"../evil": ""}),
  "other file": _line(**{".lock": ""}),
  "file number": _line(**{"log.csv": 1}),
  "half a letter": _line(**{"log.csv": "\ud800"}),
}
_CONTENTS = {name: gzip.compress(data) for name, data in _UNPACKED.items()} | {
  "empty": b"",
  "no gzip": b"{}",
  "cut off": gzip.compress(_line())[:-9],
}


@pytest.mark.parametrize("name", _CONTENTS)
def test_damaged_and_forged_archives_are_refused(name, tmp_path, capsys):
  path = tmp_path / "packed" / "runs.jsonl.gz"
  _write(tmp_path, {"packed/runs.jsonl.gz": _CONTENTS[name]})
  assert _main("unpack", path.parent, tmp_path / "out") == 2
  told = capsys.readouterr().err
  assert told.startswith(f"error: {path}: no archive of runs, or damaged (")
  assert told.count("\n") == 1
  assert list(_read(tmp_path)) == ["packed/runs.jsonl.gz"]


def test_a_run_that_was_written_by_training_comes_back(tmp_path):
  (tmp_path / "runs").mkdir()
  write_config(tmp_path / "runs", Config())
  archive.pack(tmp_path / "runs", tmp_path / "a.gz")
  (run,) = archive.unpack(tmp_path / "a.gz", tmp_path / "new")
  assert read_config(run) == Config()


def test_results_are_packed():
  assert [path.parent.name for path in ARCHIVES] == [
    "memory-chain",
    "memory-s11",
    "memory-s7",
    "pong",
    "recall",
    "stateless-cartpole",
    "ablations",
    "deviations",
    "family",
    "flicker",
    "memory_chain",
    "parameter_lag",
    "start_state",
  ]


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.parent.name)
def test_results_of_the_repository_can_be_read(path, tmp_path):
  for run in archive.unpack(path, tmp_path):
    read_config(run)
    log = read_log(run / "log.csv")
    games = read_log(run / "evaluation.csv")
    assert log["steps"][-1] > 0 and games["return"], run
    # One that was stopped went on after its last evaluation.
    assert 0 < games["updates"][-1] <= log["updates"][-1], run
