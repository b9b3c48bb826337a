"""Asynchronous workers (A3C): each acts, learns, and has its own parameters."""

from collections.abc import Callable, Sequence
import dataclasses
import threading

import jax
import numpy as np

from r2d2_jax.agent.agent import Agent
from r2d2_jax.config import Config
from r2d2_jax.envs.world import EpisodeReport, World
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.arrays import (
  Arrays,
  flat,
  nested,
  tree_from_arrays,
  tree_to_arrays,
)
from r2d2_jax.system.loops.learner import Batch
from r2d2_jax.system.loops.parameters import Published
from r2d2_jax.system.loops.shared import SharedLearner
from r2d2_jax.system.loops.timing import LegTimer


def worker_config(config: Config) -> Config:
  """The settings of one worker: one lane, parameters of its own."""
  return config.updated(
    {"env.num_envs": 1, "env.num_threads": 1, "run.actor_refresh_steps": 1}
  )


class Worker:
  """One lane with its recurrent state, and the parameters that it last took.

  It plays until an unroll is whole, `trace_length` rows or the episode's last
  ones, takes the gradient, hands it to the shared learner, and goes on with the
  parameters that come back.
  """

  def __init__(
    self,
    config: Config,
    number: int,
    *,
    world: World,
    agent: Agent,
    learner: SharedLearner,
    key: jax.Array,
    count_steps: Callable[[], int],
  ):
    """Starts the lane.

    Args:
      config: the run's settings.
      number: of the worker, which is that of its lane in the run.
      world: of one lane.
      agent: who acts.
      learner: that the workers share.
      key: of its random actions.
      count_steps: the run's environment steps so far.
    """
    self._number = number
    self._learner = learner
    self._local = learner.latest()
    own = worker_config(config)
    # Between acting and learning, of the same thread: it is empty in between.
    self._unrolls = LocalReplay(
      own, world.spec, jax.device_get(agent.initial_core_state(1))
    )
    self.loop = ActorLoop(
      own,
      world=world,
      agent=agent,
      parameters=self,
      insert=self._unrolls.insert,
      key=key,
      count_steps=count_steps,
      lanes=np.array([number]),
      num_lanes=config.env.num_envs,
    )

  def latest(self) -> Published:
    """The worker's own parameters, with which it acts."""
    return self._local

  def act(self) -> tuple[int, list[EpisodeReport]]:
    """A step of the lane: see `ActorLoop.step`."""
    steps, episodes = self.loop.step()
    return steps, [e._replace(env_id=self._number) for e in episodes]

  def learn(self) -> None:
    """Learns from the unrolls that the last step completed, if any."""
    while self._unrolls.size():
      sample = self._unrolls.sample(1, timeout_seconds=0.0)
      with self.loop.timer.leg("step"):
        batch = Batch(sample, burn_in=0)
        self._local = self._learner.learn(batch, self._local)

  def state_dict(self) -> Arrays:
    """All of it, between two turns; see `ActorLoop.state_dict`."""
    return flat(
      {
        "loop": self.loop.state_dict(),
        "local": tree_to_arrays(self._local.params),
        "updates": {"": np.array(self._local.num_updates)},
      }
    )

  def load_state_dict(self, state: Arrays) -> None:
    """The inverse of `state_dict`, before the first step.

    Raises:
      ValueError: the state is of another configuration, or the world cannot be
        brought back.
    """
    parts = nested(state)
    self.loop.load_state_dict(parts["loop"])
    self._local = Published(
      tree_from_arrays(parts["local"], like=self._local.params),
      int(parts["updates"][""]),
    )


@dataclasses.dataclass
class Workers:
  """All workers, as a run's log and saves know its actors."""

  workers: Sequence[Worker]
  in_threads: bool
  # For what they count together.
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
  _turn: int = 0

  def next(self) -> Worker:
    """Whose turn it is in lock-step: one after the other, a step each."""
    worker = self.workers[self._turn]
    self._turn = (self._turn + 1) % len(self.workers)
    return worker

  @property
  def epsilon(self) -> np.ndarray:
    """float32 [N], of the run's end."""
    return np.concatenate([worker.loop.epsilon for worker in self.workers])

  @property
  def timer(self) -> "WorkersTimer":
    """Seconds of a worker's legs."""
    return WorkersTimer([w.loop.timer for w in self.workers], self.in_threads)

  def lane_state_dict(self) -> Arrays:
    """Keys and recurrent states of the lanes; safe from any thread."""
    return self._joined(lambda worker: worker.loop.lane_state_dict())

  def load_lane_state_dict(self, state: Arrays) -> None:
    """The inverse of `lane_state_dict`; see `ActorLoop`.

    Raises:
      ValueError: the state is of other lanes or another network.
    """
    for i, part in self._parts(state).items():
      self.workers[i].loop.load_lane_state_dict(part)

  def state_dict(self) -> Arrays:
    """All but the lanes, and whose turn it is."""
    return self._joined(Worker.state_dict) | {"turn/": np.array(self._turn)}

  def load_state_dict(self, state: Arrays) -> None:
    """The inverse of `state_dict`.

    Raises:
      ValueError: the state is of other workers, or a world cannot be brought
        back.
    """
    state = dict(state)
    self._turn = int(state.pop("turn/"))
    for i, part in self._parts(state).items():
      self.workers[i].load_state_dict(part)

  def _joined(self, of: Callable[[Worker], Arrays]) -> Arrays:
    return flat({str(i): of(worker) for i, worker in enumerate(self.workers)})

  def _parts(self, state: Arrays) -> dict[int, Arrays]:
    parts = {int(i): part for i, part in nested(state).items()}
    if set(parts) != set(range(len(self.workers))):
      raise ValueError(
        f"expected the state of {len(self.workers)} workers, got that of"
        f" {len(parts)}: resume with the lanes of the run"
      )
    return parts


class WorkersTimer:
  """Seconds by leg: the mean of the threads, or the sum where there is one."""

  def __init__(self, timers: Sequence[LegTimer], in_threads: bool):
    """Args: of the workers; whether each has a thread of its own."""
    self._timers = timers
    self._num_threads = len(timers) if in_threads else 1

  def seconds(self) -> dict[str, float]:
    """So far."""
    by_worker = [timer.seconds() for timer in self._timers]
    legs = {leg for seconds in by_worker for leg in seconds}
    return {
      leg: sum(s.get(leg, 0.0) for s in by_worker) / self._num_threads
      for leg in legs
    }
