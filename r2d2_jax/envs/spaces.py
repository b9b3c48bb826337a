"""Gymnasium's spaces as the agent meets them: one array in, one number out.

| observation space | the agent sees |
|---|---|
| Box of bytes, [H, W], [H, W, C], [C, H, W] | an image, uint8, channels last |
| Box of other numbers | float32 of that shape, an image's channels last |
| Discrete | one-hot float32 |
| MultiDiscrete | a one-hot for each number, side by side |
| MultiBinary | float32 zeros and ones |
| Dict, Tuple | one vector of all the parts, in the space's own order |

| action space | the agent chooses among |
|---|---|
| Discrete | its n actions; `start` is added on the way out |
| MultiDiscrete, MultiBinary | all combinations, if there are at most 1024 |
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from gymnasium import spaces
import numpy as np

from r2d2_jax.config import ConfigError

# A product of action sets above this is no set that a Q-network should list.
MAX_ACTIONS = 1024
# As in `families`: a larger one-hot would be no observation, but a mistake.
_MAX_ONE_HOT = 2**16
# More channels are planes of a grid, whose two sides are then equal.
_MAX_CHANNELS = 4
# The least side of an image that the torsos with convolutions read.
_IMAGE_SIDE = 36


class Observations(NamedTuple):
  """What becomes of the observations of a space."""

  shape: tuple[int, ...]  # of one of them, as the agent sees it
  dtype: np.dtype
  convert: Callable[[Any], np.ndarray]  # batched by Gymnasium -> [B, *shape],
  # an array of its own


class Actions(NamedTuple):
  """What becomes of the agent's actions."""

  num_actions: int
  convert: Callable[
    [np.ndarray], np.ndarray
  ]  # int [B] -> as the space has them
  factors: tuple[int, ...]  # sizes of the sets of which they are the product


def observations_of(task: str, space: spaces.Space) -> Observations:
  """How the agent sees observations of a Gymnasium space.

  Args:
    task: for the error.
    space: of one environment.

  Raises:
    ConfigError: the space has no fixed size (Text, Sequence, Graph, OneOf), or
      an image among other parts.
  """
  if isinstance(space, spaces.Dict | spaces.Tuple) and len(space.spaces) == 1:
    ((key, only),) = _parts(space)
    inside = observations_of(task, only)
    return inside._replace(convert=lambda batch: inside.convert(batch[key]))
  if isinstance(space, spaces.Box):
    return _box(space)
  size, flatten = _vector(task, "", space)
  return Observations(
    (size,),
    np.dtype(np.float32),
    lambda batch: np.ascontiguousarray(flatten(batch), np.float32),
  )


def _box(space: spaces.Box) -> Observations:
  dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
  shape = space.shape or (1,)
  first = len(shape) == 3 and _has_channels_first(*shape)
  if first:
    shape = (*shape[1:], shape[0])
  if len(shape) == 3 and shape[2] == 1:  # the frame stack brings the axis back
    shape = shape[:2]

  def convert(batch: np.ndarray) -> np.ndarray:
    if first:
      batch = np.moveaxis(batch, 1, -1)
    # A copy, since Gymnasium may write its next rows into the same memory.
    return np.array(batch, dtype, order="C").reshape(len(batch), *shape)

  return Observations(shape, dtype, convert)


def _has_channels_first(a: int, b: int, c: int) -> bool:
  if a == b:
    return False
  return b == c or (a <= _MAX_CHANNELS and a < c)


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
  """Keys or places, with their spaces."""
  if isinstance(space, spaces.Dict):
    return list(space.spaces.items())
  return list(enumerate(space.spaces))


def _vector(
  task: str, name: str, space: spaces.Space
) -> tuple[int, Callable[[Any], np.ndarray]]:
  """Size of a part as numbers in a row, and how a batch of it becomes them."""
  if isinstance(space, spaces.Dict | spaces.Tuple):
    named = [(key, f"{name}[{key!r}]", part) for key, part in _parts(space)]
    inside = [(key, *_vector(task, n, part)) for key, n, part in named]
    return sum(size for _, size, _ in inside), lambda batch: np.concatenate(
      [flatten(batch[key]) for key, _, flatten in inside], axis=1
    )
  if isinstance(space, spaces.Discrete):
    return _one_hots(task, np.array([space.n]), np.array([space.start]))
  if isinstance(space, spaces.MultiDiscrete):
    return _one_hots(task, space.nvec.ravel(), space.start.ravel())
  if isinstance(space, spaces.MultiBinary):
    return math.prod(space.shape), _flat
  if isinstance(space, spaces.Box):
    if len(space.shape) in (2, 3) and sorted(space.shape)[-2] >= _IMAGE_SIDE:
      raise ConfigError(
        f"{task}: observations have an image {space.shape} at {name} among"
        " other parts, which the networks here don't read together: leave"
        " the other parts out, or draw them into the image, in a wrapper"
      )
    if space.dtype == np.uint8:  # as the torsos scale bytes
      return math.prod(space.shape), lambda batch: _flat(batch) / 255
    return math.prod(space.shape), _flat
  raise ConfigError(
    f"{task}: observations of the space {type(space).__name__}"
    + (f" at {name}" if name else "")
    + " have no fixed size: expected Box, Discrete, MultiDiscrete,"
    " MultiBinary, or a Dict or Tuple of these; turn them into one of these in"
    " a wrapper"
  )


def _flat(batch: np.ndarray) -> np.ndarray:
  return np.asarray(batch, np.float32).reshape(len(batch), -1)


def _one_hots(
  task: str, sizes: np.ndarray, starts: np.ndarray
) -> tuple[int, Callable[[Any], np.ndarray]]:
  total = int(sizes.sum())
  if total > _MAX_ONE_HOT:
    raise ConfigError(
      f"{task}: observations number {total} states, more than the"
      f" {_MAX_ONE_HOT} that are shown as one-hot: give them as a Box"
    )
  offsets = np.cumsum(sizes) - sizes - starts

  def convert(batch: Any) -> np.ndarray:
    places = np.asarray(batch).reshape(len(batch), len(sizes)) + offsets
    out = np.zeros((len(places), total), np.float32)
    np.put_along_axis(out, places.astype(np.int64), 1, axis=1)
    return out

  return total, convert


def actions_of(task: str, space: spaces.Space) -> Actions:
  """How the agent acts in a Gymnasium space.

  Raises:
    ConfigError: the actions are not a discrete set, or too large a product.
  """
  if isinstance(space, spaces.Discrete):
    start = int(space.start)
    n = int(space.n)
    return Actions(n, lambda a: a.astype(np.int64) + start, (n,))
  if isinstance(space, spaces.MultiDiscrete):
    sizes, starts = space.nvec, space.start
  elif isinstance(space, spaces.MultiBinary):
    sizes = np.full(space.shape, 2)
    starts = np.zeros(space.shape, np.int64)
  else:
    raise ConfigError(
      f"{task} has actions of the space {_described(space)}: R2D2 chooses"
      " one of a discrete set (Discrete, MultiDiscrete, MultiBinary); take"
      " another task, or let a wrapper offer some of the actions by number"
    )
  factors = tuple(int(n) for n in sizes.ravel())
  num_actions = math.prod(factors)
  if num_actions > MAX_ACTIONS:
    raise ConfigError(
      f"{task} has {num_actions} combinations of actions ({_described(space)}):"
      f" expected at most {MAX_ACTIONS}; let a wrapper offer fewer"
    )

  def convert(a: np.ndarray) -> np.ndarray:
    numbers = np.stack(np.unravel_index(a, factors), axis=-1)
    return (numbers.reshape(len(a), *sizes.shape) + starts).astype(space.dtype)

  return Actions(num_actions, convert, factors)


def action_mask_of(actions: Actions, given: Any) -> np.ndarray:
  """The actions that an environment allows, bool [A].

  Args:
    actions: from `actions_of`.
    given: what it says, zeros and ones: an array of one for each action, in the
      agent's order; or, of MultiDiscrete, a tuple of arrays as its own `sample`
      takes it, one for each number, of which the combinations are allowed.

  Raises:
    ValueError: it is something else; says what was expected.
  """
  parts = given if isinstance(given, tuple | list) else (given,)
  shapes = [np.shape(part) for part in parts]
  of_factors = [(n,) for n in actions.factors]
  if shapes not in ([(actions.num_actions,)], of_factors) or not all(
    np.isin(part, (0, 1)).all() for part in parts
  ):
    sizes = f"{actions.num_actions} zeros and ones, one for each action"
    if len(of_factors) > 1:
      sizes += f", or a tuple of as many as {list(actions.factors)}"
    raise ValueError(f"expected {sizes}, got {given!r:.80}")
  mask = np.ones(1, np.bool_)
  for part in parts:
    mask = np.logical_and.outer(mask, np.asarray(part) == 1).ravel()
  return mask


def fault(space: spaces.Space, x: Any) -> str:
  """How an observation of one environment differs from its space; "" if not.

  Only in what would be stored wrongly without a word: shapes, keys, states that
  are not there. Bounds of a Box are often too narrow, and are left alone.
  """
  if isinstance(space, spaces.Dict):
    if not isinstance(x, dict) or x.keys() != space.spaces.keys():
      got = sorted(x) if isinstance(x, dict) else type(x).__name__
      return f"expected a dict of {sorted(space.spaces)}, got {got}"
  elif isinstance(space, spaces.Tuple):
    if not isinstance(x, tuple | list) or len(x) != len(space.spaces):
      return f"expected a tuple of {len(space.spaces)} parts, got {x!r:.80}"
  elif isinstance(space, spaces.Discrete):
    if np.shape(x) != () or not space.start <= x < space.start + space.n:
      return f"expected a state number in {space}, got {x!r:.80}"
    return ""
  else:
    if np.shape(x) != space.shape:
      return f"expected an array of shape {space.shape}, got {np.shape(x)}"
    if isinstance(space, spaces.MultiDiscrete):
      numbers = np.asarray(x) - space.start
      if (numbers < 0).any() or (numbers >= space.nvec).any():
        return f"expected state numbers in {space}, got {x!r:.80}"
    return ""
  for key, part in _parts(space):
    if wrong := fault(part, x[key]):
      return f"at {key!r} {wrong}"
  return ""


def _described(space: spaces.Space) -> str:
  if isinstance(space, spaces.Box):
    return f"Box {space.dtype} {list(space.shape)}"
  return f"{space!r:.80}"
