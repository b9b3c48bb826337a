"""An exported agent: settings and parameters alone, in a folder to give away.

    config.json   the run's settings
    exported.json    format, what the world says of itself, updates, steps
    params.npz    an array for each parameter, by its path in the tree
    README.md     the model card, for people

No optimiser, no replay; and no EnvPool is needed to load it, since what the
world says of itself is written down. Plain arrays and JSON: reading runs no
code.
"""

import json
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

from r2d2_jax.config import Config, first_line
from r2d2_jax.system.storage.arrays import load_arrays, save_arrays
from r2d2_jax.system.storage.checkpoints import CheckpointError
from r2d2_jax.system.storage.files import read_text, replace_file
from r2d2_jax.system.storage.rundir import EXPORT_FILE, write_config
from r2d2_jax.types import EnvSpec, ObsPart, Params

# Raise it where an older reader would misunderstand. 2: with action masks or
# observations of several parts; what has neither is still written as 1.
_FORMAT = 2
_PARAMS_FILE = "params.npz"


class Exported(NamedTuple):
  """What an exported folder says of its agent, without the parameters."""

  path: pathlib.Path
  spec: EnvSpec
  num_updates: int
  steps: int


def write_exported(
  out: pathlib.Path,
  *,
  config: Config,
  spec: EnvSpec,
  params: Params,
  num_updates: int,
  steps: int,
) -> None:
  """Writes the folder's files but the card; exported.json, the mark, last.

  Args:
    out: an empty directory.
    config: the run's settings; its directory is left out.
    spec: of the world that it was trained in.
    params: host or device arrays.
    num_updates, steps: that it was trained for.

  Raises:
    OSError: it cannot be written.
  """
  write_config(out, config.updated({"run.run_dir": ""}))
  save_arrays(out / _PARAMS_FILE, _by_path(jax.device_get(params)))
  record = {
    "format": _FORMAT if spec.action_mask or spec.obs_parts else 1,
    "num_updates": num_updates,
    "steps": steps,
    "obs_shape": list(spec.obs_shape),
    "obs_dtype": np.dtype(spec.obs_dtype).name,
    "num_actions": spec.num_actions,
    "frame_skip": spec.frame_skip,
  }
  if spec.action_mask:
    record["action_mask"] = True
  if spec.obs_parts:
    record["obs_parts"] = [
      {"shape": list(part.shape), "dtype": np.dtype(part.dtype).name}
      for part in spec.obs_parts
    ]
  text = json.dumps(record, indent=1) + "\n"
  replace_file(out / EXPORT_FILE, text.encode())


def read_exported(directory: pathlib.Path) -> Exported | None:
  """What an exported folder says of its agent; None where it is no such folder.

  Raises:
    CheckpointError: exported.json is damaged, or of another format.
  """
  path = directory / EXPORT_FILE
  if not path.exists():
    return None
  try:
    record = json.loads(read_text(path))
    if record["format"] not in range(1, _FORMAT + 1):
      raise CheckpointError(
        f"{path}: expected format 1 to {_FORMAT}, got {record['format']!r}; it"
        " was written by another version of this program: use that one"
      )
    numbers = [
      record[name]
      for name in ("num_actions", "frame_skip", "num_updates", "steps")
    ]
    shape, dtype = record["obs_shape"], np.dtype(record["obs_dtype"])
    parts = tuple(
      ObsPart(tuple(part["shape"]), np.dtype(part["dtype"]))
      for part in record.get("obs_parts", ())
    )
    for number in (*numbers, *shape, *(n for part in parts for n in part[0])):
      if type(number) is not int or number < 0:
        raise ValueError(f"expected whole numbers, got {number!r}")
  # RecursionError: JSON of a thousand brackets.
  except (
      OSError, ValueError, KeyError, TypeError, RecursionError
  ) as error:  # fmt: skip
    raise _damaged(path, error) from error
  num_actions, frame_skip, num_updates, steps = numbers
  spec = EnvSpec(
    tuple(shape),
    dtype,
    num_actions,
    frame_skip,
    action_mask=bool(record.get("action_mask", False)),
    obs_parts=parts,
  )
  return Exported(directory, spec, num_updates, steps)


def read_params(exported: Exported, like: Params) -> Params:
  """The parameters.

  Args:
    exported: from `read_exported`.
    like: arrays, or their shapes and dtypes, in the same structure.

  Raises:
    CheckpointError: they belong to another network, are not finite, or cannot
      be read.
  """
  path = exported.path / _PARAMS_FILE
  try:
    arrays = load_arrays(path)
    expected = _by_path(like)
    for name in sorted({*arrays, *expected}):
      asked, found = (_described(x.get(name)) for x in (expected, arrays))
      if asked != found:
        raise ValueError(
          f"{name}: the settings in config.json expect {asked}, got {found}"
        )
    for name, array in arrays.items():
      if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise _damaged(path, error) from error
  return jax.tree.unflatten(
    jax.tree.structure(like), [arrays[name] for name in expected]
  )


def _by_path(tree: Any) -> dict[str, Any]:
  """The leaves by their paths: 'params/torso/Dense_0/kernel'."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def _described(array: Any) -> str:
  return "none" if array is None else f"{array.dtype} {list(array.shape)}"


def _damaged(path: pathlib.Path, error: BaseException) -> CheckpointError:
  return CheckpointError(
    f"cannot read {path}: {first_line(error)}; export the agent again"
  )
