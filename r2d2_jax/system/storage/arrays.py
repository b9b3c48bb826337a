"""Arrays by name, of several parts in one flat file: 'part/name'."""

import math
import os
import pathlib
import zipfile

import numpy as np

from r2d2_jax.system.storage.files import open_to_read

Arrays = dict[str, np.ndarray]

_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def save_arrays(path: pathlib.Path, arrays: Arrays) -> None:
  """Writes an .npz, as `np.savez` does.

  That one leaves its archive open where the disk is full; collected later, it
  tries to finish it and prints a traceback.
  """
  with zipfile.ZipFile(path, "w") as archive:
    for name, array in arrays.items():
      with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def load_arrays(path: pathlib.Path) -> Arrays:
  """Reads what `save_arrays` wrote.

  Raises:
    OSError, ValueError, zipfile.BadZipFile: it is something else, or an array
      says that it is larger than what is there of it: before its memory is
      taken.
  """
  with open_to_read(path) as file:
    with zipfile.ZipFile(file) as archive:
      there = os.fstat(file.fileno()).st_size
      for member in archive.infolist():
        _check_size(archive, member, there)
    file.seek(0)
    with np.load(file, allow_pickle=False) as saved:
      return dict(saved)


def _check_size(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo, archive_bytes: int
) -> None:
  if member.compress_type != zipfile.ZIP_STORED:
    raise ValueError(
      f"{member.filename}: expected an array without compression"
    )
  if member.file_size > archive_bytes:
    raise ValueError(
      f"{member.filename}: {member.file_size} bytes in an archive of"
      f" {archive_bytes}"
    )
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
      raise ValueError(f"{member.filename}: unknown format {version}")
    shape, _, dtype = _HEADERS[version](file)
    expected, found = (
      math.prod(shape) * dtype.itemsize,
      member.file_size - file.tell(),
    )
  if dtype.hasobject or expected != found:
    raise ValueError(
      f"{member.filename}: {dtype} {list(shape)} takes {expected} bytes, found"
      f" {found}"
    )
