"""Factories by name: an entry of a table, or a user's own, "module:name".

So a run's settings can name code that is not in this package, and whoever reads
the run's directory later finds it again.
"""

from collections.abc import Mapping
import importlib
import os
import sys
from typing import Any

from r2d2_jax.config import ConfigError

# Begins a setting that stands for a function without an import path.
_UNNAMED = "not importable: "


def factory(setting: str, name: str, table: Mapping[str, Any]) -> Any:
  """What a setting names.

  Args:
    setting: "section.name", for the error.
    name: a key of the table, or "package.module:name"; the module is looked for
      in the current directory too.
    table: what the package itself brings.

  Raises:
    ConfigError: neither a key nor a path of that form; there is no such module,
      or no such name in it. An error inside the module keeps its traceback.
  """
  if name in table:
    return table[name]
  if ":" not in name:
    raise ConfigError(
      f"{setting}: expected one of {', '.join(table)}, or"
      f" 'package.module:name' of your own, got {name!r}"
    )
  return load(setting, name)


def is_path(name: str) -> bool:
  """Whether a name is of the form "package.module:name"."""
  return ":" in name


def load(setting: str, path: str) -> Any:
  """The object at "package.module:name"; see `factory`."""
  if path.startswith(_UNNAMED):
    raise ConfigError(
      f"{setting}: this run was made with {path.removeprefix(_UNNAMED)}, to"
      " which no import path leads; put it at the top level of a module, or"
      " give it as an argument again"
    )
  module_name, _, attribute = path.partition(":")
  found = import_module(setting, module_name, path)
  for part in attribute.split("."):
    if not hasattr(found, part):
      raise ConfigError(
        f"{setting}: expected 'package.module:name' that can be imported, got"
        f" {path!r}: {module_name} has no {attribute!r}"
      )
    found = getattr(found, part)
  return found


def import_module(setting: str, module_name: str, path: str) -> Any:
  """A module, looked for in the current directory too.

  Args:
    setting: "section.name", for the error.
    module_name: "package.module".
    path: the whole of what the setting says, for the error.

  Raises:
    ConfigError: there is no such module. An error inside it keeps its
      traceback.
  """
  if os.getcwd() not in sys.path:  # an installed command starts elsewhere
    sys.path.insert(0, os.getcwd())
  try:
    return importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    # One that the user's module misses is the user's, traceback and all.
    if error.name and not f"{module_name}.".startswith(f"{error.name}."):
      raise
    raise ConfigError(
      f"{setting}: expected 'package.module:name' that can be imported, got"
      f" {path!r}: no module named {error.name!r} in {os.getcwd()} or among"
      " what is installed; start from the directory that holds it"
    ) from error


def setting_of(function: Any) -> str:
  """What a run's settings say of a function that it was given as an argument.

  Its path; of one that has none, something that `load` can explain.
  """
  return path_of(function) or f"{_UNNAMED}{function!r:.120}"


def path_of(function: Any) -> str:
  """The "package.module:name" by which `load` finds a function again.

  "" where there is none: a lambda, a partial, something local or of __main__.
  """
  module = getattr(function, "__module__", None)
  name = getattr(function, "__qualname__", "")
  found = sys.modules.get(module or "")
  for part in name.split("."):
    found = getattr(found, part, None)
  if found is not function or module == "__main__":
    return ""
  return f"{module}:{name}"
