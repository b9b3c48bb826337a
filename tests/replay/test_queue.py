"""A replay as a queue: every item once, in order, and a writer that waits."""

import threading
import warnings

import numpy as np
import pytest

from r2d2_jax.config import (
  AgentConfig,
  Config,
  ConfigError,
  EnvConfig,
  ReplayConfig,
  validate,
)
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.local import LocalReplay
from tests.replay.tape import (
  NUM_ACTIONS,
  SEQUENCE_FIELDS,
  Lengths,
  StampingActor,
  assert_same_tree,
  column,
  play,
)
from tests.stamped import StampedWorld

# One shared row, as an unroll has; more rows than a block of one row may have
# in a replay that is drawn from.
LENGTHS = Lengths(0, 18, 1)
WAIT_SECONDS = 30.0


def _world():
  return StampedWorld([[150, 3], [20, 1, 9, 40]], num_actions=NUM_ACTIONS)


def _config(capacity=40, **changes) -> Config:
  return Config(
    env=EnvConfig(num_envs=2),
    agent=AgentConfig(
      algorithm="impala",
      value_rescaling=False,
      batch_size=4,
      **LENGTHS._asdict(),
    ),
    replay=ReplayConfig(
      order="fifo",
      replay_ratio=1.0,
      min_sequences=4,
      capacity_sequences=capacity,
    ),
  ).updated(changes)


@pytest.fixture(name="items", scope="module")
def _items():
  lanes = play(_world(), LENGTHS, 300, log_prob=True).items
  return [item for lane in lanes for item in lane][:36]


@pytest.fixture(
  name="make",
  params=["local", pytest.param("reverb", marks=pytest.mark.reverb)],
)
def _make(request):
  """Makes a queue of the backend under test and closes it afterwards."""
  made = []

  def make(capacity=40, **kwargs):
    world = _world()
    arguments = _config(capacity), world.spec, StampingActor(world).example()
    if request.param == "local":
      made.append(LocalReplay(*arguments, **kwargs))
    else:
      pytest.importorskip("reverb")
      from r2d2_jax.replay.reverb import ReverbReplay

      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.append(ReverbReplay(*arguments, **kwargs))
    return made[-1]

  yield make
  for replay in made:
    replay.close()


def _insert(replay, items):
  replay.insert(items, np.ones(len(items)))


def _assert_are(batch, items):
  """Every field of the batch is that of these items, in this order."""
  sequence = batch.sequence
  for i, item in enumerate(items):
    for name in SEQUENCE_FIELDS:
      inputs = sequence.inputs
      got = getattr(inputs if name in inputs._fields else sequence, name)[i]
      np.testing.assert_array_equal(got, column(item, name), err_msg=name)
    np.testing.assert_array_equal(
      sequence.log_prob_t[i], column(item, "log_prob_t")
    )
    valid = column(item, "valid_t")
    steps = column(item, "q_t")[valid, 2]
    np.testing.assert_array_equal(
      sequence.log_prob_t[i][valid], -steps - np.float32(0.5)
    )
    assert_same_tree(
      type(item.core_state)(sequence.core_state.frames[i], ())._replace(
        carry=tuple(x[i] for x in sequence.core_state.carry)
      ),
      item.core_state,
    )


def test_every_item_comes_once_in_the_order_of_arrival(make, items):
  replay = make()
  _insert(replay, items[:5])
  _insert(replay, items[5:11])
  _assert_are(replay.sample(4, WAIT_SECONDS), items[:4])
  _insert(replay, items[11:])
  for i in range(4, 36, 4):
    batch = replay.sample(4, WAIT_SECONDS)
    _assert_are(batch, items[i : i + 4])
    np.testing.assert_array_equal(batch.probability, 1.0)
    np.testing.assert_array_equal(batch.origin.times_sampled, 1)
    replay.update_priorities(batch.keys, np.full(4, 7.0))  # they are gone
  assert replay.size() == 0 and replay.num_inserted() == 36


def test_a_reader_waits_for_a_whole_batch_and_loses_nothing(make, items):
  replay = make()
  for item in items[:3]:
    with pytest.raises(TimeoutError):
      replay.sample(4, 0.5)
    _insert(replay, [item])
  with pytest.raises(TimeoutError):
    replay.sample(4, 0.5)
  timer = threading.Timer(0.3, _insert, [replay, items[3:4]])
  timer.start()
  _assert_are(replay.sample(4, WAIT_SECONDS), items[:4])
  timer.join()


def test_a_writer_waits_where_it_is_full(make, items):
  replay = make(capacity=8)
  _insert(replay, items[:8])
  writer = threading.Thread(target=_insert, args=[replay, items[8:12]])
  writer.start()
  writer.join(0.5)
  assert writer.is_alive() and replay.size() == 8
  for i in 0, 4, 8:
    _assert_are(replay.sample(4, WAIT_SECONDS), items[i : i + 4])
  writer.join(WAIT_SECONDS)
  assert not writer.is_alive()


def test_a_waiting_writer_is_woken_by_the_end(make, items):
  replay = make(capacity=4)
  _insert(replay, items[:4])
  raised = []

  def write():
    try:
      _insert(replay, items[4:6])
    except ReplayError as error:
      raised.append(str(error))

  writer = threading.Thread(target=write)
  writer.start()
  writer.join(0.3)
  assert writer.is_alive()
  replay.close()
  writer.join(WAIT_SECONDS)
  assert raised == ["the replay is closed"]


def test_it_is_saved_and_goes_on_with_its_oldest_item(items, make, tmp_path):
  replay = make(capacity=8)
  local = isinstance(replay, LocalReplay)
  _insert(replay, items[:8])
  if local:  # what Reverb has prefetched is out of its table
    replay.sample(4, WAIT_SECONDS)
    _insert(replay, items[8:11])
  directory = tmp_path / "saved"
  directory.mkdir()
  replay.save(directory)
  restored = make(capacity=8, restore_from=directory)
  assert restored.size() == (7 if local else 8)
  first = 4 if local else 0
  _assert_are(restored.sample(4, WAIT_SECONDS), items[first : first + 4])
  _insert(restored, items[20:24])
  rest = items[first + 4 : 11 if local else 8] + items[20:24]
  _assert_are(restored.sample(4, WAIT_SECONDS), rest[:4])


def test_a_queue_is_not_restored_from_another_memory(items, tmp_path):
  world = _world()
  example = StampingActor(world).example()
  queue = LocalReplay(_config(), world.spec, example)
  _insert(queue, items[:4])
  queue.save(tmp_path)
  other = _config().updated({"replay.order": "priority"})
  with pytest.raises(ReplayError, match="replay.order 'fifo', this run has"):
    LocalReplay(other, world.spec, example, restore_from=tmp_path)


def test_more_than_it_can_ever_hold_is_refused(items):
  world = _world()
  queue = LocalReplay(_config(4), world.spec, StampingActor(world).example())
  with pytest.raises(ValueError, match="at most replay.capacity_sequences"):
    _insert(queue, items[:5])


def test_settings_of_a_queue():
  validate(_config())
  # Rows are stored item by item: blocks of one row are no matter.
  assert (_config().block_rows, _config().chunk_rows) == (1, 18)
  assert Config().chunk_rows == Config().block_rows == 40
  for changes, words in (
    ({"agent.overlap": 2}, "agent.overlap: expected 1 with"),
    ({"replay.replay_ratio": 2.0}, "replay_ratio: expected 1 with"),
    ({"replay.initial_priority": "max"}, "initial_priority: expected 'actor'"),
    ({"replay.capacity_sequences": 7}, "expected at least 8 with.*4 for a st"),
    ({"replay.order": "priority"}, "order: expected 'fifo' with agent.algor"),
    ({"agent.algorithm": "r2d2"}, "order: expected 'priority' with agent.al"),
    ({"agent.burn_in": 18}, "agent.burn_in: expected 0 with agent.algorithm"),
    ({"agent.lookahead_rows": 18}, "lookahead_rows: expected 0 with agent.al"),
    ({"agent.value_rescaling": True}, "value_rescaling: expected false with"),
  ):
    with pytest.raises(ConfigError, match=words):
      validate(_config().updated(changes))
