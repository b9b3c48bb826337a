"""What the record of a run's checkpoint holds, and what is wrong with one."""

from collections.abc import Callable
import math
import reprlib
from typing import Any

# What a value of a record must be, in words and as a question.
_Kind = tuple[str, Callable[[Any], bool]]
_COUNT: _Kind = (
  "a whole number from 0 to 2^53",
  lambda x: type(x) is int and 0 <= x <= 2**53,
)
_NUMBER: _Kind = (
  "a number",
  lambda x: type(x) is float or type(x) is int and abs(x) <= 2**53,
)
_NUMBERS: _Kind = (
  "a list of numbers",
  lambda x: isinstance(x, list) and all(map(_NUMBER[1], x)),
)
# What a run's record holds, beside what every checkpoint's does. More is fine.
_RECORDED = {
  "steps": _COUNT,
  # As many as `world_seed` takes, and more than anyone starts.
  "starts": (
    "a whole number from 0 to 2^31",
    lambda x: type(x) is int and 0 <= x <= 2**31,
  ),
  "exact": ("true or false", lambda x: type(x) is bool),
  "config": (
    "settings by section",
    lambda x: (
      isinstance(x, dict)
      and all(isinstance(fields, dict) for fields in x.values())
    ),
  ),
  "ratio": {
    "env_steps": _COUNT,
    "trained_rows": _COUNT,
    "start_steps": (
      "null or a whole number from 0 to 2^53",
      lambda x: x is None or _COUNT[1](x),
    ),
  },
  "report": {
    "minutes": (
      "a finite number from 0 on",
      lambda x: _NUMBER[1](x) and 0 <= x < math.inf,
    ),
    "episodes": _COUNT,
    "returns": _NUMBERS,
    "exploit_returns": _NUMBERS,
    "eval_return": _NUMBER,
  },
}
# Missing in what earlier versions saved.
_RECORDED_LATER = {
  "log_rows": _COUNT,
  "prng_impl": ("a name", lambda x: isinstance(x, str)),
}


def fault_of(record: Any) -> str | None:
  """What is wrong with a run's record, in words; None if nothing is."""
  later = {k: kind for k, kind in _RECORDED_LATER.items() if k in record}
  return _fault(record, _RECORDED | later, "")


def is_number(value: Any) -> bool:
  """Whether it is a number of Python that a record may hold."""
  return _NUMBER[1](value)


def _fault(value: Any, expected: dict | _Kind, name: str) -> str | None:
  """What is wrong with a value of a record, its name in front; or None."""
  if not isinstance(expected, dict):
    words, fits = expected
    if fits(value):
      return None
    return f"{name}: expected {words}, got {reprlib.repr(value)}"
  if not isinstance(value, dict):
    return f"{name}: expected values by name, got {reprlib.repr(value)}"
  for key, inner in expected.items():
    inner_name = f"{name}.{key}" if name else key
    if key not in value:
      return f"it lacks {inner_name}"
    if fault := _fault(value[key], inner, inner_name):
      return fault
  return None
