"""Exported agents on the Hugging Face Hub: their folders, sent and fetched.

"hub:owner/name" stands for the folder of an exported agent there,
"hub:owner/name@revision" for one of its versions. Sent and fetched are the four
files of `exported`, no others: plain arrays, JSON and text. Who may write where
is the library's matter: it knows its own login. The only importer of
huggingface_hub.
"""

import importlib
import pathlib
import re
from typing import Any

from r2d2_jax.config import (
  ConfigError,
  MissingPackageError,
  UserError,
  first_line,
)

PREFIX = "hub:"
FILES = ("README.md", "config.json", "exported.json", "params.npz")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class HubError(UserError):
  """The Hub did not give or take an agent: says which, and why."""


def check_hub_name(flag: str, name: str) -> None:
  """Refuses, before hours of work, what cannot be sent.

  Raises:
    ConfigError: the name is not "owner/name".
    MissingPackageError: huggingface_hub is not installed.
  """
  if not _NAME.fullmatch(name):
    raise ConfigError(f"{flag}: expected owner/name, got {name!r}")
  _library()


def fetched(run_dir: str | pathlib.Path) -> pathlib.Path:
  """The folder that is meant: itself, or where a "hub:" name was fetched to.

  What was fetched before is there already, if it has not changed.

  Raises:
    ConfigError: a "hub:" name is not "hub:owner/name".
    MissingPackageError: huggingface_hub is not installed.
    HubError: there is no such agent, or the Hub cannot be reached.
  """
  if not str(run_dir).startswith(PREFIX):
    return pathlib.Path(run_dir)
  name, _, revision = str(run_dir).removeprefix(PREFIX).partition("@")
  if not _NAME.fullmatch(name):
    raise ConfigError(
      f"expected hub:owner/name or hub:owner/name@revision, got {run_dir}"
    )
  library = _library()
  try:
    folder = library.snapshot_download(
      name, revision=revision or None, allow_patterns=list(FILES)
    )
  except Exception as error:  # those of the library, and of its connections
    raise HubError(
      f"{run_dir} cannot be fetched: {type(error).__name__}:"
      f" {first_line(error)}"
    ) from error
  folder = pathlib.Path(folder)
  if missing := [name for name in FILES[1:] if not (folder / name).is_file()]:
    raise HubError(
      f"{run_dir} holds no exported agent: expected {', '.join(FILES[1:])},"
      f" got no {' and no '.join(missing)}"
    )
  return folder


def push(folder: pathlib.Path, name: str) -> None:
  """Sends an exported agent's files; the repository is made if there is none.

  Args:
    folder: of the exported agent.
    name: "owner/name".

  Raises:
    MissingPackageError: huggingface_hub is not installed.
    HubError: the Hub did not take it; the folder is as it was.
  """
  library = _library()
  try:
    library.create_repo(name, exist_ok=True)
    library.upload_folder(
      repo_id=name,
      folder_path=str(folder),
      allow_patterns=list(FILES),
      commit_message="An agent of R2D2",
    )
  except Exception as error:  # those of the library, and of its connections
    raise HubError(
      f"{folder} was written, but not sent to {name}: {type(error).__name__}:"
      f" {first_line(error)}; once that is mended: hf upload {name} {folder} ."
    ) from error


def card_metadata(task: str) -> str:
  """The head of a model card by which the Hub files it: YAML."""
  return f"""---
library_name: r2d2_jax
pipeline_tag: reinforcement-learning
tags:
- reinforcement-learning
- deep-reinforcement-learning
- r2d2
- {task!r}
---
"""


def _library() -> Any:
  try:
    return importlib.import_module("huggingface_hub")
  except ImportError as error:
    raise MissingPackageError(
      "agents on the Hugging Face Hub need huggingface_hub, which cannot be"
      f" imported here ({error}): pip install 'r2d2_jax[hub]'"
    ) from error
