"""Checks of what the agent's functions are given: settings, order of axes.

They look at types and shapes alone, so that a compiled program is the same
without them. Where two lengths are equal no shape tells that axes were swapped;
no preset has as many items in a batch as rows in an item.
"""

from collections.abc import Mapping
from typing import Any

import jax

from r2d2_jax.config import AgentConfig, NetworkConfig
from r2d2_jax.types import AgentInputs, Array, CoreState, Sequence

_SECTIONS = {AgentConfig: "config.agent", NetworkConfig: "config.network"}


def check_config(
  config: Any, expected: type[AgentConfig] | type[NetworkConfig]
) -> None:
  """Raises TypeError where a section of the settings was meant, not this."""
  if not isinstance(config, expected):
    raise TypeError(
      f"config: expected {expected.__name__} ({_SECTIONS[expected]}), got"
      f" {type(config).__name__}"
    )


def check_items(sequence: Sequence, *, config: AgentConfig) -> None:
  """Refuses a batch whose axes are not [B, L, ...].

  B is told by `core_state`, which has no axis of rows, and L by the settings.

  Raises:
    ValueError: a field has other leading axes.
  """
  batch_size = len(sequence.core_state.frames)
  rows = config.item_rows
  fields = {
    **sequence.inputs._asdict(),
    "a_t": sequence.a_t,
    "discount_t": sequence.discount_t,
    "valid_t": sequence.valid_t,
  }
  fields = _given(fields)
  if any(x.shape[:2] != (batch_size, rows) for x in fields.values()):
    raise ValueError(
      "sequence: expected items first, then rows: [B, L, ...] with B ="
      f" {batch_size}, as in core_state, and L = {_item_words(config)} ="
      f" {rows}; got {_shapes(fields)}"
    )


def check_item_rows(
  fields: Mapping[str, Array], *, config: AgentConfig
) -> None:
  """The same of arrays that come without a `core_state`, which would tell B.

  Raises:
    ValueError: a field has other leading axes.
  """
  rows = config.item_rows
  leading = {x.shape[:2] for x in fields.values()}
  if len(leading) > 1 or {shape[1:] for shape in leading} != {(rows,)}:
    raise ValueError(
      "expected items first, then rows: [B, L, ...] with L ="
      f" {_item_words(config)} = {rows}; got {_shapes(fields)}"
    )


def check_one_per_item(name: str, x: Array, sequence: Sequence) -> None:
  """Raises ValueError where x is not [B]: other shapes would broadcast."""
  expected = (len(sequence.core_state.frames),)
  if x.shape != expected:
    raise ValueError(
      f"{name}: expected one number for each item of the batch, {expected}, got"
      f" {x.shape}"
    )


def check_time_first(q: Array, *, config: AgentConfig) -> None:
  """Refuses q that is [B, T, A] or [B, L, A] where [T, B, A] was meant.

  Any number of rows may be given; but a batch as large as an item is long, of
  rows that are not as many, is an item lying on its side.

  Raises:
    ValueError: so it looks.
  """
  lengths = (config.unrolled_rows, config.item_rows)
  rows, batch_size = q.shape[:2]
  if batch_size in lengths and rows not in lengths:
    raise ValueError(
      f"expected rows first, then items: [T, B, ...]; got q {q.shape}, whose"
      f" second axis is as long as an item (trace_length {lengths[0]}, with"
      f" burn-in {lengths[1]}); swap the first two axes"
    )


def check_carry(name: str, carry: Any, expected: Any) -> None:
  """Refuses the carry of another core: missing, of other leaves or shapes.

  Args:
    name: of the argument, for the message.
    carry: what was given. None is not (), the state of a core without any.
    expected: leaves of the right shapes.

  Raises:
    ValueError: they differ.
  """
  shapes = lambda tree: jax.tree.map(lambda x: tuple(x.shape), tree)
  if jax.tree.structure(carry) != jax.tree.structure(expected) or shapes(
    carry
  ) != shapes(expected):
    raise ValueError(
      f"{name}: expected the carry of this core, of shapes {shapes(expected)},"
      f" got {None if carry is None else shapes(carry)}"
    )


def check_inputs(
  inputs: AgentInputs,
  core_state: CoreState,
  *,
  zero: CoreState,
  axes: str,
  num_masked: int | None,
) -> None:
  """Refuses inputs of `Networks.step` and `unroll` that don't fit together.

  Args:
    inputs: with the given leading axes.
    core_state: leading [B].
    zero: as `initial_core_state(B)`, B being the last of the leading axes.
    axes: 'TB' for `unroll`, 'B' for `step`.
    num_masked: A where rows say which actions may be taken; None where not.

  Raises:
    ValueError: they don't.
  """
  count = len(axes)
  leading = inputs.is_first_t.shape
  rows = _given(inputs._asdict())
  named = rows | {"core_state.frames": core_state.frames}
  order = (
    "rows first, then lanes: [T, B, ...]" if count == 2 else "lanes: [B, ...]"
  )
  if (
    len(leading) != count
    or any(x.shape[:count] != leading for x in rows.values())
    or inputs.obs_t.shape[count:] != zero.frames.shape[2:]
    or core_state.frames.shape != zero.frames.shape
  ):
    raise ValueError(
      f"expected inputs with {order}, and core_state [B, ...], of observations"
      f" {zero.frames.shape[2:]} and a stack of {zero.frames.shape[1] + 1}"
      f" frames; got {_shapes(named)}"
    )
  check_carry("core_state.carry", core_state.carry, zero.carry)
  mask = inputs.action_mask_t
  expected = None if num_masked is None else (*leading, num_masked)
  if (None if mask is None else mask.shape) != expected:
    raise ValueError(
      f"action_mask_t: expected {expected or 'none'}, as spec.action_mask of"
      f" the world says, got {None if mask is None else mask.shape}"
    )


def _item_words(config: AgentConfig) -> str:
  ahead = " + lookahead_rows" if config.lookahead_rows else ""
  return f"burn_in + trace_length{ahead}"


def _given(fields: Mapping[str, Array]) -> dict[str, Array]:
  """Without those that are None."""
  return {name: x for name, x in fields.items() if x is not None}


def _shapes(fields: Mapping[str, Array]) -> str:
  return ", ".join(f"{name} {tuple(x.shape)}" for name, x in fields.items())
