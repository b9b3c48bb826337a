"""Items as plain arrays and back, for those that wait to be inserted."""

import numpy as np

from r2d2_jax import types
from r2d2_jax.replay.items import (
  Block,
  Item,
  core_from_leaves,
  core_leaves,
  new_uid,
  with_dtype,
  with_new_names,
)

_ROWS = [f for f in Block._fields if f not in ("core_state", "uid")]


def pack_items(items: list[Item]) -> dict[str, np.ndarray]:
  """All rows of the items [items, blocks, R, ...] and their states."""
  if not items:
    return {}
  packed = {
    f"rows/{name}": np.stack(
      [np.stack([getattr(b, name) for b in item.blocks]) for item in items]
    )
    for name in _ROWS
    if getattr(items[0].blocks[0], name).size  # else the run has none
  }
  states = [core_leaves(item.core_state) for item in items]
  packed |= {
    f"state/{i}": np.stack(x) for i, x in enumerate(zip(*states, strict=True))
  }
  return packed


def unpack_items(
  packed: dict[str, np.ndarray], core_state: types.CoreState
) -> list[Item]:
  """The inverse of `pack_items`.

  What items shared is there twice afterwards: it is about a handful of items.

  Args:
    packed: the arrays.
    core_state: an example, with one leading dimension, for its structure.
  """
  if not packed:
    return []
  packed = with_new_names(packed)
  # What an earlier version packed may lack fields, which were not in use.
  names = [name for name in _ROWS if f"rows/{name}" in packed]
  like = core_leaves(core_state)
  num_items, num_blocks = packed["rows/valid_t"].shape[:2]
  items = []
  for i in range(num_items):
    state = core_from_leaves(
      [
        with_dtype(packed[f"state/{k}"][i], x.dtype) for k, x in enumerate(like)
      ],
      core_state,
    )
    blocks = tuple(
      Block(
        **{name: packed[f"rows/{name}"][i, j] for name in names},
        core_state=state if j == 0 else None,
        uid=new_uid(),
      )
      for j in range(num_blocks)
    )
    items.append(Item(blocks, state))
  return items
