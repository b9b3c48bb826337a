import io
import itertools

import numpy as np
import pytest

from r2d2_jax import types
from r2d2_jax.replay.items import stack_items
from r2d2_jax.replay.packing import pack_items, unpack_items
from r2d2_jax.replay.sequences import SequenceBuilder
from tests.replay.tape import (
  CARRIES,
  NUM_ACTIONS,
  Lengths,
  StampingActor,
  assert_same_tree,
  column,
  episodes,
  expected_items,
  make_builder,
  play,
)
from tests.stamped import StampedWorld

LENGTHS = [
  Lengths(4, 8, 4),  # the published proportions
  Lengths(4, 6, 2),  # blocks shorter than the burn-in
  Lengths(6, 4, 2),  # the second item begins in the padding too
  Lengths(0, 4, 1),  # no burn-in
  Lengths(3, 2, 1),  # blocks of one row
]
EPISODES = [[1, 2, 3, 30], [5, 9, 13, 1], [40, 7], [8, 4, 12, 11, 16]]


def _world(**kwargs):
  return StampedWorld(EPISODES, num_actions=NUM_ACTIONS, **kwargs)


WORLDS = {
  "sync": lambda: _world(truncated=[(0, 3), (2, 0), (3, 1)]),
  "async": lambda: _world(batch_size=2, truncated=[(1, 1)]),
  "image": lambda: _world(obs="image"),
  "life loss": lambda: _world(
    life_loss="reset",
    life_losses=[
      (0, 3, 1),
      (0, 3, 2),
      (0, 3, 12),
      (2, 0, 8),
      (2, 0, 39),
      (3, 0, 4),
      (3, 2, 7),
    ],
  ),
  "roll": lambda: _world(life_loss="roll", life_losses=[(0, 3, 5)]),
}
CASES = list(itertools.product(LENGTHS, WORLDS))


@pytest.fixture(
  name="tape",
  scope="module",
  params=CASES,
  ids=lambda c: f"{tuple(c[0])} {c[1]}",
)
def _tape(request):
  lengths, world = request.param
  return play(WORLDS[world](), lengths, 120), lengths


def _rows(item):
  """(episode, step) of the valid rows."""
  q_t = column(item, "q_t")[column(item, "valid_t")]
  return [(int(e), int(s)) for _, e, s, _ in q_t]


def test_items_are_those_of_brute_force(tape):
  (world, items, *_), lengths = tape
  for lane, mine in enumerate(items):
    theirs = list(expected_items(world, lane, lengths))
    assert len(mine) == len(theirs) > 0
    for item, rows in zip(mine, theirs, strict=True):
      for name, blank, dtype in [
        ("a_tm1", 0, np.int32),
        ("r_t", 0.0, np.float32),
        ("discount_t", 0.0, np.float32),
        ("a_t", 0, np.int32),
      ]:
        got = column(item, name)
        assert got.dtype == dtype
        assert got.tolist() == [
          blank if row is None else getattr(row, name) for row in rows
        ], name
      assert column(item, "valid_t").tolist() == [r is not None for r in rows]
      assert column(item, "is_first_t").tolist() == [
        row is not None and row.is_first for row in rows
      ]
      obs = column(item, "obs_t")
      assert obs.dtype == world.spec.obs_dtype
      for got, row in zip(obs, rows, strict=True):
        if row is None:
          assert not got.any()
        elif world.spec.obs_shape == (2,):
          assert got.tolist() == [row.episode, row.step]
        else:
          assert got[0, :4].tolist() == [
            lane,
            row.episode,
            row.step % 256,
            row.step // 256,
          ]
      q_t = [
        [0.0] * 4
        if row is None
        else [lane, row.episode, row.step, row.a_t + 0.5]
        for row in rows
      ]
      assert column(item, "q_t").tolist() == q_t


def test_stored_state_is_the_one_just_before_the_first_row(tape):  # mistake 8
  (_, items, *_), _ = tape
  starts_inside = 0
  for lane, mine in enumerate(items):
    for item in mine:
      c, h = (x.tolist() for x in item.core_state.carry)
      if column(item, "valid_t")[0] and not column(item, "is_first_t")[0]:
        episode, step = _rows(item)[0]
        assert c == [lane, episode, step]
        assert h == [-lane, -episode, -step]
        starts_inside += 1
      else:
        assert c == h == [0.0, 0.0, 0.0]
        assert not item.core_state.frames.any()
  assert starts_inside > 3


def test_each_row_knows_where_it_comes_from(tape):
  (_, items, _, origins), _ = tape
  for lane, mine in enumerate(items):
    for item in mine:
      valid = column(item, "valid_t")
      got = {n: column(item, n) for n in ("env_id", "num_updates", "step")}
      assert [x.dtype for x in got.values()] == [np.int32, np.int32, np.int64]
      assert not any(x[~valid].any() for x in got.values())
      assert (got["env_id"][valid] == lane).all()
      assert [
        (n, s)
        for n, s in zip(
          got["num_updates"][valid], got["step"][valid], strict=True
        )
      ] == [origins[lane, episode, step] for episode, step in _rows(item)]


@pytest.mark.parametrize("lengths, world", CASES)
def test_with_row_states_each_row_has_the_state_just_before_it(lengths, world):
  tape = play(WORLDS[world](), lengths, 120, row_states=True)
  num_states = 0
  for lane, mine in enumerate(tape.items):
    for item in mine:
      row_carry = column(item, "row_carry")
      assert row_carry.dtype == np.float32
      keeps = column(item, "valid_t") & ~column(item, "is_first_t")
      assert not row_carry[~keeps].any()
      rows = column(item, "q_t")[keeps, 1:3]
      assert row_carry[keeps].tolist() == [
        [lane, e, s, -lane, -e, -s] for e, s in rows
      ]
      first = np.concatenate([x.ravel() for x in item.core_state.carry])
      np.testing.assert_array_equal(row_carry[0], first)
      num_states += keeps.sum()
  assert num_states > 200


def test_row_states_cost_nothing_where_they_are_not_kept():
  tape = play(_world(), LENGTHS[0], 60)
  assert all(
    b.row_carry.nbytes == 0
    for mine in tape.items
    for item in mine
    for b in item.blocks
  )


def test_a_lane_is_stored_under_the_id_it_was_given():
  world = _world()
  ids = np.array([7, 0, 300, 2])
  tape = play(world, LENGTHS[0], 60, lane_ids=ids)
  for lane, mine in enumerate(tape.items):
    for item in mine:
      env_id = column(item, "env_id")[column(item, "valid_t")]
      assert (env_id == ids[lane]).all() and mine


def test_lane_ids_of_other_lanes_are_refused():
  world = _world()
  with pytest.raises(ValueError, match="each of the 4 lanes; .* shape [(]3,"):
    make_builder(world, StampingActor(world), LENGTHS[0], lane_ids=np.arange(3))


def test_rewards_arrive_one_row_after_their_action(tape):  # mistake 3
  (_, items, *_), _ = tape
  for item in itertools.chain(*items):
    valid = column(item, "valid_t")
    a_t, a_tm1, r_t = (column(item, n)[valid] for n in ("a_t", "a_tm1", "r_t"))
    steps = np.array([step for _, step in _rows(item)])
    np.testing.assert_array_equal(a_tm1[1:], a_t[:-1])
    np.testing.assert_array_equal(r_t[1:], steps[1:] + a_t[:-1] / 16)


def test_rows_are_consecutive_within_one_episode(tape):  # mistakes 13 and 16
  (_, items, *_), _ = tape
  for item in itertools.chain(*items):
    rows = _rows(item)
    assert rows == [(rows[0][0], rows[0][1] + i) for i in range(len(rows))]
    valid = np.flatnonzero(column(item, "valid_t"))
    np.testing.assert_array_equal(valid, valid[0] + np.arange(valid.size))
    # A first row only follows padding: no transition leads into a reset row.
    first = np.flatnonzero(column(item, "is_first_t"))
    assert first.tolist() in ([], [valid[0]])


def test_each_transition_is_trained_and_no_item_is_idle(tape):  # mistake 14
  (world, items, *_), lengths = tape
  for lane, mine in enumerate(items):
    trained = []
    for item in mine:
      valid = column(item, "valid_t")[lengths.burn_in :]
      rows = column(item, "q_t")[lengths.burn_in :, 1:3]
      new = {
        tuple(rows[i].tolist())
        for i in range(lengths.trace_length - 1)
        if valid[i] and valid[i + 1]
      }
      assert new - set().union(*trained)
      trained.append(new)
    wanted = {
      (row.episode, row.step)
      for rows, over in episodes(world, lane)
      if over
      for row in rows[:-1]
    }
    assert wanted <= set().union(*trained)


def test_short_episodes_give_one_item():  # mistake 15
  lengths = Lengths(4, 8, 4)
  world = StampedWorld([[1], [2], [3], [4], [5], [7]], num_actions=NUM_ACTIONS)
  _, items, *_ = play(world, lengths, 8)
  for steps, mine in zip([1, 2, 3, 4, 5, 7], items, strict=True):
    assert column(mine[0], "valid_t").tolist() == (
      [False] * 4 + [True] * (steps + 1) + [False] * (7 - steps)
    )
    assert len(mine) == 8 // (steps + 1)


def test_stacks_rebuilt_from_items_are_those_acted_on():  # mistake 17
  lengths = Lengths(4, 6, 2)
  tape = play(
    _world(obs="image", life_loss="reset", life_losses=[(2, 0, 9), (3, 0, 4)]),
    lengths,
    100,
  )
  compared = 0
  for lane, mine in enumerate(tape.items):
    for item in mine:
      frames = list(item.core_state.frames)
      fields = [
        column(item, n)
        for n in ("obs_t", "is_first_t", "valid_t", "discount_t", "q_t")
      ]
      for t, (obs, first, valid, discount, q) in enumerate(
        zip(*fields, strict=True)
      ):
        if first:
          frames = [obs] * 3
        stack = np.stack(frames + [obs])
        frames = list(stack[1:])
        closing = valid and not discount and not first
        if valid and not closing:
          key = (lane, int(q[1]), int(q[2]))
          np.testing.assert_array_equal(stack, tape.stacks[key], err_msg=str(t))
          compared += 1
  assert compared > 300


def test_golden_items_of_one_episode():
  # 7 rows, burn-in 2, trace 4, overlap 2: items at rows -2, 0 and 2.
  world = StampedWorld([[6]], num_actions=NUM_ACTIONS)
  _, [items], *_ = play(world, Lengths(2, 4, 2), 7)
  step = [column(i, "q_t")[:, 2].tolist() for i in items]
  valid = [column(i, "valid_t").astype(int).tolist() for i in items]
  assert step == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 0]]
  assert valid == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]
  assert [i.core_state.carry[0].tolist() for i in items] == [
    [0, 0, 0],
    [0, 0, 0],
    [0, 0, 2],
  ]


def test_items_come_as_soon_as_their_last_row_is_known():
  world = StampedWorld([[11]], num_actions=NUM_ACTIONS)
  actor = StampingActor(world)
  builder = make_builder(world, actor, Lengths(2, 4, 2))
  world.reset()
  counts = []
  for _ in range(12):
    timestep = world.recv()
    output, _ = actor.step(timestep)
    counts.append(len(builder.add(timestep, output)))
    world.send(output.a_t, timestep.env_id)
  # Items end with rows 3, 5, 7, 9 and with the last row, 11.
  assert counts == [0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]


def test_neighbours_share_blocks_and_uids_increase():
  world = StampedWorld([[40]], num_actions=NUM_ACTIONS)
  _, [items], *_ = play(world, Lengths(4, 8, 4), 41)
  for left, right in itertools.pairwise(items):
    assert left.blocks[1] is right.blocks[0]
    assert left.blocks[2] is right.blocks[1]
  uids = [b.uid for i in items for b in i.blocks if b.valid_t.any()]
  assert sorted(set(uids)) == list(dict.fromkeys(uids))


def test_blocks_are_not_views_of_what_is_written_next():
  world = StampedWorld([[200]], num_actions=NUM_ACTIONS)
  _, [items], *_ = play(world, Lengths(4, 8, 4), 150)
  assert _rows(items[0]) == [(0, s) for s in range(8)]
  assert items[1].core_state.carry[0].tolist() == [0, 0, 0]
  assert items[2].core_state.carry[0].tolist() == [0, 0, 4]


def test_world_started_anew_closes_the_open_episode_as_truncated():
  world = StampedWorld([[30]], num_actions=NUM_ACTIONS)
  actor = StampingActor(world)
  builder = make_builder(world, actor, Lengths(2, 4, 2))
  items = []
  for num_rows in (5, 4):
    world.reset()
    for _ in range(num_rows):
      timestep = world.recv()
      output, _ = actor.step(timestep)
      items += builder.add(timestep, output)
      world.send(output.a_t, timestep.env_id)
  assert [_rows(i)[-1] for i in items] == [(0, 3), (0, 4), (1, 3)]
  valid = column(items[1], "valid_t")
  assert column(items[1], "discount_t")[valid].all()


def _through_a_file(arrays, older=False):
  """As they are after a save; with the names of version 0.1 where asked for."""
  if older:
    arrays = {k.replace("row_carry", "row_lstm"): x for k, x in arrays.items()}
  file = io.BytesIO()
  np.savez(file, **arrays)
  file.seek(0)
  return dict(np.load(file, allow_pickle=False))


@pytest.mark.parametrize(
  "cut, core, older",
  [
    (3, None, False),
    (17, None, False),
    (50, None, False),
    (50, None, True),
    (50, "gru", False),
    (50, "dict", False),
  ],
)
def test_state_dict_continues_bit_for_bit(cut, core, older):
  lengths = Lengths(4, 6, 2)
  world = _world(life_loss="reset", life_losses=[(2, 0, 9)])
  actor = StampingActor(world, *([CARRIES[core]] if core else []))
  builder = make_builder(world, actor, lengths, row_states=True)
  world.reset()
  tape = []
  for _ in range(80):
    timestep = world.recv()
    output, _ = actor.step(timestep)
    tape.append((timestep, output))
    world.send(output.a_t, timestep.env_id)
  for timestep, output in tape[:cut]:
    builder.add(timestep, output)
  state = builder.state_dict()
  assert all(
    isinstance(x, np.ndarray) and x.dtype != object for x in state.values()
  )
  restored = make_builder(world, actor, lengths, row_states=True)
  for timestep, output in tape[:9]:  # what it held before must not matter
    restored.add(timestep, output)
  restored.load_state_dict(_through_a_file(state, older))
  for timestep, output in tape[cut:]:
    one, two = (b.add(timestep, output) for b in (builder, restored))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
      for name in set(a.blocks[0]._fields) - {"core_state", "uid"}:
        np.testing.assert_array_equal(column(a, name), column(b, name))
      assert_same_tree(a.core_state, b.core_state)


@pytest.mark.parametrize(
  "core, older", [(None, False), (None, True), ("gru", False), ("dict", False)]
)
def test_packed_items_come_back_bit_for_bit(core, older):
  world = _world()
  actor = StampingActor(world, *([CARRIES[core]] if core else []))
  tape = play(world, LENGTHS[0], 60, actor=actor, row_states=True)
  items = list(itertools.chain(*tape.items))
  packed = _through_a_file(pack_items(items), older)
  unpacked = unpack_items(packed, actor.example())
  assert len(unpacked) == len(items) > 0
  for a, b in zip(items, unpacked, strict=True):
    for name in set(a.blocks[0]._fields) - {"core_state", "uid"}:
      np.testing.assert_array_equal(column(a, name), column(b, name))
    assert_same_tree(a.core_state, b.core_state)
    assert_same_tree(b.blocks[0].core_state, b.core_state)
  assert unpack_items({}, actor.example()) == []


def test_state_of_other_lanes_is_refused():
  one, two = _world(), StampedWorld([[5]], num_actions=NUM_ACTIONS)
  builders = [make_builder(w, StampingActor(w), LENGTHS[0]) for w in (one, two)]
  with pytest.raises(ValueError, match="expected the shape"):
    builders[0].load_state_dict(builders[1].state_dict())


def test_stack_items():
  world = StampedWorld([[6]], num_actions=NUM_ACTIONS)
  _, [items], *_ = play(world, Lengths(2, 4, 2), 7)
  rows = stack_items(items)
  assert rows.q_t.shape == (3, 6, 4)
  for name, value in rows._asdict().items():
    np.testing.assert_array_equal(
      value, np.stack([column(i, name) for i in items])
    )
  assert not rows.q_t[~rows.valid_t].any()


def test_stateless_core():
  world = StampedWorld([[6]], num_actions=NUM_ACTIONS)
  builder = SequenceBuilder(
    1,
    spec=world.spec,
    burn_in=0,
    trace_length=2,
    overlap=1,
    core_state=types.CoreState(np.zeros((1, 0, 2), np.float32), ()),
  )
  actor = StampingActor(world)
  world.reset()
  items = []
  for _ in range(3):
    timestep = world.recv()
    output, _ = actor.step(timestep)
    items += builder.add(
      timestep,
      output._replace(
        core_state=types.CoreState(np.zeros((1, 0, 2), np.float32), ())
      ),
    )
    world.send(output.a_t, timestep.env_id)
  assert len(items) == 2
  assert items[0].core_state.carry == ()


def _one_row(world, actor, **changes):
  world.reset()
  timestep = world.recv()
  output, _ = actor.step(timestep)
  return timestep._replace(**changes), output


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(env_id=np.array([0, 1, 1, 2])), "at most once"),
    (dict(env_id=np.array([0, 1, 2, 4])), r"env_id in \[0, 4\)"),
    (dict(is_first_t=np.array([True, False, True, True])), r"lanes \[1\]"),
  ],
)
def test_streams_that_cannot_be_are_refused(changes, message):
  world = _world()
  actor = StampingActor(world)
  builder = make_builder(world, actor, LENGTHS[0])
  with pytest.raises(ValueError, match=message):
    builder.add(*_one_row(world, actor, **changes))


@pytest.mark.parametrize(
  "lengths", [Lengths(4, 8, 0), Lengths(4, 8, 8), Lengths(-1, 8, 4)]
)
def test_lengths_that_lose_transitions_are_refused(lengths):
  world = _world()
  with pytest.raises(ValueError, match="overlap"):
    make_builder(world, StampingActor(world), lengths)
