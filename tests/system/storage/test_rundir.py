"""The run's directory: whose it is, and that nothing else is written to."""

import concurrent.futures
import errno
import fcntl
import os

import pytest

from r2d2_jax.config import ConfigError
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.rundir import (
  claimed_run_dir,
  new_run_dir,
  read_config,
  write_config,
)


def _claim(run_dir):
  with claimed_run_dir(run_dir, smoke()):
    pass


def test_other_peoples_files_are_no_hindrance(tmp_path):
  for name in ("out.log", "nohup.out", "slurm-17.out", "notes.txt"):
    (tmp_path / name).touch()
  (tmp_path / ".ipynb_checkpoints").mkdir()
  # Of a start that was cut off.
  (tmp_path / ".replay").mkdir()
  (tmp_path / "wandb_id").touch()
  (tmp_path / "config.json.partial").touch()
  _claim(tmp_path)


@pytest.mark.parametrize(
  "name",
  [
    "log.csv",
    "evaluation.csv",
    "checkpoints",
    "best",
    "tensorboard",
    "learning_curve.png",
  ],
)
def test_parts_of_a_run_without_its_settings_are(name, tmp_path):
  (tmp_path / name).mkdir()
  with pytest.raises(ConfigError, match=f"which has {name} but no config.json"):
    _claim(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  "name",
  [
    ".lock",
    "config.json",
    "log.csv",
    "evaluation.csv",
    "checkpoints",
    "best",
    "tensorboard",
    "learning_curve.png",
    "crash.txt",
    "starts.jsonl",
    "wandb",
    "wandb_id",
    ".replay",
    "config.json.partial",
    "log.csv.partial",
  ],
)
def test_a_link_in_it_is_refused_and_nothing_written_there(name, tmp_path):
  run_dir, target = tmp_path / "run", tmp_path / "target"
  run_dir.mkdir()
  write_config(run_dir, smoke())
  content = (run_dir / "config.json").read_bytes()
  target.write_bytes(content)
  (run_dir / name).unlink(missing_ok=True)
  (run_dir / name).symlink_to(target)
  with pytest.raises(ConfigError, match=f"run.run_dir: .*{name} is a link to"):
    _claim(run_dir)
  assert target.read_bytes() == content


def test_the_directory_itself_may_be_a_link(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "run").symlink_to(tmp_path / "there")
  _claim(tmp_path / "run")
  (tmp_path / "run").unlink()
  (tmp_path / "run").symlink_to(tmp_path / "nowhere")
  with pytest.raises(ConfigError, match="run.run_dir: .*nowhere, which is not"):
    _claim(tmp_path / "run")
  assert not (tmp_path / "nowhere").exists()


def test_a_directory_in_use_is_told_from_one_that_cannot_be_locked(
  tmp_path, monkeypatch
):
  with claimed_run_dir(tmp_path, smoke()):
    with pytest.raises(ConfigError, match="another process is training in"):
      _claim(tmp_path)
  _claim(tmp_path)

  def no_locks(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", no_locks)
  with pytest.raises(
    ConfigError, match="cannot lock .*lock: No locks available"
  ):
    _claim(tmp_path)


def test_a_new_directory_is_nobody_elses(tmp_path):
  name = str(tmp_path / "runs" / "recall-smoke-seed0-20261126-141832")
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    made = list(pool.map(lambda _: str(new_run_dir(name)), range(8)))
  assert sorted(made) == [name] + [f"{name}-{i}" for i in range(2, 9)]


def test_a_new_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
  with pytest.raises(ConfigError, match="run.run_dir: cannot create"):
    new_run_dir(str(tmp_path / "runs" / "run"))


def test_settings_with_a_mark_are_read_and_a_pipe_is_refused(tmp_path):
  write_config(tmp_path, smoke())
  path = tmp_path / "config.json"
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
  assert read_config(tmp_path) == smoke()
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(ConfigError, match="config.json cannot be read: .*a pipe"):
    read_config(tmp_path)
