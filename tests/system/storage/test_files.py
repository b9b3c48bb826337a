"""Files of a run: written in its directory only; nothing waits for a pipe."""

import os

import pytest

from r2d2_jax.system.storage.files import (
  open_to_read,
  open_to_write,
  read_text,
  remove,
  replace_file,
)


@pytest.fixture(name="outside")
def _outside(tmp_path):
  path = tmp_path / "outside"
  path.write_text("mine")
  return path


def test_a_link_is_read_but_not_written_through(tmp_path, outside):
  link = tmp_path / "link"
  link.symlink_to(outside)
  assert read_text(link) == "mine"
  for append in (False, True):
    with pytest.raises(OSError, match="link is a link"):
      open_to_write(link, append=append)
  assert outside.read_text() == "mine"


def test_a_link_to_nowhere_creates_nothing(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "new")
  with pytest.raises(OSError, match="is a link"):
    open_to_write(tmp_path / "link")
  assert not (tmp_path / "new").exists()


def test_replacing_goes_through_no_link(tmp_path, outside):
  path, partial = tmp_path / "config.json", tmp_path / "config.json.partial"
  path.write_text("old")
  partial.symlink_to(outside)
  with pytest.raises(OSError, match="is a link"):
    replace_file(path, b"new")
  assert (path.read_text(), outside.read_text()) == ("old", "mine")
  # The link is not the run's: away with it, and the next attempt succeeds.
  replace_file(path, b"new")
  assert (path.read_text(), outside.read_text()) == ("new", "mine")
  assert not partial.exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(make, tmp_path):
  path = tmp_path / "config.json"
  make(path)
  with pytest.raises(OSError, match="config.json"):
    open_to_read(path)
  with pytest.raises(OSError, match="config.json"):
    open_to_write(path)


def test_writing_begins_anew_or_goes_on(tmp_path):
  path = tmp_path / "a"
  for append, expected in ((False, "x"), (True, "xx"), (False, "x")):
    with open_to_write(path, append=append) as file:
      file.write(b"x")
    assert path.read_text() == expected


def test_the_mark_of_spreadsheets_is_no_text(tmp_path):
  (tmp_path / "a").write_bytes(b"\xef\xbb\xbf{}")
  assert read_text(tmp_path / "a") == "{}"


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "there" / "file").touch()
  (tmp_path / "link").symlink_to(tmp_path / "there")
  remove(tmp_path / "link")
  assert (tmp_path / "there" / "file").exists()
  remove(tmp_path / "there")
  remove(tmp_path / "nothing")
  assert not list(tmp_path.iterdir())
