"""Reading, writing and removing of the files in a run's directory.

Runs of strangers can be resumed (docs/security.md). So nothing here writes
through a link that lies in such a directory, nor waits for the other end of a
pipe.
"""

import errno
import os
import pathlib
import shutil
import stat
from typing import BinaryIO

# Ends the name of what is being written or removed.
PARTIAL = ".partial"


def open_to_read(path: pathlib.Path) -> BinaryIO:
  """Opens a file; links are followed.

  Raises:
    OSError: there is none, or it is a pipe, a device or a directory.
  """
  return _open(path, os.O_RDONLY)


def read_text(path: pathlib.Path) -> str:
  """The whole text of a file, without the mark that spreadsheets put in front.

  Raises:
    OSError: as `open_to_read`.
    ValueError: it is no text.
  """
  with open_to_read(path) as file:
    return file.read().decode("utf-8-sig")


def open_to_write(path: pathlib.Path, *, append: bool = False) -> BinaryIO:
  """Opens a file, a new one where there is none.

  Args:
    path: of the file.
    append: keep what is in it, and write behind that.

  Raises:
    OSError: it is a link, a pipe, a device or a directory, or cannot be
      written.
  """
  flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
  try:
    file = _open(path, flags | (os.O_APPEND if append else 0))
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise OSError(
        f"{path} is a link: expected a file of the run's own; remove the link"
      ) from error
    raise
  if not append:
    file.truncate()  # not before it is known to be a file
  return file


def replace_file(path: pathlib.Path, data: bytes) -> None:
  """Writes a whole file: if the process is killed it is the old or the new.

  Raises:
    OSError: it cannot be written; the old one is as it was.
  """
  new = path.with_name(f"{path.name}{PARTIAL}")
  try:
    with open_to_write(new) as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    new.replace(path)
  except OSError:
    new.unlink(missing_ok=True)
    raise


def remove(path: pathlib.Path) -> None:
  """Removes a file, a link (not what it leads to), a directory; or nothing.

  Raises:
    OSError: it could not be removed.
  """
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _open(path: pathlib.Path, flags: int) -> BinaryIO:
  # Without O_NONBLOCK a pipe would wait here for its other end.
  descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise OSError(f"{path} is a directory, a pipe or a device: expected a file")
  return os.fdopen(descriptor, "rb" if flags & os.O_WRONLY == 0 else "wb")
