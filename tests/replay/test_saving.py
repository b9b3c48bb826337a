"""Saving and restoring, which both memories do alike."""

import dataclasses
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest

from r2d2_jax.replay.checks import ReplayError
from tests.replay.tape import column, play
from tests.replay.test_replay import (
  LENGTHS,
  WAIT_SECONDS,
  _items,  # noqa: F401 a fixture
  _make,  # noqa: F401 a fixture
  assert_same_rows,
  chi_square,
  counts,
  make_config,
  make_world,
  sample_many,
  stamp,
  stamps,
)

PRIORITIES = np.array([0.0, 0.1, 0.5, 1.0, 1.0, 3.0, 10.0, 40.0])
PROBABILITY = PRIORITIES**0.9 / np.sum(PRIORITIES**0.9)


@pytest.fixture(name="saved")
def _saved(tmp_path):
  directory = tmp_path / "saved"
  directory.mkdir()
  return directory


def assert_fair(batches, items):
  """Items 0..7, bit for bit, as often as PRIORITIES says."""
  # 6 degrees of freedom: 38 is exceeded once in a million runs.
  assert chi_square(counts(batches, items[:8]), PROBABILITY) < 38
  index = {stamp(item): i for i, item in enumerate(items)}
  for batch in batches:
    which = [index[s] for s in stamps(batch)]
    np.testing.assert_allclose(batch.probability, PROBABILITY[which], rtol=1e-6)
    for i, k in enumerate(which):
      assert_same_rows(batch.sequence, i, items[k])


def test_row_states_saved_by_version_0_1_are_read(make, saved):
  config = make_config(row_states=True)
  tape = play(make_world(), LENGTHS, 160, row_states=True)
  items = [item for lane in tape.items for item in lane][:8]
  replay = make(config=config)
  replay.insert(items, PRIORITIES)
  replay.save(saved)
  replay.close()
  if (saved / "row_carry.npy").exists():
    (saved / "row_carry.npy").rename(saved / "row_lstm.npy")
  meta = (saved / "meta.json").read_text()
  assert "row_carry" in meta
  (saved / "meta.json").write_text(meta.replace("row_carry", "row_lstm"))
  restored = make(config=config, restore_from=saved)
  index = {stamp(item): item for item in items}
  for batch in sample_many(restored, 10):
    for i, s in enumerate(stamps(batch)):
      assert_same_rows(batch.sequence, i, index[s])
      np.testing.assert_array_equal(
        np.concatenate([x[i] for x in batch.row_carry], axis=1),
        column(index[s], "row_carry"),
      )


def snapshot(directory):
  """Every file's content and time of change."""
  return {
    path: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in directory.rglob("*")
    if path.is_file()
  }


def test_items_and_priorities_survive(make, items, saved):
  replay = make()
  replay.insert(items[:8], PRIORITIES)
  replay.save(saved)
  before = snapshot(saved)
  replay.close()
  restored = make(restore_from=saved)
  assert restored.size() == restored.num_inserted() == 8
  assert_fair(sample_many(restored, 100), items)
  restored.insert(items[8:30], np.ones(22))
  restored.close()
  assert snapshot(saved) == before


def test_keys_survive(make, items, saved):
  replay = make()
  replay.insert(items[:8], np.full(8, 5.0))
  key_of = {}
  while len(key_of) < 8:
    batch = replay.sample(32, WAIT_SECONDS)
    key_of.update(zip(stamps(batch), batch.keys, strict=True))
  replay.save(saved)
  restored = make(restore_from=saved)
  keys = np.array([key_of[stamp(item)] for item in items[:8]], np.uint64)
  restored.update_priorities(keys, PRIORITIES)
  assert_fair(sample_many(restored, 100), items)
  assert {k for b in sample_many(restored, 5) for k in b.keys} <= set(keys)


def test_draws_before_the_save_still_count(make, items, saved):
  replay = make()
  replay.insert(items[:2], np.ones(2))
  least = {}
  for batch in sample_many(replay, 5):
    least |= dict(zip(batch.keys, batch.origin.times_sampled, strict=True))
  replay.save(saved)
  batch = make(restore_from=saved).sample(32, WAIT_SECONDS)
  assert len(least) == 2 and set(batch.keys) <= set(least)
  for key, times in zip(batch.keys, batch.origin.times_sampled, strict=True):
    assert times > least[key]


def test_the_oldest_still_leave_first_and_counts_go_on(make, items, saved):
  replay = make(capacity=8)
  replay.insert(items[:11], np.ones(11))
  replay.save(saved)
  restored = make(capacity=8, restore_from=saved)
  assert (restored.size(), restored.num_inserted()) == (8, 11)
  restored.insert(items[11:14], np.ones(3))
  assert (restored.size(), restored.num_inserted()) == (8, 14)
  seen = counts(sample_many(restored, 20), items[:14])
  assert not seen[:6].any()
  assert seen[6:].all()


def test_an_empty_replay_is_restored_empty(make, items, saved):
  make().save(saved)
  restored = make(restore_from=saved)
  assert restored.size() == restored.num_inserted() == 0
  restored.insert(items[:1], np.ones(1))
  assert stamps(restored.sample(2, WAIT_SECONDS)) == [stamp(items[0])] * 2


def test_each_save_stands_for_itself(make, items, tmp_path):
  directories = [tmp_path / name for name in "abc"]
  replay = make()
  for i, directory in enumerate(directories):
    replay.insert(items[4 * i : 4 * i + 4], np.ones(4))
    directory.mkdir()
    replay.save(directory)
    if i == 0:
      first = snapshot(directory)
    if i == 1:  # from now on a restored one saves
      replay.close()
      replay = make(restore_from=directory)
  replay.close()
  assert snapshot(directories[0]) == first
  shutil.rmtree(directories[0])  # nor does a later one need an earlier one
  for i, directory in list(enumerate(directories))[1:]:
    restored = make(restore_from=directory)
    assert restored.size() == restored.num_inserted() == 4 * i + 4
    seen = counts(sample_many(restored, 20), items)
    assert seen[: 4 * i + 4].all() and not seen[4 * i + 4 :].any()


def test_a_save_during_work_is_one_moment_of_it(make, items, tmp_path):
  replay = make(capacity=20)
  replay.insert(items[:20], np.ones(20))
  inserted, stop, errors = [20], threading.Event(), []

  def guarded(function):
    def run():
      try:
        while not stop.is_set():
          function()
      except Exception as error:
        errors.append(error)

    return threading.Thread(target=run, daemon=True)

  def insert():
    replay.insert([items[inserted[0] % len(items)]], np.ones(1))
    inserted[0] += 1
    time.sleep(0.002)

  def learn():
    batch = replay.sample(8, WAIT_SECONDS)
    replay.update_priorities(batch.keys, np.linspace(0.5, 2.0, 8))

  threads = [guarded(insert), guarded(learn)]
  for thread in threads:
    thread.start()
  directories, bounds = [tmp_path / name for name in "abcd"], []
  for directory in directories:
    directory.mkdir()
    least = inserted[0]
    replay.save(directory)
    bounds.append((least, inserted[0] + 1))
    time.sleep(0.05)
  stop.set()
  for thread in threads:
    thread.join(WAIT_SECONDS)
  assert not errors
  for directory, (least, most) in zip(directories, bounds, strict=True):
    restored = make(capacity=20, restore_from=directory)
    total = restored.num_inserted()
    assert restored.size() == 20 and least <= total <= most
    held = [items[i % len(items)] for i in range(total - 20, total)]
    seen = counts(sample_many(restored, 30), held)
    assert seen.all() and seen.sum() == 30 * 32
    restored.close()


@pytest.mark.parametrize(
  "section, changes, message",
  [
    ("replay", dict(capacity_sequences=9), "capacity_sequences 1000, .* has 9"),
    (
      "replay",
      dict(priority_exponent=0.6),
      "priority_exponent 0.9, .* has 0.6",
    ),
    ("replay", dict(row_states=True), "row_states False, .* has True"),
    # As long as before, with another part trained.
    (
      "agent",
      dict(burn_in=6, trace_length=6),
      "agent.burn_in 4, this run has 6; with agent.trace_length 8, .* has 6",
    ),
  ],
)
def test_other_settings_are_refused(
  make, items, saved, section, changes, message
):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay.save(saved)
  config = make_config()
  config = dataclasses.replace(
    config,
    **{section: dataclasses.replace(getattr(config, section), **changes)},
  )
  with pytest.raises(ReplayError, match=f"was saved with [^\n]*{message}"):
    make(config=config, restore_from=saved)


def test_other_shapes_and_backends_are_refused(make, items, saved):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay.save(saved)
  meta = json.loads((saved / "meta.json").read_text())
  for name, value in [
    ("rows of obs_t", "uint8 [64, 64]"),
    ("core_state leaf 1", "float32 [512]"),
    ("core_state leaf 3", "float32 [512]"),
    ("replay.backend", "other"),
  ]:
    settings = meta["settings"] | {name: value}
    (saved / "meta.json").write_text(json.dumps(meta | {"settings": settings}))
    with pytest.raises(
      ReplayError, match=f"{name} {value!r}, this run has ".replace("[", r"\[")
    ):
      make(restore_from=saved)


def halve(file):
  os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [os.remove, halve])
def test_a_save_that_is_not_whole_is_refused(make, items, saved, damage):
  replay = make()
  replay.insert(items[:20], np.ones(20))
  replay.save(saved)
  whole = saved.with_name("whole")
  saved.rename(whole)
  names = [
    str(path.relative_to(whole))
    for path in snapshot(whole)
    if damage is os.remove or path.stat().st_size
  ]
  assert "meta.json" in names and len(names) > 3
  for name in names:
    shutil.copytree(whole, saved)
    damage(saved / name)
    with pytest.raises(ReplayError, match="^[^\n]*$") as error:
      make(restore_from=saved)
    assert str(saved / name) in str(error.value)
    shutil.rmtree(saved)
  with pytest.raises(ReplayError, match=str(saved)):  # no such directory
    make(restore_from=saved)


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda meta: [meta], "cannot restore"),
    (
      lambda meta: meta | {"counts": [["size", 4], ["num_inserted", 4]]},
      "counts: expected numbers and texts by name",
    ),
    (lambda meta: meta | {"file_bytes": None}, "file_bytes: expected"),
    (
      lambda meta: meta | {"settings": meta["settings"] | {"x": [[]]}},
      "settings: expected",
    ),
    (lambda meta: meta | {"counts": {"size": 4}}, "an entry 'num_inserted'"),
  ]
  + [
    (
      lambda meta, value=value: (
        meta | {"counts": meta["counts"] | {"size": value}}
      ),
      "size: expected a whole number from 0 to|expected 4 items|num_inserted",
    )
    for value in (-1, 10**18, 10**12, 4.0, True, "4", None, float("nan"), 3)
  ]
  + [
    (
      lambda meta: meta | {"counts": meta["counts"] | {"num_inserted": 2**70}},
      "num_inserted: expected a whole number",
    ),
  ],
)
def test_absurd_counts_are_refused(make, items, saved, damage, message):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay.save(saved)
  path = saved / "meta.json"
  path.write_text(json.dumps(damage(json.loads(path.read_text()))))
  with pytest.raises(ReplayError, match=message) as error:
    make(restore_from=saved)
  assert "\n" not in str(error.value) and str(saved) in str(error.value)


def test_brackets_within_brackets_are_refused(make, items, saved):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay.save(saved)
  (saved / "meta.json").write_text(100_000 * "[" + 100_000 * "]")
  with pytest.raises(ReplayError, match="brackets within brackets"):
    make(restore_from=saved)


def test_a_closed_replay_is_not_saved(make, saved):
  replay = make()
  replay.close()
  with pytest.raises(ReplayError, match="closed"):
    replay.save(saved)
