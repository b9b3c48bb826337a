"""An earlier benchmark.json beside what was measured now."""

import json
import pathlib
from typing import Any

from experiments.benchmark.results import Table, cell, number
from r2d2_jax.config import ConfigError, first_line

# Fewer rounds have no quartiles to speak of.
_LEAST_ROUNDS = 3


def read_benchmark(path: pathlib.Path) -> dict[str, Any]:
  """What `report.write` wrote: {"about", "legs"}.

  Raises:
    ConfigError: there is no such file, or it is another one.
  """
  try:
    read = json.loads(path.read_text())
    # Everything that is compared is looked at once.
    list(_quantities(read["legs"]))
    return {"about": dict(read["about"]), "legs": read["legs"]}
  except OSError as error:
    raise ConfigError(
      f"--compare: cannot read {path}: {error.strerror}; name the"
      " benchmark.json of an earlier run"
    ) from error
  # JSONDecodeError and UnicodeDecodeError are ValueErrors.
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConfigError(
      f"--compare: expected the benchmark.json of an earlier run, got {path}"
      f" ({first_line(error)})"
    ) from error


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Table]:
  """Ratios now / then of all quantities with a spread that both have.

  A ratio is that of the medians. Its spread goes from the smaller quartile now
  over the larger then to the larger over the smaller. A quantity has moved
  beyond noise where the ranges between the quartiles, now and then, are apart.
  Where either has fewer than three rounds nothing is said of noise.

  Args:
    old: as `read_benchmark` gives it.
    new: the same.

  Returns:
    A table for each leg; none for legs that have nothing in common.
  """
  tables: dict[str, list[tuple[str, ...]]] = {}
  before = dict(_quantities(old["legs"]))
  for (leg, name), now in _quantities(new["legs"]):
    then = before.get((leg, name))
    if then is not None:
      tables.setdefault(leg, []).append(
        (name, _shown(then), _shown(now), *_ratio(then, now))
      )
  about = old["about"]
  return [
    Table(
      f"{leg}: now / {about.get('date', 'then')}",
      ("quantity", "then", "now", "now / then", "beyond noise"),
      rows,
    )
    for leg, rows in tables.items()
  ]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """In what else the two differ: machine, versions, sizes; a line for each."""
  then, now = old["about"], new["about"]
  lines = [
    f"{name.replace('_', ' ')}: {then.get(name)} then, {now.get(name)} now"
    for name in ("processor", "cores", "python", "device", "toy")
    if then.get(name) != now.get(name)
  ]
  versions = then.get("versions", {}), now.get("versions", {})
  return lines + [
    f"{name}: {versions[0].get(name)} then, {versions[1].get(name)} now"
    for name in sorted(versions[0].keys() | versions[1].keys())
    if versions[0].get(name) != versions[1].get(name)
  ]


def _quantities(legs: dict[str, Any]):
  """((leg, name), spread as a dict) of everything that has a spread."""
  for leg, measured in legs.items():
    result = measured.get("result")
    if result is None:  # it broke down
      continue
    for comparison in result["comparisons"]:
      yield (leg, comparison["name"]), _checked(comparison["value"])
    for table in result["tables"]:
      for row in table["rows"]:
        spreads = [isinstance(x, dict) for x in row]
        if not any(spreads):
          continue
        # What stands before the first number that was measured names the row.
        names = [cell(x) for x in row[: spreads.index(True)]]
        for column, x in zip(table["columns"], row, strict=True):
          if isinstance(x, dict):
            yield (leg, f"{', '.join(names)}: {column}"), _checked(x)


def _checked(spread: dict[str, Any]) -> dict[str, Any]:
  for name in ("median", "quartile_1", "quartile_3"):
    float(spread[name])
  len(spread["values"])
  return spread


def _shown(spread: dict[str, Any]) -> str:
  return number(spread["median"])


def _ratio(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, str]:
  """'1.1 [0.98, 1.3]', and whether it moved: 'up', 'down', 'no' or '-'."""
  ends = [
    (now["median"], then["median"]),
    (now["quartile_1"], then["quartile_3"]),
    (now["quartile_3"], then["quartile_1"]),
  ]
  if min(b for _, b in ends) <= 0:
    return "-", "-"
  median, low, high = (number(a / b) for a, b in ends)
  if min(len(then["values"]), len(now["values"])) < _LEAST_ROUNDS:
    moved = "-"
  elif now["quartile_1"] > then["quartile_3"]:
    moved = "up"
  elif now["quartile_3"] < then["quartile_1"]:
    moved = "down"
  else:
    moved = "no"
  return f"{median} [{low}, {high}]", moved
