"""The plan: numbers written out by hand, and against the parts that it speaks of."""

import io
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from r2d2_jax.presets import PRESETS
from r2d2_jax.agent.learning import (
    init_learner_state,
    make_learner,
    make_optimizer,
)
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import (
    AgentConfig,
    Config,
    ConfigError,
    EnvConfig,
    NetworkConfig,
    ReplayConfig,
    RunConfig,
    validate,
)
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder, core_leaves, row_specs
from r2d2_jax.system.planning import plan as plan_lib
from r2d2_jax.system.planning import sizes
from r2d2_jax.system.planning.plan import check_plan, make_plan, print_plan
from r2d2_jax.types import (
    ActorOutput,
    AgentInputs,
    CoreState,
    EnvSpec,
    ReplaySample,
    Sequence,
    Timestep,
)

GIB = 2**30
PONG = EnvSpec((84, 84), np.dtype(np.uint8), 18, 4)
COLOUR = EnvSpec((64, 64, 3), np.dtype(np.uint8), 15, 1)
GRID = EnvSpec((7, 7, 3), np.dtype(np.uint8), 3, 1)
FLAT = EnvSpec((7,), np.dtype(np.float32), 4, 1)
SPECS = {
    "paper": PONG, "submission": PONG, "gpu": PONG, "laptop": PONG,
    "memory": GRID, "smoke": FLAT,
}  # fmt: skip

# S = 6 rows from one item of a lane to its next, R = 2 rows of a block.
SMALL = Config(
    env=EnvConfig(task="recall", num_envs=4),
    network=NetworkConfig(
        torso="mlp", torso_channels=(5,), core_units=3, head_units=2,
        frame_stack=2,
    ),
    agent=AgentConfig(
        burn_in=4, trace_length=10, overlap=4, batch_size=2,
        target_period_updates=10,
    ),
    replay=ReplayConfig(
        backend="local", capacity_sequences=100, min_sequences=9,
        replay_ratio=0.5,
    ),
    run=RunConfig(total_steps=2000, actor_refresh_steps=10),
)  # fmt: skip


def plan_of(config, spec=FLAT, **limits):
  defaults = {"host_limit_bytes": 100 * GIB, "disk_limit_bytes": 1000 * GIB}
  return make_plan(config, spec, **(defaults | limits))


# Time.


def test_steps_and_updates_written_out():
  plan = plan_of(SMALL)
  # 9 items of 4 lanes: three of each; the first is whole after 10 rows, which are
  # 9 steps, the others 6 rows later each: (9 + 6 + 6) x 4.
  assert plan.fill_steps == 84
  # Two items train 9 transitions each, half a transition per step.
  assert plan.steps_per_update == 36
  assert plan.total_updates == (2000 - 84) // 36 == 53
  # 500 steps of each lane: one item after 9, then one for each 6 of the other 491.
  assert plan.replay_items == min(100, 4 * (1 + 491 // 6)) == 100
  assert plan_of(SMALL.updated({"run.total_steps": 200})
                ).replay_items == 4 * (1 + 41 // 6) == 28


def _item_arrays(config, spec, lanes, rows, episode_rows):
  """Items of a world of such episodes, cut by the real builder."""
  units, earlier = config.network.core_units, config.network.frame_stack - 1
  core = CoreState(
      np.zeros((lanes, earlier, *spec.obs_shape), spec.obs_dtype),
      (np.zeros((lanes, units), np.float32),) * 2,
  )
  builder = SequenceBuilder(
      lanes, spec=spec, core_state=core, burn_in=config.agent.burn_in,
      trace_length=config.agent.trace_length, overlap=config.agent.overlap,
  )  # fmt: skip
  zeros = np.zeros(lanes, np.float32)
  items, arrived = [], []
  for t in range(rows):
    first, last = t % episode_rows == 0, (t + 1) % episode_rows == 0
    items += builder.add(
        Timestep(
            np.zeros((lanes, *spec.obs_shape), spec.obs_dtype), zeros, zeros,
            np.full(lanes, first), np.full(lanes, last), np.arange(lanes),
        ),
        ActorOutput(
            np.zeros(lanes, np.int32), np.zeros(lanes, np.int32),
            np.zeros((lanes, spec.num_actions), np.float32), core,
        ),
    )  # fmt: skip
    arrived.append(len(items))
  return items, arrived, core


def test_the_builder_needs_as_many_steps_as_planned():
  # Row t completes step t, but for the first row of an episode.
  _, arrived, _ = _item_arrays(SMALL, FLAT, 4, 100, episode_rows=1000)
  row = next(t for t, count in enumerate(arrived) if count >= 9)
  assert 4 * row == plan_of(SMALL).fill_steps


# Bytes.


def test_items_written_out(monkeypatch):
  monkeypatch.setattr(sizes, "row_specs", lambda *_: {
      "obs_t": ((20,), np.dtype(np.uint8)), "r_t": ((), np.dtype(np.float32))})
  spec = EnvSpec((20,), np.dtype(np.uint8), 5, 1)
  item = sizes.item_size(SMALL, spec)
  assert item.row_bytes == 24
  assert item.state_bytes == 20 + 2 * 3 * 4  # an earlier frame, c and h
  assert item.lone_bytes == 14 * 24 + 44
  # 6 rows with 5 values each, 3 blocks of 3 arrays: obs, r, values.
  assert item.stored_bytes == 6 * (24 + 20) + 44 + 3 * (230 + 3 * 140) + 750
  assert item.short_episode_bytes == (
      10 * (24 + 20) + 44 + 5 * (230 + 3 * 140) + 750)
  reverb = SMALL.updated({"replay.backend": "reverb"})
  item = sizes.item_size(reverb, spec)
  assert item.stored_bytes == pytest.approx(
      6 * (0.25 * 20 + 1.1 * 4) + 0.25 * 20 + 1.1 * 24 + 3 * 1300 + 1400)
  floats = EnvSpec((5,), np.dtype(np.float32), 5, 1)  # 20 bytes too
  assert sizes.item_size(reverb, floats).stored_bytes == pytest.approx(
      6 * 1.1 * 24 + 1.1 * 44 + 3 * 1300 + 1400)


def test_row_states_are_in_the_rows():
  kept = SMALL.updated({"replay.row_states": True})
  without = sizes.item_size(SMALL, FLAT)
  assert sizes.item_size(kept, FLAT).row_bytes == without.row_bytes + 8 * 3
  feedforward = kept.updated({"network.core": "feedforward"})
  assert sizes.item_size(feedforward, FLAT).row_bytes == without.row_bytes


@pytest.mark.parametrize("episode_rows", [10_000, 10])
def test_local_replay_holds_the_bytes_that_are_planned(episode_rows):
  config = SMALL.updated({"replay.capacity_sequences": 400, "network.frame_stack": 4, "network.core_units": 64})
  items, _, core = _item_arrays(
      config, PONG, 4, 410 * 10, episode_rows=episode_rows)
  replay = LocalReplay(config, PONG, core)
  replay.insert(items, np.ones(len(items)))
  fields = (*row_specs(PONG, core, False), "q_t")
  # pylint: disable=protected-access
  held = replay._items
  assert len(held) == 400
  blocks = {block.uid: block for item in held for block in item.blocks}
  # The padding before an episode and at its end is one block for all of them.
  blank = [uid for uid, block in blocks.items() if not block.valid_t.any()]
  assert len(blank) <= 1
  arrays = [
      getattr(block, name)
      for uid, block in blocks.items() if uid not in blank
      for name in fields
  ] + [leaf for item in held for leaf in core_leaves(item.core_state)]
  measured = sum({id(a): a.nbytes for a in arrays}.values())
  objects = len(blocks) * (
      sizes._LOCAL_BLOCK_BYTES
      + sizes._LOCAL_ARRAY_BYTES * len(fields)
  ) + 400 * sizes._LOCAL_ITEM_BYTES  # fmt: skip
  item = sizes.item_size(config, PONG)
  per_item = item.stored_bytes
  if episode_rows == 10:
    # Items that begin in the padding share its state, which is not planned with.
    per_item = item.short_episode_bytes - item.state_bytes
  assert 400 * per_item == pytest.approx(measured + objects, rel=0.03)


@pytest.mark.reverb
def test_a_row_is_the_record_that_reverb_stores():
  pytest.importorskip("reverb")
  from r2d2_jax.replay import reverb as tables  # pylint: disable=import-outside-toplevel

  config = PRESETS["laptop"]()
  core = jax.device_get(
      make_networks(PONG, config=config.network).initial_core_state(1))
  # pylint: disable=protected-access
  shapes = tables._Layout(config, PONG, core).item_specs()
  item = sizes.item_size(config, PONG)
  assert shapes["rows"] == (3, 10, item.row_bytes)
  assert shapes["core"] == (item.state_bytes,)


def test_the_empty_table():
  # 128 leaves and as many sums above them; a reference and a count per item.
  assert sizes.table_bytes(SMALL) == 2 * 128 * 8 + 100 * (8 + 4)
  reverb = SMALL.updated({"replay.backend": "reverb"})
  assert sizes.table_bytes(reverb) == 0


# The network and an update.


def _shapes(config, spec):
  """What `make_learner` takes, as shapes."""
  networks = make_networks(spec, config=config.network)
  optimizer = make_optimizer(config.agent)
  state = jax.eval_shape(
      lambda key: init_learner_state(
          key, networks=networks, optimizer=optimizer),
      jax.random.key(0))
  batch_size = config.agent.batch_size
  core = jax.eval_shape(lambda: networks.initial_core_state(batch_size))
  lead = (batch_size, config.item_rows)
  field = lambda dtype, shape=(): jax.ShapeDtypeStruct(lead + shape, dtype)
  batch = ReplaySample(*[None] * len(ReplaySample._fields))._replace(
      sequence=Sequence(
          AgentInputs(
              field(spec.obs_dtype, spec.obs_shape), field(np.int32),
              field(np.float32), field(bool)),
          field(np.int32), field(np.float32), field(bool), core),
      probability=jax.ShapeDtypeStruct((batch_size,), np.float32))
  learner = make_learner(
      networks=networks, optimizer=optimizer, config=config.agent)
  return learner, state, batch


@pytest.mark.parametrize("spec, network", [
    (PONG, NetworkConfig()),
    (PONG, NetworkConfig(torso_units=0, use_previous_action=False)),
    (PONG, NetworkConfig(core="feedforward", use_previous_reward=False)),
    (COLOUR, NetworkConfig(torso="impala", torso_channels=(4, 8, 8))),
    (GRID, NetworkConfig(torso="grid", torso_channels=(9, 7), frame_stack=1)),
    (FLAT, NetworkConfig(torso="mlp", torso_channels=(9,), frame_stack=3)),
])
def test_parameters_are_counted_as_the_network_has_them(spec, network):
  params = jax.eval_shape(
      make_networks(spec, config=network).init, jax.random.key(0))
  assert sizes.network_size(spec, network).num_params == sum(
      x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("config, spec", [
    (PRESETS["memory"](), GRID),
    (PRESETS["laptop"]().updated({"agent.batch_size": 8, "network.torso_channels": (8, 16, 16)}), PONG),
])
def test_an_update_takes_the_planned_memory_or_somewhat_less(config, spec):
  learner, state, batch = _shapes(config, spec)
  measured = learner.lower(
      state, batch).compile().memory_analysis().temp_size_in_bytes
  planned = sizes.update_bytes(
      config, sizes.network_size(spec, config.network))
  assert measured < planned < 1.5 * measured


def test_devices_share_the_batch_but_not_the_parameters():
  one = plan_of(SMALL, device_limit_bytes=GIB).device_parts
  two = plan_of(SMALL, device_limit_bytes=GIB, num_devices=2).device_parts
  by_name = lambda parts: {part.name: part.num_bytes for part in parts}
  one, two = by_name(one), by_name(two)
  params = 4 * plan_of(SMALL).num_params
  assert two["parameters"] == one["parameters"] == 7 * params
  assert two["batches"] == one["batches"] / 2
  assert two["update"] - params == (one["update"] - params) / 2


# Refusals.


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_a_machine_of_16_gib(name):
  check_plan(plan_of(PRESETS[name](), SPECS[name], host_limit_bytes=16 * GIB,
                     disk_limit_bytes=60 * GIB))


def _refused(plan):
  with pytest.raises(ConfigError) as error:
    check_plan(plan)
  return str(error.value)


def _number_after(text, words):
  return int(text.partition(words)[2].split()[0].rstrip(",;"))


def test_the_capacity_that_is_named_is_the_largest_that_fits():
  local = PRESETS["paper"]().updated({"replay.backend": "local"})
  limits = {"spec": PONG, "host_limit_bytes": 21 * GIB}
  text = _refused(plan_of(local, **limits))
  assert "got 100000; the run needs 3" in text
  assert "replay.backend 'reverb', which compresses, fits" in text
  most = _number_after(
      text, "replay.capacity_sequences: expected at most ")
  fitting = local.updated({"replay.capacity_sequences": most})
  validate(fitting)
  check_plan(plan_of(fitting, **limits))
  _refused(plan_of(
      local.updated({"replay.capacity_sequences": most + 1}), **limits))


def test_lockstep_is_not_sent_to_reverb():
  local = PRESETS["paper"]().updated({"replay.backend": "local", "run.lockstep": True, "limits.memory_gib": 16.0})
  text = _refused(make_plan(local, PONG, disk_limit_bytes=1000 * GIB))
  assert "reverb" not in text
  assert "16 GiB may be used; or another limits.memory_gib" in text


def test_where_no_replay_fits_a_smaller_batch_is_named():
  limits = {"spec": PONG, "host_limit_bytes": 4 * GIB}
  text = _refused(plan_of(PRESETS["paper"](), **limits))
  most = _number_after(text, "agent.batch_size: expected at most ")
  assert "with replay.capacity_sequences 5000" in text
  fits = lambda n: plan_of(
      PRESETS["paper"]().updated({"agent.batch_size": n, "replay.capacity_sequences": 5000}), **limits)
  check_plan(fits(most))
  _refused(fits(most + 1))


def test_a_minimum_that_is_too_large_is_named():
  config = PRESETS["paper"]().updated({"replay.backend": "local", "replay.min_sequences": 90_000})
  text = _refused(plan_of(config, PONG, host_limit_bytes=20 * GIB))
  most = _number_after(text, "expected both at most ")
  changes = {"replay.capacity_sequences": most, "replay.min_sequences": most}
  check_plan(plan_of(config.updated(changes), PONG,
                     host_limit_bytes=20 * GIB))


def test_where_nothing_fits_the_largest_parts_are_named():
  text = _refused(plan_of(SMALL, host_limit_bytes=GIB / 2))
  assert "expected fewer lanes, smaller batches, a smaller network" in text
  assert "programs 900 MiB" in text


def test_the_batch_that_is_named_fits_the_devices():
  limits = {"spec": PONG, "device_limit_bytes": GIB, "num_devices": 2}
  text = _refused(plan_of(PRESETS["gpu"](), **limits))
  most = _number_after(text, "agent.batch_size: expected at most ")
  assert most % 2 == 0
  fits = lambda n: plan_of(
      PRESETS["gpu"]().updated({"agent.batch_size": n}), **limits)
  check_plan(fits(most))
  _refused(fits(most + 2))


def test_disk_written_out_and_refused():
  plan = plan_of(SMALL)
  learner = 16 * plan.num_params
  assert plan.checkpoint_bytes == learner + plan.replay_bytes
  assert plan.disk_bytes == 3 * plan.checkpoint_bytes + learner
  text = _refused(plan_of(
      SMALL, disk_limit_bytes=2 * plan.checkpoint_bytes + learner))
  assert "checkpoint.max_to_keep: expected at most 1 or" in text
  assert "checkpoint.save_replay False, got 2" in text
  without = SMALL.updated({"checkpoint.save_replay": False})
  assert plan_of(without).disk_bytes == 4 * learner


def test_a_run_may_overwrite_its_own_checkpoints(tmp_path):
  config = SMALL.updated({"run.run_dir": str(tmp_path / "new" / "run")})
  before = make_plan(config, FLAT).disk_limit_bytes
  old = tmp_path / "new" / "run" / "checkpoints" / "5-50"
  old.mkdir(parents=True)
  (old / "data").write_bytes(b"x" * 2**26)
  after = make_plan(config, FLAT).disk_limit_bytes
  # Other programs write too: not exactly the same.
  assert abs(after - before) < 2**25


def test_memory_that_is_free_is_less_than_there_is(monkeypatch, tmp_path):
  free = plan_lib.free_memory_bytes()
  if free is not None:
    assert 0 < free < 2**50
  for name, text in (("memory.max", "1000"), ("memory.current", "700"),
                     ("memory.stat", "anon 600\ninactive_file 50\n")):
    (tmp_path / name).write_text(text)
  left = plan_lib._left_in_group  # pylint: disable=protected-access
  assert left(tmp_path) == 350
  (tmp_path / "memory.max").write_text("max")
  assert left(tmp_path) is None
  assert left(tmp_path / "none") is None


# Warnings, and what people see.


@pytest.mark.parametrize("changes, text", [
    ({"run.total_steps": 84}, "end before the first update"),
    ({"agent.target_period_updates": 54}, "target network is never"),
    ({"run.actor_refresh_steps": 500}, "never get new parameters"),
    ({"env.num_envs": 1}, "no ladder of epsilons"),
])
def test_warns(changes, text):
  assert plan_of(SMALL).warnings() == []
  found = plan_of(SMALL.updated(changes)).warnings()
  assert len(found) == 1
  assert text in found[0]


def test_warns_where_short_episodes_would_not_fit():
  plan = plan_of(SMALL)
  tight = plan_of(SMALL, host_limit_bytes=plan.host_bytes)
  check_plan(tight)
  assert "memory may run out" in tight.warnings()[0]


def test_shown_in_a_few_lines():
  plan = plan_of(SMALL.updated({"run.total_steps": 84}))
  file = io.StringIO()
  print_plan(plan, Console(file=file, width=40))
  assert file.getvalue().splitlines() == plan.lines()
  assert len(plan.lines()) == 12
  assert plan.lines()[-1].startswith("warning: ")
  assert "to the first update: 84 steps" in plan.lines()
  file = io.StringIO()
  print_plan(plan, Console(file=file, width=100, force_terminal=True))
  assert 12 <= len(file.getvalue().splitlines()) <= 20
  assert "to the first update" in file.getvalue()


def test_needs_no_jax():
  code = ("import sys, numpy as np\n"
          "for name in ('jax', 'envpool', 'reverb', 'tensorflow'):\n"
          "  sys.modules[name] = None\n"
          "from r2d2_jax.presets import PRESETS\n"
          "from r2d2_jax.envs.make import world_spec\n"
          "from r2d2_jax.system.planning.plan import make_plan\n"
          "config = PRESETS['smoke']()\n"
          "print(make_plan(config, world_spec(config.env)).lines())")
  subprocess.run([sys.executable, "-c", code], check=True)
