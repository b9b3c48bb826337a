"""Items with rows behind their trained part: whole returns, no idle item."""

import functools
import itertools

import jax
import numpy as np
import pytest

from r2d2_jax.agent.targets import n_step_td_error
from r2d2_jax.config import AgentConfig, Config
from r2d2_jax.replay.items import stack_items
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.types import ActorOutput, CoreState, EnvSpec, Timestep

SPEC = EnvSpec((1,), np.dtype(np.float32), 3, 1)
CARRY = np.zeros((1, 1), np.float32)
ZERO = CoreState(np.zeros((1, 0, 1), np.float32), CARRY)
CASES = [
  (0, 2, 1, 2), (0, 2, 1, 4), (2, 4, 2, 4), (4, 8, 4, 4), (0, 6, 2, 2),
  (3, 6, 3, 9),
]  # fmt: skip


def _config(lengths, n_step):
  names = ("burn_in", "trace_length", "overlap", "lookahead_rows")
  return AgentConfig(
    **dict(zip(names, lengths, strict=True)), n_step=n_step, discount=0.5,
    value_rescaling=False,
  )  # fmt: skip


def _episode(rng, rows, terminated):
  """Columns of an episode [T, ...]; q says which row it is of."""
  discount = np.ones(rows, np.float32)
  discount[-1] = 0.0 if terminated else 1.0
  return {
    "q_t": rng.normal(size=(rows, 3)).astype(np.float32),
    "a_t": rng.integers(3, size=rows).astype(np.int32),
    "r_t": np.concatenate(
      [np.zeros(1, np.float32), rng.normal(size=rows - 1).astype(np.float32)]
    ),
    "discount_t": discount,
  }


def _feed(builder, episode, carry=None):
  """Row by row; the state before row t is t + 1, the observation t."""
  rows = len(episode["a_t"])
  items = []
  for t in range(rows):
    items += builder.add(
      Timestep(
        np.full((1, 1), t, np.float32),
        episode["r_t"][t : t + 1],
        episode["discount_t"][t : t + 1],
        np.array([t == 0]),
        np.array([t == rows - 1]),
        np.zeros(1, np.int32),
      ),
      ActorOutput(
        episode["a_t"][t : t + 1],
        episode["a_t"][t - 1 : t] if t else np.zeros(1, np.int32),
        episode["q_t"][t : t + 1],
        CoreState(ZERO.frames, CARRY + t + 1 if carry is None else carry),
      ),
    )
  return items


def _builder(config):
  return SequenceBuilder(
    1, spec=SPEC, core_state=ZERO, burn_in=config.burn_in,
    trace_length=config.trace_length, overlap=config.overlap,
    lookahead_rows=config.lookahead_rows,
  )  # fmt: skip


def _returns(episode, config):
  """The definition: n-step errors of all transitions, by slow sums in
  float64."""
  q, a = episode["q_t"].astype(float), episode["a_t"]
  errors = []
  for t in range(len(a) - 1):
    end = min(t + config.n_step, len(a) - 1)
    discount, total = 1.0, 0.0
    for k in range(t + 1, end + 1):
      total += discount * episode["r_t"][k]
      discount *= config.discount * episode["discount_t"][k]
    errors.append(total + discount * q[end].max() - q[t, a[t]])
  return errors


def _td_error(items, config):
  """What the items' trained rows say: error and mask [T-1, items]."""
  columns = {
    k: np.swapaxes(v, 0, 1)[config.burn_in :]
    for k, v in stack_items(items)._asdict().items()
  }
  jitted = jax.jit(functools.partial(n_step_td_error, config=config))
  return jax.device_get(jitted(q=columns["q_t"], target_q=columns.pop("q_t"),
                               **columns))  # fmt: skip


@pytest.mark.parametrize("lengths", CASES)
def test_every_transition_has_the_whole_episodes_return(lengths):
  """n - 1 <= lookahead rows: nothing is cut at an item's end, none is
  missed."""
  config = _config(lengths, n_step=min(lengths[3] + 1, 3))
  rng = np.random.default_rng(0)
  builder = _builder(config)
  period = config.trace_length - config.overlap
  items, wanted = [], []  # of each item: errors from its first trained row on
  for rows, terminated in itertools.product((2, 3, 4, 5, 7, 11, 29), (0, 1)):
    episode = _episode(rng, rows, terminated)
    errors = _returns(episode, config)
    mine = _feed(builder, episode)
    for k, item in enumerate(mine):
      start = k * period
      # The state is the one before the item's first row, zero in the padding.
      first = start - config.burn_in
      assert item.core_state.carry[0] == (first + 1 if first > 0 else 0)
      wanted.append(errors[start : start + config.trace_length - 1])
      # Something new: what the items before it did not reach.
      reached = start - period + config.trace_length - 1 if k else 0
      assert len(errors) > reached
    assert len(errors) <= start + config.trace_length - 1  # nothing is missed
    items += mine
  assert stack_items(items).valid_t.shape == (len(items), config.item_rows)
  td_error, mask = _td_error(items, config)
  assert td_error.shape == (config.trace_length - 1, len(items))
  for k, errors in enumerate(wanted):
    assert mask[:, k].tolist() == [
      i < len(errors) for i in range(config.trace_length - 1)
    ]
    np.testing.assert_allclose(
      td_error[: len(errors), k], errors, rtol=0, atol=1e-5
    )


def test_without_it_the_last_returns_are_shorter():
  """The guard of the test above: it fails where the rows are not there."""
  config = _config((4, 8, 4, 0), n_step=3)
  episode = _episode(np.random.default_rng(0), 29, True)
  td_error, _ = _td_error(_feed(_builder(config), episode)[:1], config)
  difference = np.abs(td_error[:, 0] - _returns(episode, config)[:7])
  assert (difference[:5] < 1e-5).all() and (difference[5:] > 1e-3).all()


def test_the_open_episode_survives_a_restart():
  config = _config((4, 8, 4, 4), n_step=3)
  episode = _episode(np.random.default_rng(1), 30, True)
  one, other = _builder(config), _builder(config)
  head = {k: v[:13] for k, v in episode.items()}
  rows = len(head["a_t"])
  # An episode that is still open: fed without its last mark.
  for builder in (one,):
    for t in range(rows):
      builder.add(
        Timestep(
          np.full((1, 1), t, np.float32), head["r_t"][t : t + 1],
          np.ones(1, np.float32), np.array([t == 0]), np.array([False]),
          np.zeros(1, np.int32),
        ),
        ActorOutput(
          head["a_t"][t : t + 1], np.zeros(1, np.int32),
          head["q_t"][t : t + 1], CoreState(ZERO.frames, CARRY + t + 1),
        ),
      )  # fmt: skip
  other.load_state_dict(one.state_dict())
  last = (
    Timestep(
      np.zeros((1, 1), np.float32), np.ones(1, np.float32),
      np.zeros(1, np.float32), np.array([False]), np.array([True]),
      np.zeros(1, np.int32),
    ),
    ActorOutput(
      np.ones(1, np.int32), np.zeros(1, np.int32),
      np.ones((1, 3), np.float32), CoreState(ZERO.frames, CARRY),
    ),
  )  # fmt: skip
  ends = [stack_items(b.add(*last)) for b in (one, other)]
  assert len(ends[0].a_t) == 2
  jax.tree.map(np.testing.assert_array_equal, *ends)


def test_replay_hands_the_rows_out():
  agent = _config((4, 8, 4, 4), n_step=3)
  config = Config(agent=agent).updated({
    "replay.backend": "local", "replay.capacity_sequences": 20,
  })  # fmt: skip
  assert (config.item_rows, config.block_rows) == (16, 4)
  items = _feed(_builder(agent), _episode(np.random.default_rng(2), 40, True))
  replay = LocalReplay(config, SPEC, ZERO)
  replay.insert(items, np.ones(len(items)))
  sequence = replay.sample(64, timeout_seconds=1.0).sequence
  assert sequence.valid_t.shape == (64, 16)
  obs, valid = sequence.inputs.obs_t[..., 0], sequence.valid_t
  consecutive = valid[:, 1:] & valid[:, :-1]
  assert (np.diff(obs, axis=1)[consecutive] == 1).all()


def test_lengths_that_do_not_work_are_refused():
  with pytest.raises(ValueError, match="lookahead_rows=-1"):
    SequenceBuilder(
      1, spec=SPEC, core_state=ZERO, burn_in=0, trace_length=2, overlap=1,
      lookahead_rows=-1,
    )  # fmt: skip


def test_rows_of_a_core_without_state_are_handed_out_with_row_states():
  """As the probe keeps them: there is nothing to split, and nothing is lost."""
  agent = _config((0, 2, 1, 2), n_step=3)
  zero = ZERO._replace(carry=())
  config = Config(agent=agent).updated({
    "replay.backend": "local", "replay.capacity_sequences": 20,
    "replay.row_states": True,
  })  # fmt: skip
  builder = SequenceBuilder(
    1, spec=SPEC, core_state=zero, burn_in=0, trace_length=2, overlap=1,
    lookahead_rows=2, row_states=True,
  )  # fmt: skip
  items = _feed(builder, _episode(np.random.default_rng(2), 8, True), carry=())
  replay = LocalReplay(config, SPEC, zero)
  replay.insert(items, np.ones(len(items)))
  sample = replay.sample(4, timeout_seconds=1.0)
  assert sample.row_carry == () and sample.sequence.valid_t[:, :2].all()
