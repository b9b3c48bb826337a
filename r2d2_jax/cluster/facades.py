"""The far parts of a run, as its log, its saves and its evaluation know them.

They have the methods of the parts of one process (`run.build.Parts`) that
`run.monitor` and `run.state` call; each asks the process that holds the part.
"""

from collections.abc import Callable
import pathlib
import time
from typing import Any

import jax
import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from r2d2_jax.cluster.fleet import Fleet
from r2d2_jax.cluster.members import HostDied, told
from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.system.evaluation import Evaluation
from r2d2_jax.system.loops.parameters import Published
from r2d2_jax.system.metrics.sample_stats import SampleStats
from r2d2_jax.system.run.errors import RunError

_POLL_SECONDS = 0.2
_DQ_SECONDS = 1.0
# A shard of the paper's size is written in minutes.
_SAVE_SECONDS = 1800.0


class FarTimer:
  """Seconds by leg, as reported last."""

  def __init__(self):
    self._by_host: dict[int, dict[str, float]] = {}

  def put(self, host: int, leg_seconds: dict[str, float]) -> None:
    """Takes a host's report."""
    self._by_host[host] = leg_seconds

  def seconds(self) -> dict[str, float]:
    """By leg, the mean over the hosts."""
    hosts = list(self._by_host.values())
    legs = {leg for seconds in hosts for leg in seconds}
    return {
      leg: sum(h.get(leg, 0.0) for h in hosts) / len(hosts) for leg in legs
    }


class FarLearner:
  """The learner, in another process or several."""

  latest_batch = None

  def __init__(self, fleet: Fleet, num_updates: int, seconds: float):
    """Args: who calls, updates so far, how long a restart may take."""
    self._fleet = fleet
    self._seconds = seconds
    self.num_updates = num_updates
    self.timer = FarTimer()
    self._stats: tuple = ({}, {})
    self._latest: Any = None

  def state(self) -> Any:
    """The state, host arrays; waits for a learner that is being restarted."""
    if self._latest is not None:
      if int(self._latest.num_updates) == self.num_updates:
        return self._latest
    self._latest = self._ask("state")
    return self._latest

  def flush(self) -> None:
    """Writes the last priorities back."""
    for member in self._fleet.of("learner"):
      if member.is_ready:
        self._fleet.ask(member, "flush", self._seconds)

  def metrics(self) -> tuple[dict, dict]:
    """What came with the last `FarSamples.pop`."""
    stats, self._stats = self._stats, ({}, {})
    return stats

  def pop_stats(self, num_lanes: int) -> tuple[dict, dict]:
    """Of the sampled items; those of the updates are kept for `metrics`."""
    try:
      member = self._fleet.of("learner")[0]
      if member.is_ready:
        samples, self._stats = self._fleet.ask(member, "stats", self._seconds)
        return samples
    except HostDied:
      pass
    return SampleStats(num_lanes).pop()

  def _ask(self, what: str) -> Any:
    deadline = time.monotonic() + self._seconds
    member = self._fleet.of("learner")[0]
    while True:
      error = HostDied(member, "it does not come back")
      if member.is_ready:
        try:
          return self._fleet.ask(
            member, what, max(1.0, deadline - time.monotonic())
          )
        except HostDied as died:
          error = died
      if time.monotonic() > deadline:
        raise RunError(str(error)) from error
      time.sleep(_POLL_SECONDS)


class FarSamples:
  """Where the learner's batches came from."""

  def __init__(self, learner: FarLearner, num_lanes: int):
    self._learner = learner
    self._num_lanes = num_lanes

  def pop(self) -> tuple[dict, dict]:
    """As `SampleStats.pop`; of the first learner host's shards."""
    return self._learner.pop_stats(self._num_lanes)


class FarReplay:
  """All shards."""

  def __init__(self, fleet: Fleet, num_shards: int):
    self._fleet = fleet
    self.sizes = [0] * num_shards

  def size(self) -> int:
    """Items held, as reported last."""
    return sum(self.sizes)

  def save(self, directory: pathlib.Path) -> None:
    """Every shard writes its own part into the directory.

    Raises:
      ReplayError: one of them is dead or could not.
    """
    answers = []
    for member in self._fleet.of("replay"):
      if not member.is_ready:
        raise ReplayError(f"{member.words} is not there to be saved")
      path = str((directory / shard_name(member.place.index)).absolute())
      answers.append((member, self._fleet.begin(member, "save", path)))
    for member, answer in answers:
      try:
        ray.get(answer, timeout=_SAVE_SECONDS)
      except RayTaskError as error:
        raise told(error, member) from error
      except (RayError, TimeoutError) as error:
        raise ReplayError(f"{member.words} could not be saved") from error


def shard_name(shard: int | str) -> str:
  """The directory of a shard, within a saved replay."""
  return f"shard-{shard}"


class FarActors:
  """All actor hosts."""

  def __init__(self):
    self.timer = FarTimer()

  def lane_state_dict(self) -> dict[str, np.ndarray]:
    """Nothing: lanes begin new games, with new random numbers."""
    return {}

  def load_lane_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """Nothing, whatever was saved: the lanes may be others."""


class NoTimer:
  """Of what runs in the learner's processes, which report it with theirs."""

  class timer:
    """As `LegTimer`."""

    @staticmethod
    def seconds() -> dict[str, float]:
      """Nothing of its own."""
      return {}


class FarProbe:
  """The probe of the first actor host."""

  def __init__(self, fleet: Fleet):
    self._fleet = fleet
    self._answer: Any = None  # one at a time: the first one compiles

  def measure(self, params: Any) -> dict[str, float]:
    """As `Probe.measure`, with the parameters that the host acts with.

    NaN where the host is not there, or has no answer at once; a late answer is
    that of the next call.
    """
    del params
    unknown = {"dq_first": float("nan"), "dq_last": float("nan")}
    member = self._fleet.of("actor")[0]
    if self._answer is None:
      if not member.is_ready:
        return unknown
      try:
        self._answer = self._fleet.begin(member, "measure_dq")
      except HostDied:
        return unknown
    if not ray.wait([self._answer], timeout=_DQ_SECONDS)[0]:
      return unknown
    answer, self._answer = self._answer, None
    try:
      return ray.get(answer)
    except RayTaskError as error:
      raise told(error, member) from error
    except RayError:  # it died: the fleet tells
      return unknown


class NoParameters:
  """The actors' parameters are not in this process."""

  def latest(self) -> Published:
    """Nothing to act with."""
    return Published(None, 0)


class FarEvaluation:
  """`evaluation.evaluate` in a process that is started when it is wanted."""

  def __init__(self, fleet: Fleet, seconds: float):
    """Args: who calls, and how long a start may take."""
    self._fleet = fleet
    self._seconds = seconds

  def __call__(
    self,
    params: Any,
    *,
    config: Config,
    num_episodes: int,
    seed: int,
    should_stop: Callable[[], bool],
    **rest: Any,
  ) -> Evaluation:
    """Plays the games; none of them counts if it is stopped.

    Raises:
      RunError: the process died.
    """
    del rest  # agent and world are named by the settings
    (member,) = self._fleet.of("evaluator")
    if member.handle is None:
      self._fleet.create(member)
      self._fleet.ask_greeting(member)
    answer = self._fleet.begin(
      member,
      "evaluate",
      config,
      jax.device_get(params),
      num_episodes=num_episodes,
      seed=seed,
    )
    while not ray.wait([answer], timeout=_POLL_SECONDS)[0]:
      if should_stop():
        self._fleet.kill(member)
        return Evaluation([])
    try:
      return Evaluation(ray.get(answer))
    except RayTaskError as error:
      raise told(error, member) from error
    except RayError as error:
      died = HostDied(member, "it died while it evaluated")
      self._fleet.kill(member)
      raise RunError(str(died)) from error
