"""One row of numbers about a run, for the log and the live line."""

import collections
import time
from typing import Any, NamedTuple

import numpy as np

from r2d2_jax.config import Config
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.system.metrics.columns import COLUMNS

# Lanes that explore less than this show what the agent can do.
_EXPLOIT_EPSILON = 0.02
# A rate over less says nothing: the last row may follow another one at once.
_MIN_RATE_SECONDS = 1.0
_NAN = float("nan")

_ACTOR_LEGS = ("environment", "inference", "write")
_PREFETCH_LEGS = ("sample", "copy")
_LEARNER_LEGS = ("step", "write_back")
_WAITS = ("wait_for_learner", "wait_for_data", "wait_for_actors")
_LEGS = _ACTOR_LEGS + _PREFETCH_LEGS + _LEARNER_LEGS + _WAITS


class _Mark(NamedTuple):
  """Where the counts stood at a row, or at the start."""

  time: float
  steps: int
  updates: int
  leg_seconds: dict[str, float]


class RunReport:
  """Counts episodes and rates, and puts everything into a row."""

  def __init__(self, config: Config, *, frame_skip: int, epsilon: np.ndarray):
    """Starts the clock.

    Args:
      config: the run's settings.
      frame_skip: raw frames per agent step.
      epsilon: float [N], exploration of each lane.
    """
    self._config = config
    self._frame_skip = frame_skip
    self._exploits = epsilon <= max(_EXPLOIT_EPSILON, float(epsilon.min()))
    self._returns = collections.deque(maxlen=100)
    self._exploit_returns = collections.deque(maxlen=30)
    self._num_episodes = 0
    self._return_total = 0.0
    self._eval_return = _NAN
    self._minutes_before = 0.0
    self._start = time.monotonic()
    self._end: float | None = None
    self._begin_rates(0, 0)

  def state_dict(self) -> dict[str, Any]:
    """What a resumed run goes on counting from (JSON)."""
    return {
      "minutes": self.minutes(),
      "episodes": self._num_episodes,
      "return_total": self._return_total,
      "returns": list(self._returns),
      "exploit_returns": list(self._exploit_returns),
      "eval_return": self._eval_return,
    }

  def load_state_dict(
    self, state: dict[str, Any], *, steps: int, updates: int
  ) -> None:
    """The inverse of `state_dict`; the clock goes on from now.

    Args:
      state: of the run before it was resumed.
      steps: its agent steps.
      updates: its updates.
    """
    self._minutes_before = state["minutes"]
    self._num_episodes = state["episodes"]
    # Older checkpoints have none: from there on it is not known.
    self._return_total = state.get("return_total", _NAN)
    self._returns.extend(state["returns"])
    self._exploit_returns.extend(state["exploit_returns"])
    self._eval_return = state["eval_return"]
    self._start = time.monotonic()
    self._begin_rates(steps, updates)

  def count_episode(self, episode: EpisodeReport) -> None:
    """Counts a finished training game; called by the actors."""
    self._num_episodes += 1
    self._return_total += episode.episode_return
    self._returns.append(episode.episode_return)
    if self._exploits[episode.env_id]:
      self._exploit_returns.append(episode.episode_return)

  def add_evaluation(self, mean_return: float) -> None:
    """Puts the mean raw return of an evaluation into the next row."""
    self._eval_return = mean_return

  def take_evaluation(self) -> float:
    """What `add_evaluation` was given since the last row; NaN if nothing."""
    eval_return, self._eval_return = self._eval_return, _NAN
    return eval_return

  def minutes(self) -> float:
    """Wall-clock minutes of training, those before a resume included."""
    end = time.monotonic() if self._end is None else self._end
    return self._minutes_before + (end - self._start) / 60

  @property
  def has_ended(self) -> bool:
    """Whether `end_training` was called."""
    return self._end is not None

  def end_training(self) -> None:
    """Stops the clock: the final evaluation is not training time."""
    self._end = time.monotonic()

  def row(
    self,
    *,
    steps: int,
    updates: int,
    replay_size: int,
    replay_ratio: float,
    metrics: dict[str, float],
    leg_seconds: dict[str, float],
  ) -> dict[str, float | int | str]:
    """The state of the run now.

    Rates and shares are those since the last row, or since an earlier one where
    that was less than a second ago. What an earlier life of the run did never
    counts.

    Args:
      steps: agent steps, all lanes together.
      updates: learner updates.
      replay_size: items held.
      replay_ratio: trained rows per environment step, as measured.
      metrics: of learner, samples and probe; registered columns that are
        missing become NaN.
      leg_seconds: seconds spent in each leg since the start.

    Returns:
      Columns in the registry's order, then the metrics that it does not know.
      return_mean: last 100 training games of all lanes; return_exploit: last 30
      of those lanes that explore least; eval_return: of an evaluation that
      ended since the last row; share_x: part of the wall-clock time that leg x
      was busy.

    Raises:
      ValueError: a metric has the name of a column that is counted here.
    """
    now = time.monotonic()
    while (
      len(self._marks) > 1 and now - self._marks[1].time >= _MIN_RATE_SECONDS
    ):
      self._marks.popleft()
    then = self._marks[0]
    self._marks.append(_Mark(now, steps, updates, leg_seconds))
    seconds = max(now - then.time, 1e-9)
    share = {
      leg: (leg_seconds.get(leg, 0.0) - then.leg_seconds.get(leg, 0.0))
      / seconds
      for leg in _LEGS
    }
    steps_per_second = (steps - then.steps) / seconds
    counted = {
      "minutes": self.minutes(),
      "steps": steps,
      "frames": steps * self._frame_skip,
      "updates": updates,
      "episodes": self._num_episodes,
      "return_total": self._return_total,
      "return_mean": _mean(self._returns),
      "return_exploit": _mean(self._exploit_returns),
      "eval_return": self.take_evaluation(),
      "frames_per_second": steps_per_second * self._frame_skip,
      "updates_per_second": (updates - then.updates) / seconds,
      "replay_size": replay_size,
      "replay_ratio": replay_ratio,
      **{f"share_{leg}": value for leg, value in share.items()},
      "bottleneck": _bottleneck(share, learning=updates > then.updates),
      "minutes_left": self._minutes_left(steps, steps_per_second),
    }
    if taken := counted.keys() & metrics.keys():
      raise ValueError(
        f"metrics of the learner's step: {', '.join(sorted(taken))} are names"
        " of the run's own columns; choose others"
      )
    # Later dicts keep the places that the first one gives.
    return {**dict.fromkeys(COLUMNS, _NAN), **counted, **metrics}

  def _begin_rates(self, steps: int, updates: int) -> None:
    self._marks = collections.deque([_Mark(self._start, steps, updates, {})])

  def _minutes_left(self, steps: int, steps_per_second: float) -> float:
    run = self._config.run
    left = []
    if steps_per_second > 0:
      left.append((run.total_steps - steps) / steps_per_second / 60)
    if run.max_minutes:
      left.append(run.max_minutes - self.minutes())
    return max(0.0, min(left)) if left else _NAN


def _bottleneck(share: dict[str, float], *, learning: bool) -> str:
  """The busiest leg of the side that the others wait for."""
  waited_for = max(_WAITS, key=lambda leg: share[leg])
  if not learning:  # the replay is being filled
    legs = _ACTOR_LEGS
  elif share[waited_for] == 0.0:  # one thread: nobody waits
    legs = _ACTOR_LEGS + _LEARNER_LEGS
  else:
    legs = {
      "wait_for_learner": _LEARNER_LEGS,
      "wait_for_actors": _ACTOR_LEGS,
      "wait_for_data": _PREFETCH_LEGS,
    }[waited_for]
  return max(legs, key=lambda leg: share[leg])


def _mean(values: collections.deque[float]) -> float:
  now = tuple(values)  # a copy: the actors append meanwhile
  return float(np.mean(now)) if now else _NAN


def summary(returns: np.ndarray) -> str:
  """One line about the raw returns of whole games."""
  return (
    f"mean {returns.mean():.2f}, median {np.median(returns):.2f}, min"
    f" {returns.min():g}, max {returns.max():g} over {len(returns)} games"
  )
