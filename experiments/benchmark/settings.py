"""What the command line settles for all legs."""

from typing import NamedTuple


class Settings(NamedTuple):
  """Handed to every leg's `measure`."""

  toy: bool  # smallest sizes: shows that the legs run, measures nothing
  torch_python: str  # interpreter that has torch
