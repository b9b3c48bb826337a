"""What the actions of a task are called."""

from r2d2_jax.envs.tasks import atari57_games, resolve_task
from r2d2_jax.factories import is_path

_ATARI = (
  "NOOP FIRE UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT UPFIRE"
  " RIGHTFIRE LEFTFIRE DOWNFIRE UPRIGHTFIRE UPLEFTFIRE DOWNRIGHTFIRE"
  " DOWNLEFTFIRE"
).split()

# A game's own actions (EnvConfig.full_action_space off), as numbers of _ATARI,
# in their order: the minimal action sets of the Arcade Learning Environment.
# The games that are not here use all 18.
_MINIMAL = {
  "freeway": (0, 2, 5),
  "skiing": (0, 3, 4),
  "atlantis": (0, 1, 11, 12),
  "breakout": (0, 1, 3, 4),
  "surround": (0, 2, 3, 4, 5),
  "qbert": (0, 1, 2, 3, 4, 5),
  "assault": (0, 1, 2, 3, 4, 11, 12),
  "gopher": (0, 1, 2, 3, 4, 10, 11, 12),
  "phoenix": (0, 1, 3, 4, 5, 11, 12, 13),
  "tutankham": (0, 2, 3, 4, 5, 10, 11, 12),
  "beam_rider": (0, 1, 2, 3, 4, 6, 7, 11, 12),
  "enduro": (0, 1, 3, 4, 5, 8, 9, 11, 12),
  "video_pinball": (0, 1, 2, 3, 4, 5, 10, 11, 12),
  "asteroids": (*range(8), *range(10, 16)),
  "kung_fu_master": (0, 2, 3, 4, 5, 8, 9, *range(11, 18)),
}
_MINIMAL |= dict.fromkeys(
  ("demon_attack", "name_this_game", "pong", "space_invaders"),
  (0, 1, 3, 4, 11, 12),
)
_MINIMAL |= dict.fromkeys(("bowling", "up_n_down"), (0, 1, 2, 5, 10, 13))
_MINIMAL |= dict.fromkeys(
  ("asterix", "crazy_climber", "ms_pacman"), (0, *range(2, 10))
)
_MINIMAL |= dict.fromkeys(
  ("amidar", "time_pilot", "wizard_of_wor"), (*range(6), *range(10, 14))
)

_MINIGRID = ("left", "right", "forward", "pick up", "drop", "toggle", "done")
_OTHERS = {
  "recall": ("A", "B", "C", "D"),
  "recall-long": ("A", "B", "C", "D"),
  "CartPole-v1": ("left", "right"),
  "stateless-cartpole": ("left", "right"),
  "Catch-v0": ("left", "stay", "right"),
  "MountainCar-v0": ("left", "none", "right"),
  "FrozenLake-v1": ("left", "down", "right", "up"),
}


def action_names(task: str, num_actions: int) -> list[str]:
  """Names of a task's actions, "action 0" and so on where none are known.

  An environment of Gymnasium is asked: its `action_names` or, as Atari has it
  there, `get_action_meanings()`.

  Args:
    task: as in EnvConfig.
    num_actions: how many the agent has: tells a game's own actions from all 18.

  Returns:
    `num_actions` names.
  """
  if is_path(task):
    # Of the same task in EnvPool, where it does not say.
    names = _asked(task) or _known_names(task.rpartition(":")[2], num_actions)
  else:
    names = _known_names(task, num_actions)
  if len(names) != num_actions:
    return [f"action {a}" for a in range(num_actions)]
  return list(names)


def _asked(task: str) -> list[str]:
  from r2d2_jax.envs.gymnasium_make import gymnasium_action_names

  return gymnasium_action_names(task)


def _known_names(task: str, num_actions: int) -> tuple[str, ...]:
  if task.lower().startswith("minigrid-"):
    return _MINIGRID[:num_actions]
  try:
    name = resolve_task(task, [*_OTHERS, *atari57_games()])
  except ValueError:
    return ()
  if name in _OTHERS:
    return _OTHERS[name]
  if num_actions == len(_ATARI):
    return tuple(_ATARI)
  return tuple(_ATARI[a] for a in _MINIMAL.get(name, ()))
