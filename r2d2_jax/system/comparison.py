"""In what the settings of several runs differ."""

from collections.abc import Sequence
from typing import Any

from r2d2_jax.config import Config, to_dict


def settings_of(config: Config) -> dict[str, Any]:
  """'section.name' -> value, without section `run`: seeds and directories."""
  return {
      f"{section}.{name}": value
      for section, fields in to_dict(config).items()
      if section != "run"
      for name, value in fields.items()
  }


def differing_settings(settings: Sequence[dict[str, Any]]) -> list[str]:
  """The names whose values are not the same in all of them."""
  first, *rest = settings
  return [n for n in first if any(other[n] != first[n] for other in rest)]
