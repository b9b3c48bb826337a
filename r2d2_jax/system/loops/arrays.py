"""Arrays of several parts under one name each, and back."""

import collections

import numpy as np

Arrays = dict[str, np.ndarray]


def flat(parts: dict[str, Arrays]) -> Arrays:
  """All arrays of all parts, the part's name in front."""
  return {
    f"{part}/{name}": array
    for part, arrays in parts.items()
    for name, array in arrays.items()
  }


def nested(arrays: Arrays) -> dict[str, Arrays]:
  """The inverse of `flat`; a part without arrays is an empty one."""
  parts: dict[str, Arrays] = collections.defaultdict(dict)
  for name, array in arrays.items():
    part, _, rest = name.partition("/")
    parts[part][rest] = array
  return parts
