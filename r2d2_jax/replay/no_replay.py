"""A run's replay where nothing is replayed: A3C's workers keep no items."""

import pathlib


class NoReplay:
  """What stands in a replay's place where nothing is kept."""

  def size(self) -> int:
    """None."""
    return 0

  def check_alive(self, timeout_seconds: float) -> None:
    """There is nothing that could die."""

  def save(self, directory: pathlib.Path) -> None:
    """Writes nothing."""

  def close(self) -> None:
    """There is nothing to be closed."""
