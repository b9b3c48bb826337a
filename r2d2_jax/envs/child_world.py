"""A world in a process of its own, which can be killed if it hangs.

VizDoom needs it: now and then a launch hangs, and holds the interpreter's lock
while it does, so that nothing in the same process can time it out. It also
writes its settings into the working directory; here that is a temporary one.
"""

import multiprocessing
from multiprocessing.connection import Connection
import os
import signal
import subprocess
import sys
import tempfile

import numpy as np

from r2d2_jax.config import EnvConfig
from r2d2_jax.envs.world import EpisodeReport, check_actions
from r2d2_jax.types import Timestep

_MAX_LAUNCHES = 3


class ChildWorld:
  """An `EnvPoolWorld` in a child process, launched with a time limit."""

  def __init__(
    self,
    task: str,
    config: EnvConfig,
    *,
    seed: int,
    launch_seconds: float = 0.0,
  ):
    """Launches, and launches again if that hangs or crashes.

    Args:
      task: EnvPool's id.
      config: lanes and options.
      seed: as for `EnvPoolWorld`.
      launch_seconds: limit of one launch; 0 means 30 plus 2 for each lane.

    Raises:
      RuntimeError: no launch succeeded.
      ConfigError: as `EnvPoolWorld` raises it.
    """
    self.num_envs = config.num_envs
    self.batch_size = config.batch_size or config.num_envs
    limit = launch_seconds or 30.0 + 2.0 * config.num_envs
    for _ in range(_MAX_LAUNCHES):
      self._launch()
      try:
        self._connection.send((task, config, seed))
        if self._connection.poll(limit):
          self.spec = self._answer()
          return
        failure = f"nothing came within {limit:.0f} s"
      except (EOFError, ConnectionError):
        failure = f"the process ended with status {self._process.wait()}"
      except Exception:
        self.close()
        raise
      self.close()
    raise RuntimeError(
      f"{task} did not start in {_MAX_LAUNCHES} launches (the last time, "
      f"{failure}): try again, fewer lanes, or another task."
    )

  def _launch(self) -> None:
    # Popen, not multiprocessing.Process: that would import the caller's main
    # module, JAX and all, into the child.
    self._connection, child_end = multiprocessing.Pipe()
    self._directory = tempfile.TemporaryDirectory(prefix="r2d2_jax_world_")
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    self._process = subprocess.Popen(
      [sys.executable, "-m", __name__, str(child_end.fileno())],
      pass_fds=[child_end.fileno()],
      cwd=self._directory.name,
      env={**os.environ, "PYTHONPATH": path},
      start_new_session=True,  # so that VizDoom's own processes die with it
    )
    child_end.close()

  def _answer(self):
    kind, value = self._connection.recv()
    if kind == "error":
      raise value
    return value

  def reset(self) -> None:
    """See `World.reset`."""
    self._connection.send(("reset", ()))
    self._answer()

  def recv(self) -> Timestep:
    """See `World.recv`.

    Raises:
      RuntimeError: the process has died.
    """
    try:
      self._connection.send(("recv", ()))
      return self._answer()
    except (EOFError, ConnectionError) as error:
      raise RuntimeError(
        f"the environments' process died, status {self._process.wait()}: "
        "start the run again from its checkpoint."
      ) from error

  def send(self, a_t: np.ndarray, env_id: np.ndarray) -> None:
    """See `World.send`."""
    check_actions(a_t, env_id, self.spec.num_actions)
    self._connection.send(("send", (a_t, env_id)))
    self._answer()

  def pop_episodes(self) -> list[EpisodeReport]:
    """See `World.pop_episodes`."""
    self._connection.send(("pop_episodes", ()))
    return self._answer()

  def close(self) -> None:
    """Kills the process and whatever it started."""
    if self._process.poll() is None:
      os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()
    self._connection.close()
    self._directory.cleanup()


def main() -> None:
  """The child: builds the world, then does as told until the pipe closes."""
  connection = Connection(int(sys.argv[1]))
  world = None
  while True:
    try:
      message = connection.recv()
    except EOFError:
      return
    try:
      if world is None:
        from r2d2_jax.envs.envpool_world import EnvPoolWorld

        task, config, seed = message
        world = EnvPoolWorld(task, config, seed=seed)
        value = world.spec
      else:
        name, arguments = message
        value = getattr(world, name)(*arguments)
      connection.send(("value", value))
    except Exception as error:
      connection.send(("error", error))


if __name__ == "__main__":
  main()
