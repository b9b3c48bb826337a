"""The game's screen in colour, for people. Agents never see it."""

import numpy as np

from r2d2_jax.envs.flicker import FlickerWorld
from r2d2_jax.envs.world import World


def screen(world: World) -> np.ndarray | None:
  """What lane 0 shows now, between `recv` and `send`.

  EnvPool draws it when asked; rows, seeds and random numbers stay as they are.
  Any other world may have a method `render`, which is asked. Flicker, which
  blanks the agent's observations, does not blank it.

  Args:
    world: any.

  Returns:
    uint8 [height, width, 3], Atari [210, 160, 3]: the last raw frame. None
    where nobody draws the task: built-in ones, Catch, VizDoom, or an
    environment of Gymnasium made without render_mode="rgb_array".
  """
  if isinstance(world, FlickerWorld):
    return screen(world._world)
  if render := getattr(world, "render", None):
    return render()
  pool = getattr(world, "_pool", None)
  if pool is None:
    return None
  # As envpool.make(render_mode="rgb_array") leaves it: the mode is read when a
  # picture is asked for, nothing else depends on it.
  pool._render_mode = "rgb_array"
  try:
    return pool.render(env_ids=0)[0]
  except RuntimeError:  # "render not implemented for this environment"
    return None
