"""A configuration as plain dicts and back, those of older versions included."""

import dataclasses
from typing import Any

from r2d2_jax.config.checks import check_types
from r2d2_jax.config.config import RENAMED, SECTIONS, Config, shown
from r2d2_jax.config.errors import ConfigError


def to_dict(config: Config) -> dict:
  """The configuration as plain nested dicts, for JSON."""
  return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
  """The inverse of `to_dict`, also of an older version's.

  What is missing takes its default.

  Raises:
    ConfigError: a section or setting is unknown, or of the wrong type.
  """
  values = with_new_names(values)
  if not isinstance(values, dict):
    raise ConfigError(
      f"expected the sections {', '.join(SECTIONS)}, got {shown(values)}"
    )
  sections = {}
  for section, fields in values.items():
    if section not in SECTIONS:
      raise ConfigError(
        f"unknown section {shown(section)}; expected one of"
        f" {', '.join(SECTIONS)}"
      )
    if not isinstance(fields, dict):
      raise ConfigError(
        f"{section}: expected settings by name, got {shown(fields)}"
      )
    names = {f.name for f in dataclasses.fields(SECTIONS[section])}
    if unknown := sorted(set(fields) - names):
      raise ConfigError(f"{section}: unknown settings {shown(unknown)}")
    # JSON has no tuples.
    fields = {
      k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }
    sections[section] = SECTIONS[section](**fields)
  config = Config(**sections)
  check_types(config)
  return config


def with_new_names(values: Any) -> Any:
  """Settings as an older version wrote them (`to_dict`), by today's names."""
  if not isinstance(values, dict):
    return values
  renamed = {
    section: dict(fields) if isinstance(fields, dict) else fields
    for section, fields in values.items()
  }
  for old, new in RENAMED.items():
    section, _, field = old.partition(".")
    fields = renamed.get(section)
    if isinstance(fields, dict) and field in fields:
      to_section, _, to_field = new.partition(".")
      renamed.setdefault(to_section, {})[to_field] = fields.pop(field)
  return renamed
