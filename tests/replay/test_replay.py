"""The contract that both memories keep."""

import dataclasses
import re
import threading
import warnings

import jax
import numpy as np
import pytest

from r2d2_jax import types
from r2d2_jax.config import (
  AgentConfig,
  Config,
  EnvConfig,
  ReplayConfig,
  validate,
)
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from tests.replay.tape import (
  CARRIES,
  NUM_ACTIONS,
  SEQUENCE_FIELDS,
  Lengths,
  StampingActor,
  assert_same_tree,
  column,
  expected_carry,
  lane_of,
  play,
)
from tests.stamped import StampedWorld

LENGTHS = Lengths(4, 8, 4)
# For what comes at once on a machine that is not overloaded.
WAIT_SECONDS = 30.0
PREFETCHED_BATCHES = 10  # more than any backend draws ahead


def make_world():
  return StampedWorld(
    [[150, 3], [20, 1, 9, 40]], num_actions=NUM_ACTIONS, obs="image"
  )


def make_config(capacity=1000, num_envs=2, row_states=False):
  return Config(
    env=EnvConfig(num_envs=num_envs),
    agent=AgentConfig(**LENGTHS._asdict()),
    replay=ReplayConfig(
      capacity_sequences=capacity, priority_exponent=0.9, row_states=row_states
    ),
  )


@pytest.fixture(name="items", scope="module")
def _items():
  """Items in the order in which they came; the padded ones among them."""
  return [
    item for lane in play(make_world(), LENGTHS, 160).items for item in lane
  ]


@pytest.fixture(
  name="make",
  params=["local", pytest.param("reverb", marks=pytest.mark.reverb)],
)
def _make(request):
  """Makes a replay of the backend under test and closes it afterwards."""
  made = []

  def make(capacity=1000, num_envs=2, config=None, core_state=None, **kwargs):
    world = make_world()
    arguments = (
      config or make_config(capacity, num_envs),
      world.spec,
      core_state or StampingActor(world).example(),
    )
    if request.param == "local":
      made.append(LocalReplay(*arguments, seed=0, **kwargs))
    else:
      pytest.importorskip("reverb")
      from r2d2_jax.replay.reverb import ReverbReplay

      with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.append(ReverbReplay(*arguments, **kwargs))
      assert any(
        re.search("without credentials.*'local'", str(w.message))
        for w in caught
      )
    return made[-1]

  yield make
  for replay in made:
    replay.close()


def sample_many(replay, num_batches, batch_size=32):
  return [replay.sample(batch_size, WAIT_SECONDS) for _ in range(num_batches)]


def stamps(batch):
  """What identifies each item of a batch: its last trained row, its length."""
  obs = batch.sequence.inputs.obs_t
  valid = batch.sequence.valid_t
  last = valid.shape[1] - 1 - np.argmax(valid[:, ::-1], axis=1)
  newest = obs[np.arange(len(obs)), last]
  return [tuple(x) for x in newest[:, 0, :4].tolist()]


def stamp(item):
  return tuple(
    column(item, "obs_t")[column(item, "valid_t")][-1, 0, :4].tolist()
  )


def counts(batches, items):
  seen = [s for batch in batches for s in stamps(batch)]
  return np.array([seen.count(stamp(item)) for item in items])


def chi_square(observed, probability):
  expected = observed.sum() * probability
  assert not observed[expected == 0].any()
  keep = expected > 0
  return np.sum((observed - expected)[keep] ** 2 / expected[keep])


def assert_same_rows(sequence, index, item):
  inputs = sequence.inputs
  for name in SEQUENCE_FIELDS:
    got = getattr(inputs if name in inputs._fields else sequence, name)[index]
    want = column(item, name)
    assert got.dtype == want.dtype, name
    np.testing.assert_array_equal(got, want, err_msg=name)
  assert_same_tree(
    jax.tree.map(lambda x: x[index], sequence.core_state), item.core_state
  )


def test_items_come_back_bit_for_bit(make, items):
  replay = make()
  for i in range(0, len(items), 5):
    replay.insert(items[i : i + 5], np.ones(len(items[i : i + 5])))
  assert replay.size() == replay.num_inserted() == len(items) > 40
  by_stamp = {stamp(item): item for item in items}
  assert len(by_stamp) == len(items)
  missing = set(by_stamp)
  for _ in range(100):
    batch = replay.sample(16, WAIT_SECONDS)
    assert batch.probability.dtype == np.float64
    assert batch.keys.dtype == np.uint64
    assert batch.probability.shape == batch.keys.shape == (16,)
    for i, s in enumerate(stamps(batch)):
      assert_same_rows(batch.sequence, i, by_stamp[s])
      missing.discard(s)
    if not missing:
      break
  assert not missing


def test_samples_know_where_they_come_from(make, items):
  replay = make()
  replay.insert(items, np.ones(len(items)))
  by_stamp = {stamp(item): item for item in items}
  for batch in sample_many(replay, 10):
    assert batch.row_carry is None
    origin = batch.origin
    assert [x.dtype for x in origin] == [np.int32, np.int32, np.int64, np.int32]
    for i, s in enumerate(stamps(batch)):
      assert origin.env_id[i] == lane_of(by_stamp[s])
      for name in ("num_updates", "step"):
        np.testing.assert_array_equal(
          getattr(origin, name)[i], column(by_stamp[s], name)
        )
  assert {lane_of(item) for item in items} == {0, 1}


def test_row_states_come_back_with_their_rows(make, tmp_path):
  config = make_config(row_states=True)
  tape = play(make_world(), LENGTHS, 160, row_states=True)
  items = [item for lane in tape.items for item in lane]
  by_stamp = {stamp(item): column(item, "row_carry") for item in items}
  replay = make(config=config)
  replay.insert(items, np.ones(len(items)))
  replay.save(tmp_path)
  for source in (replay, make(config=config, restore_from=tmp_path)):
    for batch in sample_many(source, 10):
      c, h = batch.row_carry
      assert c.dtype == h.dtype == np.float32
      assert c.shape == h.shape == (32, LENGTHS.item_rows, 3)
      for i, s in enumerate(stamps(batch)):
        np.testing.assert_array_equal(
          np.concatenate([c[i], h[i]], axis=1), by_stamp[s]
        )
  assert sum(np.count_nonzero(x) for x in by_stamp.values()) > 300


@pytest.mark.parametrize("row_states, expected", [(False, None), (True, ())])
def test_row_states_of_a_core_without(make, tmp_path, row_states, expected):
  stateless = lambda n: types.CoreState(np.zeros((n, 0, 84, 84), np.uint8), ())
  world = make_world()
  builder = SequenceBuilder(
    2,
    spec=world.spec,
    core_state=stateless(1),
    row_states=row_states,
    **LENGTHS._asdict(),
  )
  actor, items = StampingActor(world), []
  world.reset()
  for _ in range(30):
    timestep = world.recv()
    output, _ = actor.step(timestep)
    items += builder.add(timestep, output._replace(core_state=stateless(2)))
    world.send(output.a_t, timestep.env_id)
  config = make_config(row_states=row_states)
  replay = make(config=config, core_state=stateless(1))
  replay.insert(items, np.ones(len(items)))
  replay.save(tmp_path)
  restored = make(config=config, core_state=stateless(1), restore_from=tmp_path)
  for source in (replay, restored):
    assert source.sample(8, WAIT_SECONDS).row_carry == expected


@pytest.mark.parametrize("core", CARRIES)
@pytest.mark.parametrize("row_states", [False, True])
def test_whatever_a_core_carries_comes_back(make, tmp_path, core, row_states):
  config, world = make_config(row_states=row_states), make_world()
  actor = StampingActor(world, CARRIES[core])
  tape = play(world, LENGTHS, 160, actor=actor, row_states=row_states)
  items = [item for lane in tape.items for item in lane]
  by_stamp = {stamp(item): item for item in items}
  replay = make(config=config, core_state=actor.example())
  replay.insert(items, np.ones(len(items)))
  replay.save(tmp_path)
  restored = make(
    config=config, core_state=actor.example(), restore_from=tmp_path
  )
  for source in (replay, restored):
    for batch in sample_many(source, 5):
      for i, s in enumerate(stamps(batch)):
        of_item = lambda x, i=i: x[i]
        rows = expected_carry(by_stamp[s], CARRIES[core])
        assert_same_rows(batch.sequence, i, by_stamp[s])
        assert_same_tree(
          jax.tree.map(of_item, batch.sequence.core_state.carry),
          jax.tree.map(lambda x: x[0], rows),
        )
        if row_states:
          assert_same_tree(jax.tree.map(of_item, batch.row_carry), rows)
        else:
          assert batch.row_carry is None


def test_draws_of_an_item_are_counted_with_this_one(make, items):
  replay = make(capacity=4)
  for k in range(2):  # those of an item that left don't count
    replay.insert(items[4 * k : 4 * k + 4], np.ones(4))
    batches = sample_many(replay, 3, batch_size=5)
    seen = {}
    for batch in batches:
      for s, times in zip(
        stamps(batch), batch.origin.times_sampled, strict=True
      ):
        seen.setdefault(s, []).append(times)
    # What was prefetched counts, and is in any order.
    for times in seen.values():
      assert len(set(times)) == len(times)
      assert 1 <= min(times) and max(times) <= 5 * (3 + PREFETCHED_BATCHES)


def test_items_of_lanes_at_different_paces_come_back_bit_for_bit(make, items):
  # Made for one lane: a lane that waits finds its older blocks forgotten.
  replay = make(num_envs=1)
  lanes = [[i for i in items if stamp(i)[0] == lane] for lane in (0, 1)]
  order = lanes[0][:3] + lanes[1] + lanes[0][3:]
  for item in order:
    replay.insert([item], np.ones(1))
  by_stamp = {stamp(item): item for item in items}
  for batch in sample_many(replay, 20):
    for i, s in enumerate(stamps(batch)):
      assert_same_rows(batch.sequence, i, by_stamp[s])


def _random_lengths():
  """Lengths that `validate` accepts, and episodes as short as they may be."""
  random = np.random.default_rng(3)
  yield Lengths(40, 80, 20), [30]
  for _ in range(9):
    block_rows = int(random.choice([1, 4, 10]))
    # Blocks shorter than four rows are for items of 16 rows or fewer.
    trace, burn_in = random.integers(2, 9), random.integers(0, 8)
    overlap = random.integers(1, trace)
    episodes = random.integers(2, (burn_in + trace) * block_rows + 2, 6)
    yield (
      Lengths(*(int(x) * block_rows for x in (burn_in, trace, overlap))),
      (episodes.tolist()),
    )


@pytest.mark.parametrize("lengths, episodes", list(_random_lengths()))
def test_items_of_short_episodes_come_back_whatever_the_lengths(
  make, lengths, episodes
):
  config = Config(
    env=EnvConfig(num_envs=1),
    agent=AgentConfig(**lengths._asdict(), batch_size=4),
    replay=ReplayConfig(min_sequences=4, capacity_sequences=1000),
  )
  validate(config)
  world = StampedWorld([episodes], num_actions=NUM_ACTIONS, obs="image")
  [items] = play(world, lengths, sum(episodes) + 2 * len(episodes)).items
  replay = make(config=config)
  replay.insert(items, np.ones(len(items)))
  by_stamp = {stamp(item): item for item in items}
  assert len(by_stamp) == len(items) >= len(episodes)
  missing = set(by_stamp)
  for _ in range(100):
    batch = replay.sample(16, WAIT_SECONDS)
    for i, s in enumerate(stamps(batch)):
      assert_same_rows(batch.sequence, i, by_stamp[s])
      missing.discard(s)
    if not missing:
      break
  assert not missing


def test_frequencies_are_proportional_to_priority_to_the_exponent(make, items):
  replay = make()
  priorities = np.array([0.0, 0.1, 0.5, 1.0, 1.0, 3.0, 10.0, 40.0])
  replay.insert(items[:8], priorities)
  probability = priorities**0.9 / np.sum(priorities**0.9)
  batches = sample_many(replay, 100)
  # 6 degrees of freedom: 38 is exceeded once in a million runs.
  assert chi_square(counts(batches, items[:8]), probability) < 38
  by_stamp = {
    stamp(item): p for item, p in zip(items[:8], probability, strict=True)
  }
  for batch in batches:
    np.testing.assert_allclose(
      batch.probability, [by_stamp[s] for s in stamps(batch)], rtol=1e-6
    )


def test_updates_change_frequencies_by_the_same_exponent(make, items):  # 18
  replay = make()
  replay.insert(items[:8], np.full(8, 5.0))
  key_of = {}
  while len(key_of) < 8:
    batch = replay.sample(32, WAIT_SECONDS)
    key_of.update(zip(stamps(batch), batch.keys, strict=True))
  priorities = np.array([0.0, 0.1, 0.5, 1.0, 1.0, 3.0, 10.0, 40.0])
  keys = np.array([key_of[stamp(item)] for item in items[:8]], np.uint64)
  replay.update_priorities(keys, priorities)
  sample_many(replay, PREFETCHED_BATCHES)
  batches = sample_many(replay, 100)
  probability = priorities**0.9 / np.sum(priorities**0.9)
  assert chi_square(counts(batches, items[:8]), probability) < 38
  by_stamp = {
    stamp(item): p for item, p in zip(items[:8], probability, strict=True)
  }
  for batch in batches:
    np.testing.assert_allclose(
      batch.probability, [by_stamp[s] for s in stamps(batch)], rtol=1e-6
    )


def test_while_all_priorities_are_zero_items_are_equally_likely(make, items):
  replay = make()
  replay.insert(items[:4], np.zeros(4))
  batches = sample_many(replay, 50)
  # 3 degrees of freedom: 31 is exceeded once in a million runs.
  assert chi_square(counts(batches, items[:4]), np.full(4, 0.25)) < 31
  for batch in batches:
    np.testing.assert_allclose(batch.probability, 0.25)


def test_the_oldest_leave_first_and_capacity_is_kept(make, items):
  replay = make(capacity=8)
  replay.insert(items[:5], np.ones(5))
  assert (replay.size(), replay.num_inserted()) == (5, 5)
  replay.insert(items[5:12], np.ones(7))
  assert (replay.size(), replay.num_inserted()) == (8, 12)
  seen = counts(sample_many(replay, 20), items[:12])
  assert not seen[:4].any()
  assert seen[4:].all()
  replay.insert(items[12:32], np.ones(20))  # more than fit, at once
  assert (replay.size(), replay.num_inserted()) == (8, 32)
  sample_many(replay, PREFETCHED_BATCHES)
  seen = counts(sample_many(replay, 20), items[:32])
  assert not seen[:24].any()
  assert seen[24:].all()


def test_priorities_of_evicted_items_are_dropped(make, items):  # mistake 21
  replay = make(capacity=8)
  replay.insert(items[:8], np.ones(8))
  old = {}
  while len(old) < 8:
    batch = replay.sample(32, WAIT_SECONDS)
    old.update(zip(stamps(batch), batch.keys, strict=True))
  replay.insert(items[8:16], np.ones(8))
  replay.update_priorities(
    np.array(list(old.values()), np.uint64), np.linspace(0.0, 1e6, 8)
  )
  never_given = np.array([123456789], np.uint64)
  replay.update_priorities(never_given, np.array([1e6]))
  sample_many(replay, PREFETCHED_BATCHES)
  batches = sample_many(replay, 50)
  # 7 degrees of freedom: 41 is exceeded once in a million runs.
  assert chi_square(counts(batches, items[8:16]), np.full(8, 1 / 8)) < 41
  for batch in batches:
    np.testing.assert_allclose(batch.probability, 1 / 8)
  assert replay.size() == 8


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, -1.0])
def test_priorities_that_damage_the_table_are_refused(make, items, wrong):
  replay = make()
  steep = dataclasses.replace(
    make_config(), replay=ReplayConfig(priority_exponent=8.0)
  )
  with pytest.raises(ValueError, match="finite priorities >= 0"):
    replay.insert(items[:2], np.array([1.0, wrong]))
  assert replay.size() == 0
  replay.insert(items[:2], np.ones(2))
  keys = replay.sample(4, WAIT_SECONDS).keys
  with pytest.raises(ValueError, match="finite priorities >= 0"):
    replay.update_priorities(keys, np.array([1.0, 1.0, wrong, 1.0]))
  with pytest.raises(ValueError, match="expected 2 priorities"):
    replay.insert(items[:2], np.ones(3))
  with pytest.raises(ValueError, match="expected 4 priorities"):
    replay.update_priorities(keys, np.ones(3))
  with pytest.raises(ValueError, match="whose power .* = 8.0 is finite"):
    make(config=steep).insert(items[:2], np.full(2, 1e40))
  np.testing.assert_allclose(
    np.concatenate([b.probability for b in sample_many(replay, 5)]), 0.5
  )


def test_an_empty_replay_does_not_block_for_ever(make, items):
  replay = make()
  with pytest.raises(TimeoutError, match="empty"):
    replay.sample(4, 0.05)
  replay.insert([], np.zeros(0))
  replay.insert(items[:1], np.ones(1))
  batch = replay.sample(4, WAIT_SECONDS)
  assert stamps(batch) == [stamp(items[0])] * 4
  # Another batch size is served as asked.
  assert len(replay.sample(7, WAIT_SECONDS).keys) == 7


def test_fewer_items_than_asked_for_are_not_sampled(make, items):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  with pytest.raises(TimeoutError, match="5"):
    replay.sample(3, 0.5, min_size=5)
  assert len(replay.sample(3, WAIT_SECONDS, min_size=4).keys) == 3
  batches = []
  thread = threading.Thread(
    target=lambda: batches.append(replay.sample(3, WAIT_SECONDS, min_size=6)),
    daemon=True,
  )
  thread.start()
  for item in items[4:6]:
    assert not batches
    replay.insert([item], np.ones(1))
  thread.join(WAIT_SECONDS)
  assert set(stamps(batches[0])) <= {stamp(item) for item in items[:6]}


def test_sample_waits_for_the_first_item(make, items):
  replay = make()
  batches = []
  thread = threading.Thread(
    target=lambda: batches.append(replay.sample(2, WAIT_SECONDS)), daemon=True
  )
  thread.start()
  replay.insert(items[:1], np.ones(1))
  thread.join(WAIT_SECONDS)
  assert stamps(batches[0]) == [stamp(items[0])] * 2


def test_closing_wakes_those_who_wait_and_works_twice(make, items):
  replay = make()
  replay.check_alive(WAIT_SECONDS)
  outcome = []

  def wait():
    try:
      replay.sample(2, 10 * WAIT_SECONDS)
    except ReplayError as error:
      outcome.append(error)

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  replay.close()
  thread.join(WAIT_SECONDS)
  assert "closed" in str(outcome[0])
  replay.close()
  for call in [
    lambda: replay.insert(items[:1], np.ones(1)),
    lambda: replay.sample(1, WAIT_SECONDS),
    lambda: replay.update_priorities(np.ones(1, np.uint64), np.ones(1)),
    lambda: replay.check_alive(WAIT_SECONDS),
  ]:
    with pytest.raises(ReplayError, match="closed"):
      call()


def test_threads_insert_sample_and_update_at_once(make, items):
  replay = make(capacity=20)
  by_stamp = {stamp(item): item for item in items}
  errors = []

  def guarded(function):
    def run():
      try:
        function()
      except Exception as error:
        errors.append(error)

    return threading.Thread(target=run, daemon=True)

  def insert():
    for item in items * 2:
      replay.insert([item], np.ones(1))

  def learn():
    for i in range(60):
      batch = replay.sample(8, WAIT_SECONDS)
      for j, s in enumerate(stamps(batch)):
        assert_same_rows(batch.sequence, j, by_stamp[s])
      replay.update_priorities(batch.keys, np.full(8, 1.0 + i % 3))

  def look():
    for _ in range(60):
      assert replay.size() <= 20

  threads = [guarded(f) for f in (insert, insert, learn, learn, look)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
  assert not errors
  assert (replay.size(), replay.num_inserted()) == (20, 4 * len(items))
