"""Names of games and tasks: what people write, what EnvPool wants."""

from collections.abc import Collection
import difflib
import re

from r2d2_jax.config import ConfigError

# Those of `make_world`, one length for all of them; not imported, for command
# lines that want no numpy.
BUILT_IN = ("recall", "recall-long", "memory-chain-10", "stateless-cartpole")

_ATARI57 = """
alien amidar assault asterix asteroids atlantis bank_heist battle_zone
beam_rider berzerk bowling boxing breakout centipede chopper_command
crazy_climber defender
demon_attack double_dunk enduro fishing_derby freeway frostbite gopher gravitar
hero ice_hockey jamesbond kangaroo krull kung_fu_master montezuma_revenge
ms_pacman name_this_game phoenix pitfall pong private_eye qbert riverraid
road_runner robotank seaquest skiing solaris space_invaders star_gunner surround
tennis time_pilot tutankham up_n_down venture video_pinball wizard_of_wor
yars_revenge zaxxon
""".split()


def atari57_games() -> list[str]:
  """The 57 games of the benchmark, as score tables spell them: 'ms_pacman'."""
  return list(_ATARI57)


_CHAIN = re.compile(r"memory-chain-([1-9][0-9]{0,3})")


def chain_length(task: str) -> int | None:
  """L of memory-chain-L; None where it is another task."""
  found = _CHAIN.fullmatch(task.lower())
  return int(found[1]) if found else None


def plain_name(name: str) -> str:
  """What is left of a name without case, underscores and version."""
  name = name.lower().removeprefix("ale/").removesuffix("-v5")
  return name.replace("_", "").replace(" ", "")


def resolve_task(name: str, known: Collection[str]) -> str:
  """EnvPool's id of a game or task.

  Accepts an id as EnvPool lists it ('MiniGrid-MemoryS7-v0'), in any case, and
  for Atari also the bare name, with or without underscores: 'Pong', 'pong',
  'Pong-v5', 'MsPacman', 'ms_pacman'.

  Args:
    name: what the user wrote.
    known: all ids that EnvPool has.

  Raises:
    ConfigError: there is no such task; names the nearest ones.
  """
  if name in known:
    return name
  by_plain = {plain_name(task): task for task in known}
  if plain_name(name) in by_plain:
    return by_plain[plain_name(name)]
  near = nearest(name, known)
  hint = (
    f"did you mean {', '.join(near)}?"
    if near
    else (
      "Atari games go by name (Pong, ms_pacman), other tasks by EnvPool's id "
      "(MiniGrid-MemoryS7-v0, Catch-v0), Gymnasium's as gymnasium:ID, your own "
      f"as module:function; the built-in ones are {', '.join(BUILT_IN)}."
    )
  )
  raise ConfigError(f"unknown task {name!r}: {hint}")


def nearest(name: str, known: Collection[str]) -> list[str]:
  """Up to three tasks of a similar name: built in, of Atari, or of `known`."""
  atari = {plain_name(game): game for game in _ATARI57}
  by_plain = atari | {plain_name(task): task for task in known}
  by_plain |= {plain_name(task): task for task in BUILT_IN}
  near = difflib.get_close_matches(plain_name(name), by_plain, n=3)
  return [by_plain[n] for n in near]
