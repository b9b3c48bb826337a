"""A setting's bounds, beside its default."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bounds:
  """What numbers a setting may have, beside those that its type excludes."""

  at_least: float | None = None
  above: float | None = None
  at_most: float | None = None

  def fault(self, value: float, most: float) -> str:
    """What was expected, where the value is not it; "" where it is."""
    low, high = self.at_least, self.at_most
    # NaN fails every comparison.
    if low is not None and high is not None:
      return "" if low <= value <= high else f"between {low} and {high}"
    if self.above is not None:
      ok, expected = value > self.above, f"more than {self.above}"
    else:
      ok, expected = value >= (low or 0), f"at least {low or 0}"
    if value > most:
      expected += f" and at most {most}"
    return "" if ok and value <= most else expected


def setting(
  default: Any,
  *,
  at_least: float | None = None,
  above: float | None = None,
  at_most: float | None = None,
) -> Any:
  """A number with its default and its bounds."""
  bounds = Bounds(at_least, above, at_most)
  return dataclasses.field(default=default, metadata={"bounds": bounds})
