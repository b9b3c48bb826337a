import io
import subprocess
import sys

import numpy as np
import pytest

from r2d2_jax.replay.local import LocalReplay, SumTree
from tests.replay.tape import StampingActor
from tests.replay.test_replay import (  # pylint: disable=unused-import
    LENGTHS, assert_same_rows, _items, make_config, make_world, stamp, stamps)

WAIT_SECONDS = 1.0


def make_local(capacity=1000, seed=0, config=None):
  world = make_world()
  return LocalReplay(config or make_config(capacity), world.spec,
                     StampingActor(world).example(), seed=seed)


def through_npz(state):
  """As a file without pickle gives it back."""
  file = io.BytesIO()
  np.savez(file, **state)
  file.seek(0)
  with np.load(file, allow_pickle=False) as loaded:
    return dict(loaded)


@pytest.mark.parametrize("num_before", [0, 6, 13, 40])
def test_a_restored_replay_goes_on_with_the_same_samples(items, num_before):
  replay = make_local(capacity=8)
  for item in items[:num_before]:
    replay.insert([item], np.ones(1))
  if num_before:
    batch = replay.sample(6, WAIT_SECONDS)
    replay.update_priorities(batch.keys, np.arange(1.0, 7.0))
  restored = make_local(capacity=8)
  restored.insert(items[:3], np.ones(3))  # what it held before must not matter
  restored.load_state_dict(through_npz(replay.state_dict()))
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
    by_stamp = {stamp(item): item for item in items}
    assert stamps(one) == stamps(two)
    for i, s in enumerate(stamps(two)):
      assert_same_rows(two.sequence, i, by_stamp[s])


def test_shared_blocks_are_stored_once(items):
  replay = make_local()
  replay.insert(items[:20], np.ones(20))
  num_blocks = len({b.uid for item in items[:20] for b in item.blocks})
  assert num_blocks < 3 * 20 / 2
  state = replay.state_dict()
  assert len(state["block/obs_t"]) == num_blocks
  restored = make_local()
  restored.load_state_dict(state)
  assert len(restored.state_dict()["block/obs_t"]) == num_blocks


def test_the_seed_decides_the_samples(items):
  keys = []
  for seed in (0, 0, 1):
    replay = make_local(seed=seed)
    replay.insert(items, np.ones(len(items)))
    keys.append([replay.sample(8, WAIT_SECONDS).keys.tolist()
                 for _ in range(3)])
  assert keys[0] == keys[1] != keys[2]
  assert keys[0][0] != keys[0][1]


def test_a_state_of_another_shape_is_refused(items):
  replay = make_local(capacity=8)
  replay.insert(items[:12], np.ones(12))
  with pytest.raises(ValueError, match="item_blocks: expected the shape"):
    make_local(capacity=9).load_state_dict(replay.state_dict())


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_sum_tree_agrees_with_cumulative_sums(size):
  random = np.random.default_rng(size)
  tree, weights = SumTree(size), np.zeros(size)
  for _ in range(20):
    index = random.permutation(size)[:random.integers(1, size + 1)]
    values = random.integers(0, 4, index.size).astype(np.float64)
    tree.set(index, values)
    weights[index] = values
    np.testing.assert_array_equal(tree.get(np.arange(size)), weights)
    assert tree.total == weights.sum()
    if tree.total:
      uniform = random.random(50)
      np.testing.assert_array_equal(
          tree.find(uniform),
          np.searchsorted(np.cumsum(weights), uniform * tree.total,
                          side="right"))


def test_sum_tree_never_finds_an_empty_leaf():
  tree = SumTree(4)
  tree.set(np.array([1]), np.array([0.1]))
  edges = np.array([0.0, np.nextafter(1.0, 0.0), 1.0])
  assert tree.find(edges).tolist() == [1, 1, 1]


def test_local_needs_neither_reverb_nor_tensorflow():
  code = ("import sys, r2d2_jax.replay.make; "
          "sys.exit(bool({'reverb', 'tensorflow'} & set(sys.modules)))")
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
