"""Saved items are dealt out to more and to fewer servers, each of them once."""

import shutil
import warnings

import numpy as np
import pytest

from r2d2_jax.replay.checks import ReplayError
from tests.replay.tape import StampingActor
from tests.replay.test_replay import (
  _items,  # noqa: F401 a fixture
  assert_same_rows,
  counts,
  make_config,
  make_world,
  sample_many,
  stamp,
  stamps,
)

pytest.importorskip("reverb", reason="servers are Reverb's")
pytestmark = pytest.mark.reverb
CAPACITY = 60


def replay_of(shares, capacity=CAPACITY, **kwargs):
  """A server with one of so many shares of the capacity."""
  from r2d2_jax.replay.reverb import ReverbReplay

  world = make_world()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return ReverbReplay(
      make_config(capacity // shares),
      world.spec,
      StampingActor(world).example(),
      **kwargs,
    )


def deal(sources, target, part, parts, capacity=CAPACITY):
  from r2d2_jax.replay.reverb_parts import deal_out

  world = make_world()
  deal_out(
    sources,
    target,
    part=part,
    parts=parts,
    config=make_config(capacity),
    spec=world.spec,
    core_state=StampingActor(world).example(),
  )


def save(directory, lots, capacity=CAPACITY):
  """Inserts each lot of items into a server of its own; saves them all."""
  for i, lot in enumerate(lots):
    replay = replay_of(len(lots), capacity)
    # An item's number is its priority: so it is known wherever it comes to be.
    for item, priority in lot:
      replay.insert([item], np.array([priority]))
    path = directory / str(i)
    path.mkdir()
    replay.save(path)
    replay.close()
  return [directory / str(i) for i in range(len(lots))]


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 3)])
def test_each_item_has_one_place_and_keeps_its_priority(
  tmp_path, items, before, after
):
  items = items[:48]
  # None so small that 60 batches could miss it: of 1 + i the first was missed
  # in one run of ten.
  numbered = [(item, 20.0 + i) for i, item in enumerate(items)]
  sources = save(tmp_path, [numbered[i::before] for i in range(before)])
  places = np.zeros(len(items))
  sizes = []
  for part in range(after):
    target = tmp_path / f"part-{part}"
    deal(sources, target, part, after)
    replay = replay_of(after, restore_from=target)
    sizes.append(replay.size())
    batches = sample_many(replay, 60)
    replay.close()
    here = counts(batches, items) > 0
    places += here
    priorities = np.where(here, 20.0 + np.arange(len(items)), 0.0) ** 0.9
    index = {stamp(item): i for i, item in enumerate(items)}
    for batch in batches[:3]:
      which = [index[s] for s in stamps(batch)]
      np.testing.assert_allclose(
        batch.probability, priorities[which] / priorities.sum(), rtol=1e-5
      )
      for i, k in enumerate(which):
        assert_same_rows(batch.sequence, i, items[k])
  np.testing.assert_array_equal(places, 1)
  assert sum(sizes) == len(items)
  assert max(sizes) - min(sizes) <= 17


def test_the_newest_stay_and_the_oldest_leave_first(tmp_path, items):
  # One share of 40 is dealt to three of 13: the oldest have no room.
  (source,) = save(
    tmp_path, [[(item, 1.0) for item in items[:40]]], capacity=40
  )
  kept = set()
  for part in range(3):
    deal([source], tmp_path / f"part-{part}", part, 3, capacity=40)
    replay = replay_of(3, 40, restore_from=tmp_path / f"part-{part}")
    here = {s for batch in sample_many(replay, 60) for s in stamps(batch)}
    assert replay.size() == len(here) <= 13
    kept |= here
    if len(here) == 13:  # full: one more, and the oldest goes
      replay.insert([items[45]], np.array([1.0]))
      assert replay.size() == 13
    replay.close()
  assert kept <= {stamp(item) for item in items[:40]}
  # The first part begins with 17 neighbours, of which 13 have room.
  assert stamp(items[39]) in kept
  assert stamp(items[0]) not in kept


def test_what_is_not_whole_or_of_other_settings_is_refused(tmp_path, items):
  sources = save(tmp_path, [[(item, 1.0) for item in items[:4]]])
  with pytest.raises(ReplayError, match="replay.capacity_sequences"):
    deal(sources, tmp_path / "other", 0, 2, capacity=CAPACITY + 2)
  chunks = sources[0] / "reverb" / "chunks.tfrecord"
  shutil.copyfile(sources[0] / "reverb" / "items.tfrecord", chunks)
  with pytest.raises(ReplayError, match="chunks.tfrecord: expected"):
    deal(sources, tmp_path / "damaged", 0, 2)
