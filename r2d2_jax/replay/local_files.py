"""The files of a saved local replay, and what they may hold."""

from collections.abc import Iterable
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import MAX_WEIGHT, wrong_rows
from r2d2_jax.replay.items import (
  Block,
  Item,
  core_from_leaves,
  core_leaves,
  new_uid,
  stored_specs,
  with_dtype,
)
from r2d2_jax.replay.meta import read_meta, settings_of, unreadable, write_meta


class Contents(NamedTuple):
  """What a local replay holds, the oldest item first."""

  items: list[Item]
  weights: np.ndarray  # float64 [items], priorities to the exponent
  times_sampled: np.ndarray  # int32 [items]
  num_inserted: int
  num_draws: int


class LocalFiles:
  """Writes and reads the contents of a local replay.

  Args:
    config: lengths of items, capacity.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
  """

  def __init__(
    self, config: Config, spec: types.EnvSpec, core_state: types.CoreState
  ):
    self._capacity = config.replay.capacity_sequences
    self._is_queue = config.replay.order == "fifo"
    self._block_rows = config.block_rows
    self._item_blocks = config.item_rows // config.block_rows
    self._num_actions = spec.num_actions
    self._specs = stored_specs(config, spec, core_state)
    self._core_state = core_state
    self._leaf_specs = [(x.shape[1:], x.dtype) for x in core_leaves(core_state)]
    self._settings = settings_of("local", config, self._specs, core_state)

  def write(self, directory: pathlib.Path, contents: Contents) -> None:
    """Writes them; a block that items share is there once.

    Raises:
      OSError: they could not be written.
    """
    items = contents.items
    blocks = {block.uid: block for item in items for block in item.blocks}
    place = {uid: i for i, uid in enumerate(blocks)}
    counts = {
      "size": len(items),
      "num_inserted": contents.num_inserted,
      "num_draws": contents.num_draws,
      "num_blocks": len(blocks),
    }
    shapes = self._shapes(counts)

    def write(name: str, arrays: Iterable[Any]) -> None:
      _write_stack(directory / f"{name}.npy", *shapes[name], arrays)

    write("weights", [contents.weights])
    write("times_sampled", [contents.times_sampled])
    write(
      "item_blocks", ([place[b.uid] for b in item.blocks] for item in items)
    )
    for name in self._specs:
      write(name, (getattr(block, name) for block in blocks.values()))
    for k in range(len(self._leaf_specs)):
      write(
        f"core_state_{k}", (core_leaves(item.core_state)[k] for item in items)
      )
    write_meta(directory, self._settings, counts)

  def read(self, directory: pathlib.Path) -> Contents:
    """The inverse of `write`; blocks get new uids.

    Raises:
      ReplayError: they are not whole, or of other settings.
    """
    counts = read_meta(
      directory,
      self._settings,
      ("size", "num_inserted", "num_draws", "num_blocks"),
    )
    size = min(counts["num_inserted"], self._capacity)
    if self._is_queue:  # which may have been read
      size = min(counts["size"], size)
    if counts["size"] != size:
      raise unreadable(
        directory,
        f"expected {size} items, since "
        f"{counts['num_inserted']} were inserted; got "
        f"{counts['size']}",
      )
    saved = {
      name: _read_stack(_saved_file(directory, name), shape, dtype)
      for name, (shape, dtype) in self._shapes(counts).items()
    }
    self._check(directory, saved, counts["num_blocks"])
    # The actor's values are not kept: initial priorities were computed long
    # ago.
    no_q = np.zeros((self._block_rows, 0), np.float32)
    # Copies, each of one block: rows leave one by one, a whole file would not.
    blocks = [
      Block(
        **{name: saved[name][i].copy() for name in self._specs},
        q_t=no_q,
        core_state=None,
        uid=new_uid(),
      )
      for i in range(counts["num_blocks"])
    ]
    leaves = [saved[f"core_state_{k}"] for k in range(len(self._leaf_specs))]
    items = [
      Item(
        tuple(blocks[j] for j in places),
        core_from_leaves([leaf[i].copy() for leaf in leaves], self._core_state),
      )
      for i, places in enumerate(saved["item_blocks"])
    ]
    return Contents(
      items,
      saved["weights"],
      saved["times_sampled"],
      counts["num_inserted"],
      counts["num_draws"],
    )

  def _check(self, directory, saved, num_blocks):
    """Refuses contents that no replay writes, where they are small."""

    def check(name, ok, expected):
      if not ok.all():
        raise unreadable(
          directory / f"{name}.npy",
          f"expected {expected}, got {saved[name][~ok].flat[0]}",
        )

    weights, places = saved["weights"], saved["item_blocks"]
    check(
      "weights",
      (weights >= 0.0) & (weights <= MAX_WEIGHT),
      f"weights in [0, {MAX_WEIGHT}]",
    )
    check("times_sampled", saved["times_sampled"] >= 0, "counts >= 0")
    check(
      "item_blocks",
      (places >= 0) & (places < num_blocks),
      f"places of blocks in [0, {num_blocks})",
    )
    for k in range(len(self._leaf_specs)):
      name = f"core_state_{k}"
      if jax.numpy.issubdtype(saved[name].dtype, np.floating):  # bfloat16, too
        check(name, np.isfinite(saved[name]), "finite states")
    if fault := wrong_rows(saved, self._num_actions):
      raise unreadable(directory, fault)

  def _shapes(
    self, counts: dict[str, int]
  ) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """File name -> (shape, dtype)."""
    size = counts["size"]
    blocks = (counts["num_blocks"], self._block_rows)
    return (
      {
        "weights": ((size,), np.dtype(np.float64)),
        "times_sampled": ((size,), np.dtype(np.int32)),
        "item_blocks": ((size, self._item_blocks), np.dtype(np.int64)),
      }
      | {
        name: (blocks + shape, dtype)
        for name, (shape, dtype) in self._specs.items()
      }
      | {
        f"core_state_{k}": ((size,) + shape, dtype)
        for k, (shape, dtype) in enumerate(self._leaf_specs)
      }
    )


def _write_stack(path, shape, dtype, arrays):
  """The arrays one after the other as one .npy file of this shape."""
  # Not through a memory map: there, a full disk kills the process (SIGBUS).
  with open(path, "wb") as file:
    np.lib.format.write_array_header_1_0(
      file,
      {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
      },
    )
    for array in arrays:
      file.write(np.asarray(array, dtype).tobytes())


def _saved_file(directory, name):
  """Where `save` put it, today or in version 0.1."""
  path, older = directory / f"{name}.npy", directory / "row_lstm.npy"
  return older if name == "row_carry" and older.exists() else path


def _read_stack(path, shape, dtype):
  """What `_write_stack` wrote, read from the disk as it is used."""
  try:
    if not path.is_file():  # opening a pipe would wait for its writer
      raise FileNotFoundError("expected a file")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except Exception as error:  # numpy raises all kinds on a damaged header
    raise unreadable(path, error) from error
  array = with_dtype(array, dtype)
  if (array.shape, array.dtype) != (shape, dtype):
    raise unreadable(
      path,
      f"expected {dtype} {list(shape)}, got {array.dtype} {list(array.shape)}",
    )
  return np.asarray(array)
