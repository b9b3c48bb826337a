"""A world that can be brought back: same seed, same actions, same state.

Neither EnvPool's environments nor the emulators behind them can be saved. They
are deterministic, though: lanes of one seed, stepped in a fixed order, end up
in the same state after the same actions. So the actions are what is kept: one
byte per step of a lane, and a resumed run plays them again.
"""

import zlib

import numpy as np

from r2d2_jax.envs.world import World, WorldWrapper
from r2d2_jax.types import Timestep


class JournalWorld(WorldWrapper):
  """A `World` whose lanes step together, with a journal of their actions."""

  def __init__(self, world: World):
    """Args: a world that was not stepped yet, all lanes in each batch."""
    super().__init__(world)
    self._dtype = np.min_scalar_type(self.spec.num_actions - 1)
    self._actions: list[np.ndarray] = []
    self._last: Timestep | None = None

  def recv(self) -> Timestep:
    """See `World.recv`."""
    self._last = super().recv()
    return self._last

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """See `World.send`."""
    super().send(a_t, env_id)
    self._actions.append(a_t.astype(self._dtype))

  def state_dict(self) -> dict[str, np.ndarray]:
    """The journal; to be taken after a `send`."""
    return {
      "actions": np.array(self._actions, self._dtype).reshape(
        -1, self.num_envs
      ),
      "check": np.array(_checksum(self._last), np.int64),
    }

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """Plays the journal in a world fresh from `reset`: one step per row of it.

    Raises:
      ValueError: the journal is of other lanes, or the environment did not show
        the same again.
    """
    actions = np.asarray(state["actions"])
    if actions.shape[1:] != (self.num_envs,):
      raise ValueError(
        f"the journal holds {actions.shape[1:]} lanes, the world has"
        f" {self.num_envs}: resume with the settings of the run"
      )
    for a_t in actions:
      timestep = self.recv()
      self.send(a_t.astype(np.int32), timestep.env_id)
      self.pop_episodes()
    if _checksum(self._last) != int(state["check"]):
      raise ValueError(
        "played again with the same seed and actions, the environment showed"
        " something else: it is not deterministic (or another version), and"
        " this lock-step run cannot be resumed exactly; resume it with"
        " --run.no-lockstep"
      )


def _checksum(timestep: Timestep | None) -> int:
  """Of the rows received last: a difference in the lanes' state soon shows."""
  check = 0
  for x in timestep or ():
    if x is None:  # no action mask
      continue
    check = zlib.crc32(np.ascontiguousarray(x).data, check)
  return check
