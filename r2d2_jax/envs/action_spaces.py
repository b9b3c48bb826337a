"""Gymnasium's spaces of actions as the agent meets them: one number of a set.

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


class Actions(NamedTuple):
  """What becomes of the agent's actions."""

  num_actions: int
  convert: Callable[
    [np.ndarray], np.ndarray
  ]  # int [B] -> as the space has them
  factors: tuple[int, ...]  # sizes of the sets of which they are the product


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


def _described(space: spaces.Space) -> str:
  if isinstance(space, spaces.Box):
    return f"Box {space.dtype} {list(space.shape)}"
  return f"{space!r:.80}"
