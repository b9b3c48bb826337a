"""The replay ratio over many processes: leases of steps, grants of updates.

An actor host asks for nothing while it steps: it gets a *lease*, so many steps
of its world, and reports when they are done. The learner gets a *grant*, so
many updates. Both are about `lease_seconds` of work, and two of each are on the
way, so that nobody waits for an answer between two batches.

Let r be the ratio asked for, s the steps reported and t the rows trained since
the count began, l the steps in leases that are out, g the rows in grants that
are out, and d half of the slack. A grant covers updates only while
r s - t - g >= -d after them; a lease is given only while r (s + l) - t < d. So
whatever dies, compiles or is saved, and whichever side is the slower one,

    -d <= r s - t <= d + r c,    c the steps of one call.

The slack is what both sides have on the way, so that the slower one never
waits, but no more than a small share of the rows due so far, r s: the measured
ratio, t / s, is near r from the beginning. At least it is what lets both sides
take a step (two batches and two vector steps).
"""

import threading
from typing import NamedTuple

from r2d2_jax.system.loops.ratio import RatioState, ReplayRatio

# Leases, and grants, that one process may have at a time: one that it works on
# and one that waits for it.
ON_THE_WAY = 2
# The first lease is one call, which compiles; then as many as this times more
# until the rate is known.
_GROWTH = 8
# The slack as a share of the rows that are due: the measured ratio is off by
# half of it at most, once that is more than `min_slack_rows`.
_SLACK_SHARE = 0.04
_MAX_CALLS = 100_000


class Lease(NamedTuple):
  """What an actor host may do before it reports."""

  actor: int
  calls: int  # steps of its world
  steps: int  # environment steps that these are at most
  is_filling: bool = False  # given while the replay was being filled


class _Pace:
  """How many calls make up a lease's time."""

  def __init__(self, seconds: float):
    self._seconds = seconds
    self.calls = 1

  def measured(self, calls: int, seconds: float) -> None:
    """Takes what the last one did."""
    if calls <= 0:
      return
    fitting = int(calls * self._seconds / max(seconds, 1e-6))
    # Half of the way, since one may have been disturbed.
    wanted = (self.calls + min(fitting, _GROWTH * self.calls) + 1) // 2
    self.calls = max(1, min(wanted, _MAX_CALLS))


class Governor:
  """Counts for the whole cluster; safe to use from several threads."""

  def __init__(
    self,
    ratio: float,
    *,
    call_steps: list[int],
    update_rows: int,
    lease_seconds: float,
    total_steps: int,
    min_slack_rows: int,
  ):
    """See the module.

    Args:
      ratio: trained rows per environment step.
      call_steps: steps of one call, at most, by actor host.
      update_rows: rows that an update trains on at most; measured from then on.
      lease_seconds: how long a lease should last.
      total_steps: of the run; leases end there.
      min_slack_rows: how far both sides may always be apart, in rows; two
        updates at least.
    """
    self._lock = threading.RLock()
    self._asked = ratio
    self._call_steps = call_steps
    self._total_steps = total_steps
    self._min_slack = min_slack_rows
    self._counts = ReplayRatio(ratio, slack_rows=0)
    self._out: list[list[Lease]] = [[] for _ in call_steps]
    self._paces = [_Pace(lease_seconds) for _ in call_steps]
    self._grants: list[int] = []
    self._learner_pace = _Pace(lease_seconds)
    self._rows_per_update = float(update_rows)
    self._is_filled = False

  # Actors.

  def lease(self, actor: int) -> Lease | None:
    """The next lease of an actor host; None where it has to wait."""
    with self._lock:
      if len(self._out[actor]) >= ON_THE_WAY:
        return None
      steps = self._call_steps[actor]
      left = self._total_steps - self._counts.env_steps - self._steps_out()
      calls = min(self._paces[actor].calls, -(-left // steps))
      if self._is_filled:
        room = (self._slack() / 2 - self._ahead()) / self._asked
        fair = self._piece() / self._asked / len(self._call_steps)
        calls = min(calls, max(1, int(fair / steps)), int(-(-room // steps)))
      if calls <= 0:
        return None
      lease = Lease(actor, calls, calls * steps, not self._is_filled)
      self._out[actor].append(lease)
      return lease

  def report(self, lease: Lease, *, calls: int, steps: int, seconds: float):
    """Takes what became of a lease; one that was lost counts nothing.

    Args:
      lease: as given.
      calls: made, at most those of the lease.
      steps: environment steps that these completed.
      seconds: that they took.
    """
    with self._lock:
      if not self._take_back(lease):
        return
      self._counts.add_steps(steps, is_filling=lease.is_filling)
      self._paces[lease.actor].measured(calls, seconds)

  def lost(self, actor: int) -> None:
    """The actor host died: what it did not report did not happen."""
    with self._lock:
      self._out[actor].clear()

  # Learner.

  def grant(self, at_most: int = _MAX_CALLS) -> int:
    """How many updates the learner may make next; 0 where it has to wait.

    All of its hosts get the same number.

    Args:
      at_most: batches that every host has at hand.
    """
    with self._lock:
      if not self._is_filled or len(self._grants) >= ON_THE_WAY:
        return 0
      rows = self._rows_per_update
      covered = self._credit() + self._slack() / 2 - sum(self._grants) * rows
      fair = max(1, int(self._piece() / rows))
      updates = min(
        int(covered / rows), fair, self._learner_pace.calls, at_most
      )
      if updates > 0:
        self._grants.append(updates)
      return max(0, updates)

  def trained(self, *, updates: int, rows: int, seconds: float) -> None:
    """Takes what became of the oldest grant.

    Args:
      updates: made, at most those granted.
      rows: trained on, by all hosts together.
      seconds: that they took.
    """
    with self._lock:
      if not self._grants:
        return
      self._grants.pop(0)
      self._counts.add_trained_rows(rows)
      if updates:
        measured = rows / updates
        self._rows_per_update += 0.1 * (measured - self._rows_per_update)
        self._rows_per_update = max(1.0, self._rows_per_update)
        self._learner_pace.measured(updates, seconds)

  def learner_lost(self, saved: RatioState | None) -> None:
    """The learner goes back to what was saved of it; so do the trained rows.

    It then catches up, on the replay as it is, while the actors wait.

    Args:
      saved: `state_dict` of that moment; None where nothing was saved.
    """
    with self._lock:
      self._grants.clear()
      now = self._counts.state_dict()
      if now["start_steps"] is None:
        return
      if saved is None:
        rows = 0
      elif saved["start_steps"] == now["start_steps"]:
        rows = saved["trained_rows"]
      else:  # the count has begun anew since
        rows = 0
      self._counts.load_state_dict(RatioState(**{**now, "trained_rows": rows}))

  # Replay.

  def set_filled(self, is_filled: bool) -> None:
    """Whether every shard has the items that an update needs at least.

    While one has not, actors step freely and the learner waits; then the count
    begins anew, as at the first start of a run.
    """
    with self._lock:
      if is_filled and not self._is_filled:
        self._counts.start()
      elif not is_filled and self._is_filled:
        now = self._counts.state_dict()
        self._counts.load_state_dict(
          RatioState(**{**now, "trained_rows": 0, "start_steps": None})
        )
      self._is_filled = is_filled

  @property
  def is_filled(self) -> bool:
    """As `set_filled` was told last."""
    with self._lock:
      return self._is_filled

  # What the run's log and checkpoints read: as of `ReplayRatio`.

  @property
  def env_steps(self) -> int:
    """Environment steps reported so far."""
    return self._counts.env_steps

  @property
  def counted_steps(self) -> int:
    """Those of them that rows are due for."""
    return self._counts.counted_steps

  def measured(self) -> float:
    """Trained rows per environment step since the count began; 0 before it."""
    return self._counts.measured()

  def actors_may_step(self) -> bool:
    """Whether the learner is less than half of the slack behind."""
    with self._lock:
      return not self._is_filled or self._ahead() < self._slack() / 2

  def state_dict(self) -> RatioState:
    """The counts (JSON)."""
    return self._counts.state_dict()

  def load_state_dict(self, state: RatioState) -> None:
    """The inverse of `state_dict`, before the first lease."""
    with self._lock:
      self._counts.load_state_dict(state)
      self._is_filled = state["start_steps"] is not None

  def _steps_out(self) -> int:
    return sum(lease.steps for leases in self._out for lease in leases)

  def _credit(self) -> float:
    return self._counts.credit()

  def _ahead(self) -> float:
    """Rows that the steps are ahead, once all leases are used up."""
    out = sum(
      lease.steps
      for leases in self._out
      for lease in leases
      if not lease.is_filling
    )
    return self._credit() + self._asked * out

  def _slack(self) -> float:
    """How far both sides may be apart, see the module."""
    steps = sum(
      pace.calls * steps
      for pace, steps in zip(self._paces, self._call_steps, strict=True)
    )
    rows = self._learner_pace.calls * self._rows_per_update
    on_both_sides = 2 * ON_THE_WAY * min(self._asked * steps, rows)
    due = self._asked * self._counts.counted_steps
    return max(self._min_slack, min(on_both_sides, _SLACK_SHARE * due))

  def _piece(self) -> float:
    """Rows of a lease of all actors, or of a grant, at most.

    Then both sides have theirs on the way, and the slack is divided among them.
    """
    return self._slack() / (2 * ON_THE_WAY)

  def _take_back(self, lease: Lease) -> bool:
    """Whether the lease was out; it no longer is."""
    for i, out in enumerate(self._out[lease.actor]):
      if out is lease:
        del self._out[lease.actor][i]
        return True
    return False
