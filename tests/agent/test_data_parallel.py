"""The step split over a mesh of devices is the step of one device.

The number of devices is fixed when JAX starts: a child process with eight of
them (`python -m tests.agent.test_data_parallel FILE`) does all the updates, the
tests read what came of them.
"""

import dataclasses
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import warnings

import jax
from jax.sharding import Mesh
import numpy as np
import pytest

from r2d2_jax.agent.learning import (
  BATCH_AXIS,
  init_learner_state,
  learner_shardings,
  make_learner,
  make_optimizer,
)
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.types import EnvSpec, ReplaySample, Sequence
from tests.agent.small import (
  AGENT,
  NETWORKS,
  SPEC,
  assert_trees_close,
  assert_trees_equal,
  network_config,
  random_core_state,
  random_inputs,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
UPDATES = 3
CONFIG = dataclasses.replace(
  AGENT,
  batch_size=8,
  importance_exponent=0.6,
  # The last update has another target, and goes on from it.
  target_period_updates=2,
  learning_rate=1e-2,
  # Some of the gradients are clipped, others are not.
  max_grad_norm=0.5,
)
OPTIMIZER = make_optimizer(CONFIG)

IMAGES = EnvSpec((36, 36), np.dtype(np.uint8), 3, 1)
WORLDS = {
  # The CPU's convolution works on chunks of the rows of all items.
  "images": (
    IMAGES,
    make_networks(
      IMAGES,
      config=network_config(
        torso="nature",
        torso_channels=(4, 4, 4),
        torso_units=8,
        frame_stack=2,
      ),
    ),
  ),
  "numbers": (SPEC, NETWORKS),
}
# Compiling takes most of the time: not every combination.
CASES = [("numbers", 1), ("images", 2), ("numbers", 4), ("images", 8)]

# First and one past the last valid row of the eight items (rows 0 to 2 are the
# burn-in): whole ones, the beginning of an episode, its end, both; the sixth
# has no transition to train on.
VALID_ROWS = ((0, 9), (3, 9), (0, 6), (3, 5), (0, 9), (0, 4), (2, 9), (0, 8))
TERMINATED = (2, 3)  # the other short ones were truncated
# The smallest is the last item's: it is on the last device alone.
PROBABILITY = np.array(
  [0.09, 0.05, 0.08, 0.04, 0.07, 0.06, 0.03, 0.01], np.float32
)


def items(seed: int, world: str) -> ReplaySample:
  """Eight items with the endings above, padding full of numbers."""
  spec, networks = WORLDS[world]
  rng = np.random.default_rng(seed)
  shape = (8, 9)
  first, end = np.array(VALID_ROWS).T[..., None]
  row = np.arange(9)
  discount_t = np.ones(shape, np.float32)
  for item in TERMINATED:
    discount_t[item, VALID_ROWS[item][1] - 1] = 0.0
  return ReplaySample(
    Sequence(
      inputs=random_inputs(rng, shape, spec=spec)._replace(
        is_first_t=(row == first) & (first > 0)
      ),
      a_t=rng.integers(spec.num_actions, size=shape).astype(np.int32),
      discount_t=discount_t,
      valid_t=(first <= row) & (row < end),
      core_state=random_core_state(rng, networks, 8),
    ),
    probability=PROBABILITY,
    keys=None,
  )


# --- The child --------------------------------------------------------------


def run_updates(world: str, num_devices: int) -> dict:
  """Several updates, and everything that comes of them, on the host.

  0 devices: the learner without a mesh.
  """
  networks = WORLDS[world][1]
  mesh = on_all = split = None
  if num_devices:
    mesh = Mesh(np.array(jax.devices()[:num_devices]), (BATCH_AXIS,))
    on_all, split = learner_shardings(mesh)
  learner = make_learner(
    networks=networks, optimizer=OPTIMIZER, config=CONFIG, mesh=mesh
  )
  init = functools.partial(
    init_learner_state, networks=networks, optimizer=OPTIMIZER
  )
  state = jax.device_put(jax.jit(init)(jax.random.key(0)), on_all)
  batches = jax.device_put([items(i, world) for i in range(UPDATES)], split)
  outputs, donated = [], []
  for batch in batches:
    before = state
    # Nothing goes to the host and back, nor from one device to another but for
    # what the step itself exchanges.
    with jax.transfer_guard("disallow"):
      state, output = learner(state, batch)
    donated.append(all(x.is_deleted() for x in jax.tree.leaves(before)))
    outputs.append(jax.device_get(output))
  return {
    "state": jax.device_get(state),
    "outputs": outputs,
    "donated": donated,
    "replicas": [
      # Not addressable_data: of what is replicated it only knows the first.
      jax.tree.map(
        lambda x, i=i: np.asarray(x.addressable_shards[i].data), state
      )
      for i in range(num_devices)
    ],
    "num_replicas": {
      len(x.sharding.device_set)
      for x in jax.tree.leaves((state, output.metrics, output.td_abs_by_row))
    },
    "split_sizes": {
      x.addressable_data(0).shape[0]
      for x in jax.tree.leaves((batch, output.priorities))
    },
  }


def main(path: str) -> None:
  """Runs all cases, and each world without a mesh."""
  warnings.simplefilter("error")  # "Some donated buffers were not usable"
  results = {
    case: run_updates(*case)
    for case in [*((world, 0) for world in WORLDS), *CASES]
  }
  pathlib.Path(path).write_bytes(pickle.dumps(results))


# --- The tests --------------------------------------------------------------


@pytest.fixture(scope="module", name="results")
def _results(tmp_path_factory):
  path = tmp_path_factory.mktemp("data_parallel") / "results"
  flags = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Compiles faster.
    + " --xla_backend_optimization_level=0"
  )
  child = subprocess.run(
    [sys.executable, "-m", "tests.agent.test_data_parallel", str(path)],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert child.returncode == 0, child.stderr
  return pickle.loads(path.read_bytes())


@pytest.mark.parametrize("world, num_devices", CASES)
def test_updates_are_those_of_one_device(results, world, num_devices):
  expected, got = results[world, 0], results[world, num_devices]
  assert got["num_replicas"] == {num_devices}
  assert got["split_sizes"] == {8 // num_devices}
  assert got["state"].num_updates == UPDATES
  assert_trees_close(got["state"], expected["state"])
  for x, y in zip(got["outputs"], expected["outputs"], strict=True):
    # Priorities in the batch's order, whichever device computed them.
    assert_trees_close(x, y)


@pytest.mark.parametrize("world, num_devices", CASES)
def test_every_device_holds_the_same_bits(results, world, num_devices):
  first, *others = results[world, num_devices]["replicas"]
  assert len(others) == num_devices - 1
  for other in others:
    assert_trees_equal(other, first)


def test_the_state_is_donated_on_every_device(results):
  for result in results.values():
    assert result["donated"] == [True] * UPDATES


def test_the_items_tell_local_from_global(results):
  """What the comparison above relies on, so that it can fail."""
  valid = items(0, "numbers").sequence.valid_t[:, CONFIG.burn_in :]
  transitions = (valid[:, 1:] & valid[:, :-1]).sum(axis=1)
  np.testing.assert_array_equal(transitions, [5, 5, 2, 1, 5, 0, 5, 4])
  weights = (0.01 / PROBABILITY) ** 0.6
  for num_devices in (2, 4, 8):
    rows = transitions.reshape(num_devices, -1).sum(axis=1)
    assert rows.min() < rows.max()
    largest = weights.reshape(num_devices, -1).max(axis=1)
    assert largest[-1] == 1 and max(largest[:-1]) < 0.6
  for world, num_devices in results:
    result = results[world, num_devices]
    for output in result["outputs"]:
      np.testing.assert_allclose(
        output.metrics["importance_weight_mean"], weights.mean(), rtol=1e-5
      )
      np.testing.assert_allclose(
        output.metrics["effective_sample_size"],
        weights.sum() ** 2 / (8 * (weights**2).sum()),
        rtol=1e-5,
      )
    norms = [output.metrics["grad_norm"] for output in result["outputs"]]
    assert min(norms) < CONFIG.max_grad_norm < max(norms), norms
    # A single update changes the parameters by far more than 1e-5.
    state = result["state"]
    moved = jax.tree.map(
      lambda x, y: np.abs(x - y).max(), state.params, state.target_params
    )
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_a_mesh_that_cannot_work_is_refused():
  device = jax.devices()[:1]
  wanted = {"networks": NETWORKS, "optimizer": OPTIMIZER, "config": CONFIG}
  with pytest.raises(ValueError, match=r"one axis 'batch', got \('data',\)"):
    make_learner(**wanted, mesh=Mesh(np.array(device), ("data",)))
  three = Mesh(np.array(device * 3), (BATCH_AXIS,))
  with pytest.raises(ValueError, match="3 devices can split evenly, got .* 8;"):
    make_learner(**wanted, mesh=three)


if __name__ == "__main__":
  main(sys.argv[1])
