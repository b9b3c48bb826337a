"""Arrays of several parts, and of trees, under one name each, and back."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2d2_jax.replay.items import with_dtype
from r2d2_jax.types import ActorOutput, CoreState

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


def tree_to_arrays(tree: Any) -> dict[str, np.ndarray]:
  """The leaves of a tree on the host, by number; keys as their bits."""
  leaves = [
    jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)
  ]
  return {str(i): x for i, x in enumerate(jax.device_get(leaves))}


def tree_from_arrays(arrays: dict[str, np.ndarray], *, like: Any) -> Any:
  """The inverse of `tree_to_arrays`, to a tree like `like`.

  Raises:
    ValueError: its shapes are others.
  """
  leaves, structure = jax.tree.flatten(like)
  loaded = []
  for i, old in enumerate(leaves):
    new = with_dtype(arrays[str(i)], old.dtype)
    new = (
      jax.random.wrap_key_data(jnp.asarray(new))
      if _is_key(old)
      else jax.device_put(new)
    )
    if new.shape != old.shape:
      raise ValueError(
        f"expected an actors' state of shape {old.shape}, got {new.shape}:"
        " resume with the lanes and network of the run"
      )
    loaded.append(new)
  return jax.tree.unflatten(structure, loaded)


def fetched(output: ActorOutput, rows: np.ndarray) -> ActorOutput:
  """What acting gave, on the host; the recurrent states of some rows only.

  At 256 lanes of the paper's network the states of all rows are 6.4 MB a step,
  and an item starts in a fortieth of them.

  Args:
    output: on the device, B rows.
    rows: int [K], those whose `core_state` is wanted.

  Returns:
    Numpy arrays; `core_state` is zero in the other rows.
  """
  wanted = None
  if rows.size:
    # Few sizes, so few compilations: the last row is asked for again.
    size = 1 << int(rows.size - 1).bit_length()
    padded = np.pad(rows, (0, size - rows.size), mode="edge")
    wanted = _rows_of(output.core_state, padded)
  small, wanted = jax.device_get((output._replace(core_state=None), wanted))

  def spread(like: jax.Array, *values: np.ndarray) -> np.ndarray:
    # Zeros that nobody looks at cost no memory either.
    out = np.zeros(like.shape, like.dtype)
    for value in values:
      out[rows] = value[: rows.size]
    return out

  states = (output.core_state,) if wanted is None else (
    output.core_state, wanted,
  )  # fmt: skip
  return small._replace(core_state=jax.tree.map(spread, *states))


@jax.jit
def _rows_of(core_state: CoreState, rows: jax.Array) -> CoreState:
  return jax.tree.map(lambda x: x[rows], core_state)


def _is_key(x: Any) -> bool:
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
