"""A batch without plumbing: the learner takes it, and it is always the same."""

import jax
import numpy as np
import pytest

from r2d2_jax.config import ConfigError
from r2d2_jax.presets import smoke
from r2d2_jax.system.example import example_batch

CONFIG = smoke().updated(
  {
    "env.task": "recall-long",  # games of more rows than an item's first step
    "network.torso_channels": (4,),
    "network.core_units": 4,
    "network.head_units": 4,
    "agent.batch_size": 5,
    "agent.burn_in": 6,
    "replay.row_states": True,
    # Settings of a real run, which a batch does not wait for.
    "replay.backend": "reverb",
    "replay.min_sequences": 900,
  }
)


def test_one_update_of_a_batch_that_is_the_same_again():
  example = example_batch(CONFIG)
  sequence = example.batch.sequence
  assert sequence.a_t.shape == (5, 18)
  assert example.batch.row_carry[1].shape == (5, 18, 4)
  # Rows of burn-in too, of games that had begun before.
  assert sequence.valid_t[:, :6].any()
  assert (example.batch.probability > 0).all()
  state, output = jax.jit(example.agent.learner_step)(
    example.state, example.batch
  )
  assert int(state.num_updates) == 1
  assert float(output.metrics["loss"]) > 0
  again = example_batch(CONFIG)
  jax.tree.map(np.testing.assert_array_equal, again.batch, example.batch)
  # The parameters of another agent play, and are those of the state.
  other = example_batch(CONFIG, params=state.params)
  jax.tree.map(np.testing.assert_array_equal, other.state.params, state.params)


def test_settings_that_cannot_work_are_refused():
  with pytest.raises(ConfigError, match="replay.capacity_sequences"):
    example_batch(CONFIG.updated({"replay.capacity_sequences": 3}))
