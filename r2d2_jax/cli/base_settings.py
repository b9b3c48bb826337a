"""What a command line's settings stand over: a preset, or an earlier run's."""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import NamedTuple

from r2d2_jax.cli.command import with_home
from r2d2_jax.config import Config, ConfigError, from_dict

_USUAL = "laptop"


class Base(NamedTuple):
  """Where a command line begins."""

  name: str  # of the preset, or of the earlier run's directory
  config: Config  # without a directory
  arguments: list[str]  # the rest of the command line
  file: pathlib.Path | None  # the config.json, where it was one


def take_base(
  arguments: list[str], presets: Mapping[str, Callable[[], Config]]
) -> Base:
  """Takes `--preset NAME`, or `--config FILE`, out of the arguments.

  Args:
    arguments: without the program's name; either may stand anywhere.
    presets: by name; without either flag it is 'laptop'.

  Raises:
    ConfigError: both, an unknown preset, or a file that is no configuration.
  """
  preset, arguments = _taken("--preset", with_home(arguments))
  file, arguments = _taken("--config", arguments)
  if preset is not None and file is not None:
    raise ConfigError("--config: expected it or --preset, got both; give one")
  if file is not None:
    path = pathlib.Path(file)
    return Base(path.absolute().parent.name, _read(path), arguments, path)
  preset = _USUAL if preset is None else preset
  if preset not in presets:
    raise ConfigError(
      f"--preset: expected one of {', '.join(presets)}, got {preset!r}"
    )
  return Base(preset, presets[preset](), arguments, None)


def _taken(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
  """Takes `--flag VALUE` or `--flag=VALUE` out of the arguments."""
  value, rest = None, []
  given = iter(arguments)
  for argument in given:
    if argument == flag:
      value = next(given, "")
    elif argument.startswith(f"{flag}="):
      value = argument.partition("=")[2]
    else:
      rest.append(argument)
  return value, rest


def _read(path: pathlib.Path) -> Config:
  """The settings of an earlier run; its directory is not taken over."""
  try:
    config = from_dict(json.loads(path.read_text()))
  # RecursionError: JSON of a thousand brackets.
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise ConfigError(
      f"--config: expected the config.json of a run, got {path}: {error}"
    ) from error
  return config.updated({"run.run_dir": ""})
