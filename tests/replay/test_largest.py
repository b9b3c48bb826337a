"""New items get the largest priority of any so far, also after a restart."""

import jax
import numpy as np
import pytest

from r2d2_jax.config import Config
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.largest import LargestFirst
from r2d2_jax.replay.make import make_replay
from tests.replay.tape import Lengths, StampingActor, play
from tests.stamped import StampedWorld

LENGTHS = Lengths(0, 2, 1)
CONFIG = Config().updated({
  "agent.burn_in": 0, "agent.trace_length": 2, "agent.overlap": 1,
  "replay.backend": "local", "replay.capacity_sequences": 8,
  "replay.priority_exponent": 0.5, "replay.initial_priority": "max",
})  # fmt: skip


@pytest.fixture(name="played", scope="module")
def fixture_played():
  world = StampedWorld([[30]], num_actions=4)
  tape = play(world, LENGTHS, 12)
  core_state = jax.tree.map(lambda x: x[:1], StampingActor(world).example())
  return world.spec, core_state, tape.items[0]


def _probabilities(replay):
  """key -> probability of every item held."""
  sample = replay.sample(400, timeout_seconds=1.0)
  return dict(
    zip(sample.keys.tolist(), sample.probability.tolist(), strict=True)
  )


def test_the_largest_so_far(played, tmp_path):
  spec, core_state, items = played
  replay = make_replay(CONFIG, spec, core_state)
  assert isinstance(replay, LargestFirst)
  replay.insert(
    items[:2], np.array([77.0, 0.0])
  )  # what actors say is not asked
  assert _probabilities(replay) == {1: 0.5, 2: 0.5}
  replay.update_priorities(np.array([1, 2], np.uint64), np.array([9.0, 0.25]))
  replay.update_priorities(np.array([1], np.uint64), np.array([4.0]))
  replay.insert(items[2:3], np.zeros(1))
  # Roots of 4, 0.25 and, the largest that there was, 9.
  expected = {1: 2 / 5.5, 2: 0.5 / 5.5, 3: 3 / 5.5}
  assert _probabilities(replay) == pytest.approx(expected)
  replay.save(tmp_path)
  restored = make_replay(CONFIG, spec, core_state, restore_from=tmp_path)
  restored.insert(items[3:4], np.zeros(1))
  expected = {1: 2 / 8.5, 2: 0.5 / 8.5, 3: 3 / 8.5, 4: 3 / 8.5}
  assert _probabilities(restored) == pytest.approx(expected)


def test_a_saved_replay_of_actors_priorities_is_gone_on_with(played, tmp_path):
  spec, core_state, items = played
  actors = CONFIG.updated({"replay.initial_priority": "actor"})
  replay = make_replay(actors, spec, core_state)
  replay.insert(items[:1], np.array([4.0]))
  replay.save(tmp_path)
  restored = make_replay(CONFIG, spec, core_state, restore_from=tmp_path)
  restored.insert(items[1:2], np.zeros(1))
  assert _probabilities(restored) == pytest.approx({1: 2 / 3, 2: 1 / 3})


@pytest.mark.parametrize("text", ["0.5", "NaN", "[[", "true", "Infinity"])
def test_a_damaged_file_is_refused(played, tmp_path, text):
  spec, core_state, items = played
  replay = make_replay(CONFIG, spec, core_state)
  replay.insert(items[:1], np.ones(1))
  replay.save(tmp_path)
  (tmp_path / "largest_priority.json").write_text(text)
  with pytest.raises(ReplayError, match="largest_priority.json"):
    make_replay(CONFIG, spec, core_state, restore_from=tmp_path)
