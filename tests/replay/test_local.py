import json
import os
import subprocess
import sys

import numpy as np
import pytest

from r2d2_jax.replay import local_files
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.items import as_sample
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sum_tree import SumTree
from tests.replay.tape import NUM_ACTIONS, SEQUENCE_FIELDS, StampingActor
from tests.replay.test_replay import (
  _items,  # noqa: F401 a fixture
  assert_same_rows,
  make_config,
  make_world,
  stamp,
  stamps,
)

WAIT_SECONDS = 1.0


def make_local(capacity=1000, seed=0, restore_from=None):
  world = make_world()
  return LocalReplay(
    make_config(capacity),
    world.spec,
    StampingActor(world).example(),
    seed=seed,
    restore_from=restore_from,
  )


@pytest.mark.parametrize("num_before", [0, 6, 13, 40])
def test_a_restored_replay_goes_on_with_the_same_samples(
  items, num_before, tmp_path
):
  replay = make_local(capacity=8)
  for item in items[:num_before]:
    replay.insert([item], np.ones(1))
  if num_before:
    batch = replay.sample(6, WAIT_SECONDS)
    replay.update_priorities(batch.keys, np.arange(1.0, 7.0))
  replay.save(tmp_path)
  restored = make_local(capacity=8, restore_from=tmp_path)
  assert restored.size() == replay.size()
  assert restored.num_inserted() == replay.num_inserted()
  for item in items[40:44]:
    outcome = []
    for r in (replay, restored):
      r.insert([item], np.full(1, 2.0))
      batch = r.sample(16, WAIT_SECONDS)
      r.update_priorities(batch.keys, np.linspace(0.5, 3.0, 16))
      outcome.append(batch)
    one, two = outcome
    np.testing.assert_array_equal(one.keys, two.keys)
    np.testing.assert_array_equal(one.probability, two.probability)
    np.testing.assert_array_equal(
      one.origin.times_sampled, two.origin.times_sampled
    )
    by_stamp = {stamp(item): item for item in items}
    assert stamps(one) == stamps(two)
    for i, s in enumerate(stamps(two)):
      assert_same_rows(two.sequence, i, by_stamp[s])


def test_shared_blocks_are_stored_once(items, tmp_path):
  replay = make_local()
  replay.insert(items[:20], np.ones(20))
  num_blocks = len({b.uid for item in items[:20] for b in item.blocks})
  assert num_blocks < 3 * 20 / 2
  first, second = tmp_path / "first", tmp_path / "second"
  for directory in (first, second):
    directory.mkdir()
    replay.save(directory)
    saved = np.load(directory / "obs_t.npy", allow_pickle=False)
    assert saved.shape == (num_blocks, 4, 84, 84)
    replay = make_local(restore_from=directory)


def test_restored_blocks_are_freed_one_by_one(items, tmp_path):
  replay = make_local(capacity=20)
  replay.insert(items[:20], np.ones(20))
  replay.save(tmp_path)
  restored = make_local(capacity=20, restore_from=tmp_path)
  block = restored._items[0].blocks[0]
  assert all(getattr(block, name).base is None for name in SEQUENCE_FIELDS)


def test_the_seed_decides_the_samples(items):
  keys = []
  for seed in (0, 0, 1):
    replay = make_local(seed=seed)
    replay.insert(items, np.ones(len(items)))
    keys.append(
      [replay.sample(8, WAIT_SECONDS).keys.tolist() for _ in range(3)]
    )
  assert keys[0] == keys[1] != keys[2]
  assert keys[0][0] != keys[0][1]


def test_what_comes_during_a_save_is_not_in_it(items, tmp_path, monkeypatch):
  replay = make_local(capacity=8)
  replay.insert(items[:10], np.ones(10))
  later, write = iter(items[10:]), local_files._write_stack

  def insert_and_write(*args):
    item = next(later)
    replay.insert([item], np.full(1, 99.0))
    write(*args)
    replay.insert([item], np.full(1, 99.0))

  monkeypatch.setattr(local_files, "_write_stack", insert_and_write)
  replay.save(tmp_path)
  assert replay.num_inserted() > 26
  restored = make_local(capacity=8, restore_from=tmp_path)
  assert (restored.size(), restored.num_inserted()) == (8, 10)
  batch = restored.sample(200, WAIT_SECONDS)
  assert set(stamps(batch)) == {stamp(item) for item in items[2:10]}
  np.testing.assert_allclose(batch.probability, 1 / 8)


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda file: file.unlink(), "got no file"),
    (lambda file: os.truncate(file, 200), "got 200"),
    (lambda file: file.write_bytes(b"?" * file.stat().st_size), "pickle"),
    (lambda file: np.save(file, np.load(file).reshape(-1)[::-1]), "expected"),
  ],
)
def test_a_damaged_file_is_named(items, tmp_path, damage, message):
  replay = make_local()
  replay.insert(items[:20], np.ones(20))
  replay.save(tmp_path)
  damage(tmp_path / "obs_t.npy")
  with pytest.raises(ReplayError, match=f"obs_t.npy: [^\n]*{message}"):
    make_local(restore_from=tmp_path)


def replaced(value, place=-1):
  """Sets one value, the size of the file staying as it is."""

  def damage(file):
    array = np.load(file)
    array.reshape(-1)[place] = value
    np.save(file, array)

  return damage


def header(text):
  """Puts another header, as long as before, in front of the values."""

  def damage(file):
    data = bytearray(file.read_bytes())
    data[10 : 10 + len(text)] = text.encode()
    file.write_bytes(data)

  return damage


@pytest.mark.parametrize(
  "name, damage, message",
  [
    ("weights.npy", replaced(np.nan), "weights in .*, got nan"),
    ("weights.npy", replaced(np.inf), "weights in .*, got inf"),
    ("weights.npy", replaced(-1.0), "weights in .*, got -1.0"),
    ("weights.npy", replaced(1e308), "weights in .*, got 1e\\+308"),
    ("times_sampled.npy", replaced(-1), "counts >= 0, got -1"),
    ("item_blocks.npy", replaced(10**9), r"in \[0, \d+\), got 1000000000"),
    ("item_blocks.npy", replaced(-1), r"in \[0, \d+\), got -1"),
    ("core_state_1.npy", replaced(np.nan), "finite states, got nan"),
    ("env_id.npy", replaced(2**31 - 1), "env_id in .* to 2147483647"),
    ("env_id.npy", replaced(-1), "env_id in .* from -1"),
    ("a_t.npy", replaced(NUM_ACTIONS), r"a_t in \[0, 3\], .* to 4"),
    ("a_tm1.npy", replaced(-1), r"a_tm1 in \[0, 3\], got values from -1"),
    ("num_updates.npy", replaced(-1), "num_updates in .* from -1"),
    ("step.npy", replaced(-1), "step in .* from -1"),
    ("discount_t.npy", replaced(np.nan), "discount_t in .* nan"),
    (
      "valid_t.npy",
      lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\2"),
      "valid_t in .* to 2",
    ),
    ("weights.npy", header("{" * 50), "weights.npy"),
    (
      "weights.npy",
      header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (35184372088832,), }"
      ),
      "weights.npy",
    ),
    (
      "weights.npy",
      header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': "
        "(" + 22 * "9" + ",), }"
      ),
      "weights.npy",
    ),
    (
      "weights.npy",
      header("{'descr': '|O', 'fortran_order': False, 'shape': (20,), } "),
      "weights.npy",
    ),
  ],
)
def test_absurd_contents_are_refused(items, tmp_path, name, damage, message):
  replay = make_local()
  replay.insert(items[:20], np.ones(20))
  replay.save(tmp_path)
  size = (tmp_path / name).stat().st_size
  damage(tmp_path / name)
  assert (tmp_path / name).stat().st_size == size
  with pytest.raises(ReplayError, match=message) as error:
    make_local(restore_from=tmp_path)
  assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_any_byte_of_a_header_may_be_damaged(items, tmp_path):
  replay = make_local()
  replay.insert(items[:20], np.ones(20))
  replay.save(tmp_path)
  file, random = tmp_path / "weights.npy", np.random.default_rng(0)
  whole, refused = file.read_bytes(), 0
  for _ in range(300):
    data = bytearray(whole)
    for place in random.integers(0, 90, random.integers(1, 4)):
      data[place] = random.integers(0, 256)
    file.write_bytes(data)
    try:
      make_local(restore_from=tmp_path)
    except ReplayError:
      refused += 1
  assert refused > 100


def test_a_pipe_in_place_of_a_file_is_not_waited_for(items, tmp_path):
  replay = make_local()
  replay.insert(items[:4], np.ones(4))
  replay.save(tmp_path)
  for name in ("weights.npy", "meta.json"):
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["file_bytes"].pop("weights.npy", None)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ReplayError, match=f"{name}: "):
      make_local(restore_from=tmp_path)


def test_weights_of_zero_are_restored(items, tmp_path):
  # So they are where every priority is 0.
  replay = make_local()
  replay.insert(items[:4], np.zeros(4))
  replay.save(tmp_path)
  batch = make_local(restore_from=tmp_path).sample(8, WAIT_SECONDS)
  np.testing.assert_array_equal(batch.probability, 0.25)


@pytest.mark.parametrize("probability", [0.0, np.nan, np.inf, -0.5])
def test_a_batch_of_a_damaged_table_names_the_item(items, probability):
  rows = {
    name: np.zeros((2, 3), np.int32)
    for name in (
      "obs_t",
      "a_tm1",
      "r_t",
      "is_first_t",
      "a_t",
      "discount_t",
      "valid_t",
      "env_id",
      "num_updates",
      "step",
    )
  }
  draw = lambda p: as_sample(
    rows,
    items[0].core_state,
    probability=np.array([0.5, p]),
    keys=np.array([7, 8], np.uint64),
    times_sampled=np.ones(2, np.int32),
  )
  draw(1e-60)
  with pytest.raises(ReplayError, match=f"got {probability} of item 8\\."):
    draw(probability)


def test_draws_are_counted_one_by_one(items):
  replay = make_local(capacity=2)
  replay.insert(items[:2], np.array([1.0, 0.0]))
  assert replay.sample(3, 1.0).origin.times_sampled.tolist() == [1, 2, 3]
  assert replay.sample(2, 1.0).origin.times_sampled.tolist() == [4, 5]
  replay.insert(items[2:4], np.array([1.0, 0.0]))
  assert replay.sample(2, 1.0).origin.times_sampled.tolist() == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_sum_tree_agrees_with_cumulative_sums(size):
  random = np.random.default_rng(size)
  tree, weights = SumTree(size), np.zeros(size)
  for _ in range(20):
    index = random.permutation(size)[: random.integers(1, size + 1)]
    values = random.integers(0, 4, index.size).astype(np.float64)
    tree.set(index, values)
    weights[index] = values
    np.testing.assert_array_equal(tree.get(np.arange(size)), weights)
    assert tree.total == weights.sum()
    if tree.total:
      uniform = random.random(50)
      np.testing.assert_array_equal(
        tree.find(uniform),
        np.searchsorted(np.cumsum(weights), uniform * tree.total, side="right"),
      )


def test_sum_tree_never_finds_an_empty_leaf():
  tree = SumTree(4)
  tree.set(np.array([1]), np.array([0.1]))
  edges = np.array([0.0, np.nextafter(1.0, 0.0), 1.0])
  assert tree.find(edges).tolist() == [1, 1, 1]


def test_local_needs_neither_reverb_nor_tensorflow():
  code = (
    "import sys, r2d2_jax.replay.make; "
    "sys.exit(bool({'reverb', 'tensorflow'} & set(sys.modules)))"
  )
  assert (
    subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
  )
