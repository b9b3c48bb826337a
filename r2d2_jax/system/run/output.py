"""Streams of output that may fail without ending the program."""

from collections.abc import Iterator
import contextlib
import os
import sys
from typing import IO, TextIO, cast

from rich.console import Console


class UnfailingStream:
  """A text stream; where it cannot be written, that is told once, and no more.

  A pipe's reader goes away, a disk is full, a terminal is closed: none of it is
  worth a run. What cannot be encoded is written with backslashes.
  """

  def __init__(self, stream: TextIO, tell: "UnfailingStream | None" = None):
    """Wraps a stream; everything else that it has is passed through.

    Args:
      stream: to write to.
      tell: where a failure is told; None tells nobody.
    """
    self._stream = stream
    self._tell = tell
    self._has_failed = False

  def __getattr__(self, name: str):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """As of any stream, but for the errors."""
    with self._attempt():
      try:
        self._stream.write(text)
      except UnicodeEncodeError:
        encoding = self._stream.encoding
        self._stream.write(
          text.encode(encoding, "backslashreplace").decode(encoding)
        )
    return len(text)

  def writelines(self, lines: list[str]) -> None:
    """As of any stream, but for the errors."""
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    """As of any stream, but for the errors."""
    with self._attempt():
      self._stream.flush()

  def finish(self) -> None:
    """Flushes; what cannot be written is given up.

    Python itself flushes its streams once more when it ends, and turns a
    failure into exit code 120.
    """
    try:
      self._stream.flush()
    except (OSError, ValueError):
      with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

  @contextlib.contextmanager
  def _attempt(self) -> Iterator[None]:
    try:
      yield
    # ValueError: it is closed.
    except (OSError, ValueError) as error:
      if not self._has_failed:
        self._has_failed = True
        if self._tell is not None:
          self._tell.write(
            f"warning: output cannot be written ({error}); going on\n"
          )
          self._tell.flush()


@contextlib.contextmanager
def unfailing(console: Console) -> Iterator[None]:
  """Within it the console's file is an `UnfailingStream`."""
  before = console.file
  # The console then follows what sys.stdout is.
  is_standard = before is (sys.stderr if console.stderr else sys.stdout)
  tell = UnfailingStream(sys.stderr) if sys.stderr is not None else None
  # A console writes to text streams; an UnfailingStream has all of one, by
  # `__getattr__`.
  stream = UnfailingStream(cast(TextIO, before), tell)
  console.file = cast(IO[str], stream)
  try:
    yield
  finally:
    if is_standard:
      # rich takes None, and begins with it; its annotation leaves it out.
      console.file = None  # pyright: ignore[reportAttributeAccessIssue]
    else:
      console.file = before
