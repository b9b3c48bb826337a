"""The replay ratio, kept: who may go on, the actors or the learner."""

import threading
from typing import TypedDict


class RatioState(TypedDict):
  """The counts of a `ReplayRatio` (JSON)."""

  env_steps: int
  trained_rows: int
  start_steps: int | None  # environment steps at the first update


class ReplayRatio:
  """Holds trained rows / environment steps at the asked value.

  The unit, once: *trained rows* are transitions in the trained part of sampled
  items (burn-in and padding excluded); *environment steps* are agent steps, all
  lanes together. Both are counted from the first update on, so that the filling
  of the replay is not caught up with in a burst. A run that is resumed with
  another ratio, or with a replay to be filled, counts anew.

  The learner may train while its rows are covered by steps taken; the actors
  may step until the learner is `slack_rows` behind. So neither runs away, and
  the measured ratio stays within slack_rows of the one asked for.

  Safe to use from several threads.
  """

  def __init__(self, ratio: float, *, slack_rows: int):
    """See the class.

    Args:
      ratio: trained rows per environment step, above 0.
      slack_rows: how far the learner may be behind; more than one batch's rows
        and one vector step's (times ratio), or the two could block each other.
    """
    self._ratio = ratio
    self._slack = slack_rows
    self._condition = threading.Condition()
    self._env_steps = 0
    self._trained_rows = 0
    self._start_steps: int | None = None

  def add_steps(self, num_steps: int, *, is_filling: bool = False) -> None:
    """Counts environment steps.

    Args:
      num_steps: how many.
      is_filling: they belong to the filling of the replay, though they are
        reported after the first update: nothing is to be trained on for them.
    """
    with self._condition:
      self._env_steps += num_steps
      if is_filling and self._start_steps is not None:
        self._start_steps += num_steps
      self._condition.notify_all()

  def add_trained_rows(self, num_rows: int) -> None:
    """Counts the trained rows of a batch, before or while it is trained on."""
    with self._condition:
      self._trained_rows += num_rows
      self._condition.notify_all()

  def start(self) -> None:
    """Marks the first update: counting begins here. Later calls do nothing."""
    with self._condition:
      if self._start_steps is None:
        self._start_steps = self._env_steps
        self._condition.notify_all()

  def learner_may_train(self) -> bool:
    """Whether the rows trained on so far are covered by steps."""
    with self._condition:
      return self._credit() >= 0

  def actors_may_step(self) -> bool:
    """Whether the learner is less than the slack behind."""
    with self._condition:
      return self._credit() < self._slack

  def wait_for_learner_turn(self, timeout_seconds: float) -> bool:
    """Blocks until `learner_may_train`, at most so long; whether it is."""
    with self._condition:
      return self._condition.wait_for(
        lambda: self._credit() >= 0, timeout_seconds
      )

  def wait_for_actors_turn(self, timeout_seconds: float) -> bool:
    """Blocks until `actors_may_step`, at most so long; whether they may."""
    with self._condition:
      return self._condition.wait_for(
        lambda: self._credit() < self._slack, timeout_seconds
      )

  def credit(self) -> float:
    """Rows that may be trained on and have not been; 0 before the start."""
    with self._condition:
      return self._credit()

  @property
  def env_steps(self) -> int:
    """Environment steps so far, the filling of the replay included."""
    with self._condition:
      return self._env_steps

  @property
  def counted_steps(self) -> int:
    """Those of them that count: since the first update; 0 before it."""
    with self._condition:
      if self._start_steps is None:
        return 0
      return self._env_steps - self._start_steps

  def measured(self) -> float:
    """Trained rows per environment step since the count began; 0 before it."""
    with self._condition:
      if self._start_steps is None or self._env_steps == self._start_steps:
        return 0.0
      return self._trained_rows / (self._env_steps - self._start_steps)

  def state_dict(self) -> RatioState:
    """The counts (JSON)."""
    with self._condition:
      return {
        "env_steps": self._env_steps,
        "trained_rows": self._trained_rows,
        "start_steps": self._start_steps,
      }

  def load_state_dict(self, state: RatioState) -> None:
    """The inverse of `state_dict`."""
    with self._condition:
      self._env_steps = state["env_steps"]
      self._trained_rows = state["trained_rows"]
      self._start_steps = state["start_steps"]
      self._condition.notify_all()

  def _credit(self) -> float:
    """Rows that may be trained on and have not been; 0 before the start."""
    if self._start_steps is None:
      return 0.0
    steps = self._env_steps - self._start_steps
    return self._ratio * steps - self._trained_rows
