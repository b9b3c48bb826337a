"""The governor with a simulated fleet: nobody runs away, nobody stops."""

import collections
import heapq
import itertools

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import pytest

from r2d2_jax.cluster.governor import Governor

_LANES = 4
_ROWS = 40  # of an update
_MIN_SLACK = 4 * _ROWS


class Fleet:
  """Actor hosts and a learner that take simulated time."""

  def __init__(self, *, ratio, call_seconds, update_seconds, total=10**9):
    self.governor = Governor(
      ratio,
      call_steps=[_LANES] * len(call_seconds),
      update_rows=2 * _ROWS,  # some of it is padding: the governor measures
      lease_seconds=0.25,
      total_steps=total,
      min_slack_rows=_MIN_SLACK,
    )
    self.governor.set_filled(True)
    self.ratio = ratio
    self.worst = 0.0  # share of what rows and steps may be apart
    self.call_seconds = call_seconds
    self.update_seconds = update_seconds
    self.now = 0.0
    self.updates = 0
    self.dead = set()
    self.learner_waits_until = 0.0
    self._numbers = itertools.count()
    self._events = []
    self._queues = [collections.deque() for _ in call_seconds]
    self._grants = collections.deque()
    self._busy = set()

  def run(self, seconds):
    """Goes on for so long; both sides ask as often as they can."""
    end = self.now + seconds
    while True:
      self._ask()
      if not self._events or self._events[0][0] > end:
        self.now = end
        return
      self.now, _, happen = heapq.heappop(self._events)
      happen()
      self._measure()

  def _measure(self):
    """See the governor's module: half of the slack, and a call."""
    due = self.ratio * self.governor.counted_steps
    trained = self.governor.state_dict()["trained_rows"]
    allowed = max(_MIN_SLACK, 0.04 * due) / 2 + self.ratio * _LANES
    self.worst = max(self.worst, abs(due - trained) / allowed)

  def kill(self, actor):
    """The host dies: what it was doing is never reported."""
    self.dead.add(actor)
    self._queues[actor].clear()
    self._busy.discard(actor)
    self.governor.lost(actor)

  def revive(self, actor):
    self.dead.discard(actor)

  def _ask(self):
    for actor in range(len(self.call_seconds)):
      if actor in self.dead:
        continue
      while lease := self.governor.lease(actor):
        self._queues[actor].append(lease)
      self._begin(actor)
    while updates := self.governor.grant():
      self._grants.append(updates)
    self._begin_learner()

  def _begin(self, actor):
    if actor in self._busy or not self._queues[actor]:
      return
    lease = self._queues[actor].popleft()
    self._busy.add(actor)
    seconds = lease.calls * self.call_seconds[actor]

    def done():
      # Of a life before: the governor does not know the lease any more.
      self.governor.report(
        lease, calls=lease.calls, steps=lease.steps, seconds=seconds
      )
      self._busy.discard(actor)

    self._at(self.now + seconds, done)

  def _begin_learner(self):
    if "learner" in self._busy or not self._grants:
      return
    updates = self._grants.popleft()
    self._busy.add("learner")
    seconds = updates * self.update_seconds

    def done():
      self.updates += updates
      self.governor.trained(
        updates=updates, rows=updates * _ROWS, seconds=seconds
      )
      self._busy.discard("learner")

    self._at(max(self.now, self.learner_waits_until) + seconds, done)

  def _at(self, time, happen):
    heapq.heappush(self._events, (time, next(self._numbers), happen))


_SPEEDS = st.floats(0.0005, 0.02)


@settings(max_examples=25)
@given(
  ratio=st.sampled_from([0.25, 0.8, 1.0, 4.0]),
  call_seconds=st.lists(_SPEEDS, min_size=1, max_size=4),
  update_seconds=st.floats(0.001, 0.2),
)
def test_ratio_is_kept_whoever_is_slower(ratio, call_seconds, update_seconds):
  fleet = Fleet(
    ratio=ratio, call_seconds=call_seconds, update_seconds=update_seconds
  )
  fleet.run(40.0)
  assert fleet.updates > 0
  assert abs(fleet.governor.measured() / ratio - 1) < 0.05


# Minutes of simulation are not worth to be made smaller by repeating them.
@settings(max_examples=25, phases=[Phase.generate])
@given(data=st.data())
def test_rows_and_steps_are_never_further_apart_than_half_the_slack(data):
  """Whatever happens, at every moment: so the ratio is right early."""
  num_actors = data.draw(st.integers(1, 4))
  fleet = Fleet(
    ratio=data.draw(st.sampled_from([0.25, 1.0, 4.0])),
    call_seconds=data.draw(
      st.lists(_SPEEDS, min_size=num_actors, max_size=num_actors)
    ),
    update_seconds=data.draw(st.floats(0.001, 0.2)),
  )
  fleet.governor.set_filled(False)
  fleet.run(data.draw(st.floats(0.1, 3.0)))
  fleet.governor.set_filled(True)
  fleet.learner_waits_until = fleet.now + data.draw(st.floats(0.0, 20.0))
  for _ in range(data.draw(st.integers(0, 4))):
    actor = data.draw(st.integers(0, num_actors - 1))
    fleet.run(data.draw(st.floats(0.0, 3.0)))
    fleet.kill(actor)
    fleet.run(data.draw(st.floats(0.0, 3.0)))
    fleet.revive(actor)
  fleet.run(20.0)
  assert 0 < fleet.worst <= 1


def test_keeping_the_ratio_early_costs_the_learner_nothing():
  """Also while the slack is a fraction of what both have on the way later."""
  fleet = Fleet(ratio=1.0, call_seconds=[0.002, 0.002], update_seconds=0.02)
  fleet.run(5.0)
  assert fleet.updates > 0.97 * 5.0 / 0.02


@settings(max_examples=10)
@given(data=st.data())
def test_ratio_is_kept_while_actors_die(data):
  fleet = Fleet(
    ratio=1.0, call_seconds=[0.002, 0.003, 0.005], update_seconds=0.02
  )
  for _ in range(data.draw(st.integers(1, 8))):
    actor = data.draw(st.integers(0, 2))
    fleet.run(data.draw(st.floats(0.0, 3.0)))
    fleet.kill(actor)
    fleet.run(data.draw(st.floats(0.0, 3.0)))
    fleet.revive(actor)
  fleet.run(60.0)
  assert abs(fleet.governor.measured() - 1) < 0.05


def test_the_slower_side_never_waits():
  slow_learner = Fleet(ratio=1.0, call_seconds=[0.001], update_seconds=0.1)
  slow_learner.run(20.0)
  assert slow_learner.updates > 190  # of 200
  slow_actors = Fleet(ratio=1.0, call_seconds=[0.01], update_seconds=0.001)
  slow_actors.run(20.0)
  assert slow_actors.governor.env_steps > 0.95 * 20 / 0.01 * _LANES


def test_actors_stop_beside_a_dead_learner_and_go_on_when_it_is_back():
  fleet = Fleet(ratio=1.0, call_seconds=[0.002, 0.002], update_seconds=0.02)
  fleet.run(10.0)
  fleet.learner_waits_until = 1_000.0
  fleet.run(5.0)
  stopped_at = fleet.governor.env_steps
  fleet.run(900.0)
  assert fleet.governor.env_steps == stopped_at
  assert not fleet.governor.actors_may_step()
  # Some seconds of steps at most, however long it takes.
  assert stopped_at - fleet.governor.state_dict()["trained_rows"] < 20_000
  fleet.run(200.0)
  assert fleet.governor.env_steps > stopped_at
  assert abs(fleet.governor.measured() - 1) < 0.05


def test_a_learner_that_went_back_catches_up_while_the_actors_wait():
  fleet = Fleet(ratio=1.0, call_seconds=[0.002], update_seconds=0.005)
  fleet.run(10.0)
  saved = fleet.governor.state_dict()
  fleet.run(10.0)
  steps = fleet.governor.env_steps
  fleet.governor.learner_lost(saved)
  assert fleet.governor.state_dict()["trained_rows"] == saved["trained_rows"]
  fleet.run(0.5)
  assert fleet.governor.env_steps < steps + 3 * 0.25 / 0.002 * _LANES
  fleet.run(30.0)
  assert abs(fleet.governor.measured() - 1) < 0.05


def test_a_learner_that_was_never_saved_begins_again():
  fleet = Fleet(ratio=1.0, call_seconds=[0.002], update_seconds=0.005)
  fleet.run(1.0)
  fleet.governor.learner_lost(None)
  assert fleet.governor.state_dict()["trained_rows"] == 0


def test_actors_fill_the_replay_freely_and_the_learner_waits_for_it():
  fleet = Fleet(ratio=1.0, call_seconds=[0.002], update_seconds=0.005)
  fleet.governor.set_filled(False)
  fleet.run(10.0)
  assert fleet.updates == 0
  filled_with = fleet.governor.env_steps
  assert filled_with > 10_000
  fleet.governor.set_filled(True)
  fleet.run(10.0)
  # What filled it is not caught up with.
  counts = fleet.governor.state_dict()
  assert counts["start_steps"] >= filled_with
  assert abs(fleet.governor.measured() - 1) < 0.1


def test_steps_end_with_the_run():
  fleet = Fleet(
    ratio=1.0, call_seconds=[0.002, 0.003], update_seconds=0.001, total=10_000
  )
  fleet.run(60.0)
  # A host's last call may have some lanes too many.
  assert 10_000 <= fleet.governor.env_steps < 10_000 + 2 * _LANES


def test_what_a_lost_host_reports_late_counts_nothing():
  governor = Fleet(
    ratio=1.0, call_seconds=[0.002], update_seconds=0.001
  ).governor
  lease = governor.lease(0)
  governor.lost(0)
  governor.report(lease, calls=1, steps=4, seconds=1.0)
  assert governor.env_steps == 0
  again = governor.lease(0)
  governor.report(again, calls=1, steps=3, seconds=1.0)
  governor.report(again, calls=1, steps=3, seconds=1.0)
  assert governor.env_steps == 3


def test_a_grant_is_no_more_than_the_batches_at_hand():
  governor = Fleet(
    ratio=1.0, call_seconds=[0.002], update_seconds=0.001
  ).governor
  assert governor.grant(at_most=0) == 0
  assert governor.grant(at_most=3) == 1  # the first one compiles
  governor.trained(updates=0, rows=0, seconds=0.1)
  assert governor.measured() == 0


@pytest.mark.parametrize("start_steps", [None, 7])
def test_counts_go_on_from_a_checkpoint(start_steps):
  saved = {"env_steps": 10, "trained_rows": 2, "start_steps": start_steps}
  governor = Fleet(
    ratio=1.0, call_seconds=[0.002], update_seconds=0.001
  ).governor
  governor.load_state_dict(saved)
  assert governor.state_dict() == saved
  assert governor.is_filled == (start_steps is not None)
