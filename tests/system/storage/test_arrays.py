"""Arrays in a file: whole, or refused before their memory is taken."""

import gc
import resource
import sys
import zipfile

import numpy as np
import pytest

from r2d2_jax.system.loops.arrays import flat, nested
from r2d2_jax.system.storage.arrays import load_arrays, save_arrays

_PARTS = {
  "lanes": {"0": np.arange(6, dtype=np.uint32).reshape(3, 2)},
  "world": {"actions": np.zeros((0, 4), np.uint8), "check": np.array(7)},
}


def test_what_was_saved_comes_back(tmp_path):
  save_arrays(tmp_path / "a.npz", flat(_PARTS))
  for loaded in (
    load_arrays(tmp_path / "a.npz"),
    dict(np.load(tmp_path / "a.npz", allow_pickle=False)),
  ):
    found = nested(loaded)
    assert found.keys() == _PARTS.keys()
    for part, arrays in _PARTS.items():
      for name, array in arrays.items():
        np.testing.assert_array_equal(found[part][name], array)
        assert found[part][name].dtype == array.dtype


def test_what_numpy_saved_is_read(tmp_path):
  np.savez(tmp_path / "a.npz", **flat(_PARTS))
  assert load_arrays(tmp_path / "a.npz").keys() == flat(_PARTS).keys()


def _forged(path, shape, *, size=None, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    with archive.open("a.npy", "w") as file:
      np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
      )
      file.write(b"\0" * 16)
    if size is not None:
      archive.infolist()[0].file_size = size


def test_a_shape_beyond_what_is_there_is_refused(tmp_path):
  _forged(tmp_path / "a.npz", (2,))
  assert load_arrays(tmp_path / "a.npz")["a"].tolist() == [0, 0]
  _forged(tmp_path / "a.npz", (2**45,))
  with pytest.raises(
    ValueError, match=r"a.npy: float64 \[35184372088832\] takes"
  ):
    load_arrays(tmp_path / "a.npz")
  # The archive's own list may lie as well.
  _forged(tmp_path / "a.npz", (2**45,), size=8 * 2**45 + 128)
  with pytest.raises(ValueError, match="bytes in an archive of"):
    load_arrays(tmp_path / "a.npz")
  _forged(tmp_path / "a.npz", (2,), compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(ValueError, match="without compression"):
    load_arrays(tmp_path / "a.npz")


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
  """Nothing is left open that tries again, and complains, when collected."""
  said = []
  monkeypatch.setattr(sys, "unraisablehook", said.append)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
  try:
    with pytest.raises(OSError, match="File too large"):
      save_arrays(tmp_path / "a.npz", {"a": np.zeros(10_000), "b": np.zeros(9)})
    gc.collect()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not said
