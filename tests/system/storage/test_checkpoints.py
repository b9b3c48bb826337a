"""Checkpoints: whole or not there, and refused by name where they don't fit."""

import errno
import json
import os

import jax
import numpy as np
import pytest

from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.storage import checkpoints as module
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
  read_record,
  restore_learner,
  save_checkpoint,
)
from r2d2_jax.types import LearnerState


def state(num_updates, units=3, value=1.0):
  params = {"w": np.full((units, 2), value, np.float32)}
  return LearnerState(
    params,
    params,
    ({"m": np.zeros(2, np.float32)}, ()),
    np.array(num_updates, np.int32),
  )


def save(directory, num_updates, steps, **kwargs):
  options = {"max_to_keep": 2} | kwargs
  return save_checkpoint(
    directory, state(num_updates), {"steps": steps, "lucky": 7}, **options
  )


def files(directory):
  return {
    p.relative_to(directory): p.read_bytes()
    for p in directory.rglob("*")
    if p.is_file()
  }


def test_what_was_saved_comes_back(tmp_path):
  saved = save(tmp_path / "new", 5, 100)
  assert list_checkpoints(tmp_path / "new") == [saved]
  assert read_record(saved) == {"format": 2, "steps": 100, "lucky": 7}
  restored = restore_learner(saved, state(0, value=3.0))
  jax.tree.map(np.testing.assert_array_equal, restored, state(5))


def test_the_newest_are_kept_by_steps_not_by_name(tmp_path):
  for updates, steps in ((9, 900), (9, 1_000), (10, 1_100)):
    save(tmp_path, updates, steps)
  (tmp_path / "notes").mkdir()
  found = list_checkpoints(tmp_path)
  assert [(c.num_updates, c.steps) for c in found] == [(9, 1_000), (10, 1_100)]
  assert save(tmp_path, 10, 1_100) == found[-1]  # nothing new
  assert not list_checkpoints(tmp_path / "nowhere")


def test_more_files_are_part_of_it_and_leftovers_are_cleared(tmp_path):
  (tmp_path / "3-30.partial").mkdir()
  (tmp_path / "3-30.partial" / "half").write_text("x")
  saved = save(
    tmp_path,
    4,
    40,
    write_more=lambda path: (path / "more.txt").write_text("more"),
  )
  assert (saved.path / "more.txt").read_text() == "more"
  assert [p.name for p in tmp_path.iterdir()] == ["4-40"]


@pytest.mark.parametrize("moment", ["more", "learner", "flush", "room"])
def test_a_save_that_fails_leaves_the_old_ones(moment, tmp_path, monkeypatch):
  save(tmp_path, 1, 10)
  before = files(tmp_path)

  def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  options = {}
  if moment == "more":
    options["write_more"] = fail
  elif moment == "learner":
    monkeypatch.setattr(module.ocp.Checkpointer, "save", fail)
  elif moment == "flush":
    monkeypatch.setattr(module, "flush_to_disk", fail)
  else:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
      module.shutil, "disk_usage", lambda path: usage._replace(free=1_000)
    )
  with pytest.raises(CheckpointError, match="No space left|1000 are free"):
    save(tmp_path, 2, 20, **options)
  assert files(tmp_path) == before
  monkeypatch.undo()
  save(tmp_path, 2, 20)
  assert len(list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize(
  "error, converted",
  [
    (ReplayError("Reverb could not write its checkpoint"), True),
    (RuntimeError("a fault of the program"), False),
  ],
)
def test_a_replay_that_cannot_be_saved_leaves_nothing(
  error, converted, tmp_path
):
  def fail(path):
    (path / "half").write_bytes(b"x" * 1000)
    raise error

  expected = CheckpointError if converted else RuntimeError
  with pytest.raises(expected, match=str(error)):
    save(tmp_path, 2, 20, write_more=fail)
  assert not list(tmp_path.iterdir())


def test_the_one_just_written_is_kept_whatever_else_is_there(tmp_path):
  save(tmp_path, 9, 5_050, max_to_keep=1)
  saved = save(tmp_path, 8, 5_000, max_to_keep=1)
  assert list_checkpoints(tmp_path) == [saved]
  for updates in (10, 11, 12):
    saved = save(tmp_path, updates, 6_000, max_to_keep=5)
  assert len(list_checkpoints(tmp_path)) == 4  # fewer than may be kept
  save(tmp_path, 1, 10, max_to_keep=2)
  assert [c.num_updates for c in list_checkpoints(tmp_path)] == [1, 12]


def test_one_that_was_moved_and_linked_is_removed_as_a_link(tmp_path):
  directory, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
  first = save(directory, 1, 10)
  first.path.rename(elsewhere)
  first.path.symlink_to(elsewhere)
  before = files(elsewhere)
  assert read_record(first)["lucky"] == 7
  for updates in (2, 3):
    save(directory, updates, 10 * updates)
  assert sorted(p.name for p in directory.iterdir()) == ["2-20", "3-30"]
  assert files(elsewhere) == before


def test_one_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch):
  save(tmp_path, 1, 10)
  save(tmp_path, 2, 20)
  (tmp_path / "0-5.partial").mkdir()

  def fail(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

  monkeypatch.setattr(module, "remove", fail)
  with pytest.warns(UserWarning) as warned:
    saved = save(tmp_path, 3, 30)
  told = [str(w.message) for w in warned if "cannot remove" in str(w.message)]
  assert len(told) == 2 and all("Permission denied" in text for text in told)
  assert list_checkpoints(tmp_path)[-1] == saved


def test_a_directory_that_is_a_link_is_not_written_to(tmp_path):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "best").symlink_to(tmp_path / "elsewhere")
  with pytest.raises(CheckpointError, match="best: it is a link"):
    save(tmp_path / "best", 1, 10)
  assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(bad, tmp_path):
  poisoned = state(5)
  poisoned.opt_state[0]["m"][1] = bad
  with pytest.raises(CheckpointError, match=r"not finite at .*opt_state.*'m'"):
    save_checkpoint(tmp_path, poisoned, {"steps": 1}, max_to_keep=2)
  assert not list(tmp_path.iterdir())


def test_another_network_is_refused(tmp_path):
  saved = save(tmp_path, 5, 100)
  before = files(tmp_path)
  with pytest.raises(
    CheckpointError, match=r"has shape \(3, 2\), expected \(4"
  ):
    restore_learner(saved, state(0, units=4))
  other = state(0)
  other.params["b"] = np.zeros(1, np.float32)
  with pytest.raises(CheckpointError, match="'b'.* not found"):
    restore_learner(saved, other)
  assert files(tmp_path) == before


@pytest.mark.parametrize(
  "text, expected",
  [
    (None, "cannot read .*record.json"),
    ("", "cannot read .*record.json"),
    ("[]", "cannot read .*record.json"),
    ('{"steps": 3}', "cannot read .*record.json"),
    ("[" * 100_000, "cannot read .*record.json"),
    ('{"format": []}', "expected checkpoint format 2, got \\[\\]"),
    ('{"format": 2}', "steps: expected 100 as in the .*, got None"),
    ('{"format": 2, "steps": "x"}', "steps: expected 100 .*, got 'x'"),
    ('{"format": 2, "steps": 1%s}' % ("0" * 400), "steps: expected 100 "),
    ('{"format": 1, "steps": 3}', "expected checkpoint format 2, got 1"),
    ('{"format": 3, "steps": 3}', "expected checkpoint format 2, got 3"),
  ],
)
def test_a_record_that_is_damaged_or_of_another_version(
  text, expected, tmp_path
):
  saved = save(tmp_path, 5, 100)
  record = saved.path / "record.json"
  assert json.loads(record.read_text())["format"] == 2
  record.unlink() if text is None else record.write_text(text)
  with pytest.raises(CheckpointError, match=expected):
    read_record(saved)


def test_a_checkpoint_with_another_ones_name_is_refused(tmp_path):
  saved = save(tmp_path, 5, 100)
  for name, read in (
    ("5-99999", read_record),
    ("999-100", lambda c: restore_learner(c, state(0))),
  ):
    moved = saved.path.rename(tmp_path / name)
    (found,) = list_checkpoints(tmp_path)
    with pytest.raises(
      CheckpointError, match="as in the directory's name, got"
    ):
      read(found)
    moved.rename(saved.path)
