"""Saves on a disk that fills, with either replay: refused, nothing is left."""

import resource

import numpy as np
import pytest

from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
  save_checkpoint,
)
from r2d2_jax.types import LearnerState
from tests.replay.test_replay import (
  _items,  # noqa: F401 a fixture
  _make,  # noqa: F401 a fixture
)


def _state():
  params = {"w": np.zeros((3, 2), np.float32)}
  return LearnerState(params, params, (), np.array(1, np.int32))


def test_at_whatever_mark_it_is_full(make, items, tmp_path):
  """Files may become so large and no larger, as where a disk is full."""
  replay = make()
  replay.insert(items[:40], np.ones(40))

  def save(steps):
    def write(path):
      (path / "replay").mkdir()
      replay.save(path / "replay")

    return save_checkpoint(
      tmp_path / "checkpoints",
      _state(),
      {"steps": steps},
      max_to_keep=1,
      write_more=write,
    )

  whole = save(1)
  files = [p for p in whole.path.rglob("*") if p.is_file()]
  largest = max(p.stat().st_size for p in files)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Compressed, the same items differ by some bytes from one save to the next.
  for mark in (0, 1, 50, 500, *np.linspace(600, 0.95 * largest, 6)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(mark), before[1]))
    try:
      with pytest.raises(CheckpointError, match="cannot save a checkpoint in"):
        save(2)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1-1"]
  assert list_checkpoints(tmp_path / "checkpoints") == [whole]
  # With room again the next one succeeds.
  saved = save(3)
  assert list_checkpoints(tmp_path / "checkpoints") == [saved]
  with_replay = {p.name for p in (saved.path / "replay").iterdir()}
  assert "meta.json" in with_replay
