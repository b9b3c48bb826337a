"""The plan: numbers written out by hand, and against the parts it speaks of."""

import io

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.agent.learning import compile_learner
from r2d2_jax.config import (
  AgentConfig,
  Config,
  ConfigError,
  EnvConfig,
  NetworkConfig,
  ReplayConfig,
  RunConfig,
)
from r2d2_jax.presets import PRESETS
from r2d2_jax.replay.items import core_leaves, row_specs
from r2d2_jax.replay.local import LocalReplay
from r2d2_jax.replay.sequences import SequenceBuilder
from r2d2_jax.system.metrics.probe import PROBE_ITEMS
from r2d2_jax.system.planning import limits as limits_lib
from r2d2_jax.system.planning import plan as plan_lib
from r2d2_jax.system.planning import sizes
from r2d2_jax.system.planning.plan import check_plan, make_plan
from r2d2_jax.system.planning.words import (
  plan_rows,
  plan_warnings,
  print_plan,
)
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
  "paper": PONG,
  "submission": PONG,
  "gpu": PONG,
  "laptop": PONG,
  "memory": GRID,
  "control": FLAT,
  "smoke": FLAT,
}

# S = 6 rows from one item of a lane to its next, R = 2 rows of a block.
SMALL = Config(
  env=EnvConfig(task="recall", num_envs=4),
  network=NetworkConfig(
    torso="mlp",
    torso_channels=(5,),
    core_units=3,
    head_units=2,
    frame_stack=2,
  ),
  agent=AgentConfig(
    burn_in=4,
    trace_length=10,
    overlap=4,
    batch_size=2,
    target_period_updates=10,
  ),
  replay=ReplayConfig(
    backend="local",
    capacity_sequences=100,
    min_sequences=9,
    replay_ratio=0.5,
  ),
  run=RunConfig(total_steps=2000, actor_refresh_steps=10),
)


def plan_of(config, spec=FLAT, **limits):
  """A plan with room enough, but for the limits that are given."""
  defaults = {"host_limit_bytes": 100 * GIB, "disk_limit_bytes": 1000 * GIB}
  return make_plan(config, spec, **(defaults | limits))


def core_state(config, spec):
  """Of one lane, shapes alone."""
  agent = make_r2d2_agent(spec, config)
  return jax.eval_shape(lambda: agent.initial_core_state(1))


def item_of(config, spec):
  return sizes.item_size(config, spec, core_state(config, spec))


# Time.


def test_steps_and_updates_written_out():
  plan = plan_of(SMALL)
  # 9 items of 4 lanes: three of each; the first is whole after 10 rows, which
  # are 9 steps, the others 6 rows later each: (9 + 6 + 6) x 4.
  assert plan.fill_steps == 84
  # Two items train 9 transitions each, half a transition per step.
  assert plan.steps_per_update == 36
  assert plan.total_updates == (2000 - 84) // 36 == 53
  # 500 steps of each lane: one item after 9, then one for each 6 of the other
  # 491.
  assert plan.replay_items == min(100, 4 * (1 + 491 // 6)) == 100
  assert (
    plan_of(SMALL.updated({"run.total_steps": 200})).replay_items
    == 4 * (1 + 41 // 6)
    == 28
  )


def _item_arrays(config, spec, lanes, rows, episode_rows):
  """Items of a world of such episodes, cut by the real builder."""
  units, earlier = config.network.core_units, config.network.frame_stack - 1
  core = CoreState(
    np.zeros((lanes, earlier, *spec.obs_shape), spec.obs_dtype),
    (np.zeros((lanes, units), np.float32),) * 2,
  )
  builder = SequenceBuilder(
    lanes,
    spec=spec,
    core_state=core,
    burn_in=config.agent.burn_in,
    trace_length=config.agent.trace_length,
    overlap=config.agent.overlap,
  )
  zeros = np.zeros(lanes, np.float32)
  items, arrived = [], []
  for t in range(rows):
    first, last = t % episode_rows == 0, (t + 1) % episode_rows == 0
    items += builder.add(
      Timestep(
        np.zeros((lanes, *spec.obs_shape), spec.obs_dtype),
        zeros,
        zeros,
        np.full(lanes, first),
        np.full(lanes, last),
        np.arange(lanes),
      ),
      ActorOutput(
        np.zeros(lanes, np.int32),
        np.zeros(lanes, np.int32),
        np.zeros((lanes, spec.num_actions), np.float32),
        core,
      ),
    )
    arrived.append(len(items))
  return items, arrived, core


def test_the_builder_needs_as_many_steps_as_planned():
  # Row t completes step t, but for the first row of an episode.
  _, arrived, _ = _item_arrays(SMALL, FLAT, 4, 100, episode_rows=1000)
  row = next(t for t, count in enumerate(arrived) if count >= 9)
  assert 4 * row == plan_of(SMALL).fill_steps


# Bytes.


def test_items_written_out(monkeypatch):
  monkeypatch.setattr(
    sizes,
    "stored_specs",
    lambda *_: {
      "obs_t": ((20,), np.dtype(np.uint8)),
      "r_t": ((), np.dtype(np.float32)),
    },
  )
  spec = EnvSpec((20,), np.dtype(np.uint8), 5, 1)
  item = item_of(SMALL, spec)
  assert item.row_bytes == 24
  assert item.state_bytes == 20 + 2 * 3 * 4  # an earlier frame, c and h
  assert item.lone_bytes == 14 * 24 + 44
  # 6 rows with 5 values each, 3 blocks of 3 arrays: obs, r, values.
  assert item.stored_bytes == 6 * (24 + 20) + 44 + 3 * (230 + 3 * 140) + 750
  assert item.short_episode_bytes == (
    10 * (24 + 20) + 44 + 5 * (230 + 3 * 140) + 750
  )
  reverb = SMALL.updated({"replay.backend": "reverb"})
  item = item_of(reverb, spec)
  assert item.stored_bytes == pytest.approx(
    6 * (0.25 * 20 + 1.1 * 4) + 0.25 * 20 + 1.1 * 24 + 3 * 1300 + 1400
  )
  floats = EnvSpec((5,), np.dtype(np.float32), 5, 1)  # 20 bytes too
  assert item_of(reverb, floats).stored_bytes == pytest.approx(
    6 * 1.1 * 24 + 1.1 * 44 + 3 * 1300 + 1400
  )


def test_row_states_are_in_the_rows():
  kept = SMALL.updated({"replay.row_states": True})
  without = item_of(SMALL, FLAT)
  assert item_of(kept, FLAT).row_bytes == without.row_bytes + 8 * 3
  feedforward = kept.updated({"network.core": "feedforward"})
  assert item_of(feedforward, FLAT).row_bytes == without.row_bytes


@pytest.mark.parametrize("episode_rows", [10_000, 10])
def test_local_replay_holds_the_bytes_that_are_planned(episode_rows):
  config = SMALL.updated(
    {
      "replay.capacity_sequences": 400,
      "network.frame_stack": 4,
      "network.core_units": 64,
    }
  )
  items, _, core = _item_arrays(
    config, PONG, 4, 410 * 10, episode_rows=episode_rows
  )
  replay = LocalReplay(config, PONG, core)
  replay.insert(items, np.ones(len(items)))
  fields = (*row_specs(PONG, core, False), "q_t")
  held = replay._items
  assert len(held) == 400
  blocks = {block.uid: block for item in held for block in item.blocks}
  # The padding before an episode and at its end is one block for all of them.
  blank = [uid for uid, block in blocks.items() if not block.valid_t.any()]
  assert len(blank) <= 1
  arrays = [
    getattr(block, name)
    for uid, block in blocks.items()
    if uid not in blank
    for name in fields
  ] + [leaf for item in held for leaf in core_leaves(item.core_state)]
  measured = sum({id(a): a.nbytes for a in arrays}.values())
  objects = (
    len(blocks)
    * (sizes._LOCAL_BLOCK_BYTES + sizes._LOCAL_ARRAY_BYTES * len(fields))
    + 400 * sizes._LOCAL_ITEM_BYTES
  )
  item = item_of(config, PONG)
  per_item = item.stored_bytes
  if episode_rows == 10:
    # Items that begin in the padding share its state, which is not planned
    # with.
    per_item = item.short_episode_bytes - item.state_bytes
  assert 400 * per_item == pytest.approx(measured + objects, rel=0.03)


@pytest.mark.reverb
def test_a_row_is_the_record_that_reverb_stores():
  pytest.importorskip("reverb")
  from r2d2_jax.replay.reverb_streams import Layout

  config = PRESETS["laptop"]()
  core = jax.device_get(make_r2d2_agent(PONG, config).initial_core_state(1))
  shapes = Layout(config, PONG, core).item_specs()
  item = sizes.item_size(config, PONG, core)
  assert shapes["rows"] == (3, 10, item.row_bytes)
  assert shapes["core"] == (item.state_bytes,)


def test_the_empty_table():
  # 128 leaves and as many sums above them; a reference and a count per item.
  assert sizes.table_bytes(SMALL) == 2 * 128 * 8 + 100 * (8 + 4)
  reverb = SMALL.updated({"replay.backend": "reverb"})
  assert sizes.table_bytes(reverb) == 0


# The network and an update.


def _measured_update(config, spec):
  """Temporary memory of the compiled update, XLA's own figure."""
  agent = make_r2d2_agent(spec, config)
  state = jax.eval_shape(agent.init, jax.random.key(0))
  batch_size = config.agent.batch_size
  core = jax.eval_shape(lambda: agent.initial_core_state(batch_size))
  lead = (batch_size, config.item_rows)
  field = lambda dtype, shape=(): jax.ShapeDtypeStruct(lead + shape, dtype)
  batch = ReplaySample(*[None] * len(ReplaySample._fields))._replace(
    sequence=Sequence(
      AgentInputs(
        field(spec.obs_dtype, spec.obs_shape),
        field(np.int32),
        field(np.float32),
        field(bool),
      ),
      field(np.int32),
      field(np.float32),
      field(bool),
      core,
    ),
    probability=jax.ShapeDtypeStruct((batch_size,), np.float32),
  )
  learner = compile_learner(agent.learner_step, batch_size=batch_size)
  analysis = learner.lower(state, batch).compile().memory_analysis()
  return analysis.temp_size_in_bytes


def _planned_update(config, spec):
  size = sizes.agent_size(make_r2d2_agent(spec, config), config, spec)
  return sizes.update_bytes(config, size)


@pytest.mark.parametrize(
  "config, spec",
  [
    (PRESETS["memory"](), GRID),
    pytest.param(
      PRESETS["laptop"]().updated(
        {"agent.batch_size": 8, "network.torso_channels": (8, 16, 16)}
      ),
      PONG,
      marks=pytest.mark.slow,
    ),
  ],
)
def test_an_update_takes_the_planned_memory_or_somewhat_less(config, spec):
  measured = _measured_update(config, spec)
  assert measured < _planned_update(config, spec) < 1.5 * measured


# Of docs/planning.md: XLA's figures, MiB, compiled for a CPU; of bfloat16, of
# which a CPU keeps copies, the accelerators' program.
@pytest.mark.parametrize(
  "name, changes, spec, measured",
  [
    ("smoke", {}, FLAT, 0.6),
    ("memory", {}, GRID, 10.7),
    ("laptop", {}, PONG._replace(num_actions=6), 97),
    ("laptop", {"network.torso": "impala"}, PONG._replace(num_actions=6), 1799),
    ("paper", {}, PONG, 1931),
    ("gpu", {}, PONG, 2046),
  ],
)
def test_large_updates_as_they_were_measured(name, changes, spec, measured):
  planned = _planned_update(PRESETS[name]().updated(changes), spec) / 2**20
  assert measured < planned < 1.3 * measured


class _Square(nn.Module):
  """A torso of one's own: one layer of 100 units, squared."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(100)(x.reshape(x.shape[0], -1))
    return x * x


def make_square(config):
  del config
  return _Square()


def test_an_own_torso_and_another_core_are_planned_as_they_are():
  config = SMALL.updated(
    {
      "network.torso": f"{__name__}:make_square",
      "network.core": "gru",
      "network.use_previous_action": False,
      "network.use_previous_reward": False,
    }
  )
  plan = plan_of(config)
  # Two frames of 7 numbers, 100 units, a GRU of 3, two heads of 2 on 4 and 1.
  params = 15 * 100 + (3 * 3 * (100 + 3) + 12) + 2 * 4 * 2 + 3 * 4 + 3 * 1
  assert plan.agent.num_params == params
  assert plan.item.state_bytes == 4 * (7 + 3)  # one frame, one array of the GRU
  # Of each row at least: what the layer reads, and what it gives.
  assert 4 * (14 + 100) < plan.agent.row_bytes < 4 * (14 + 4 * 100)
  # As for any torso whose updates were not measured.
  assert plan.host.parts["update"] == pytest.approx(
    4 * params + 3.1 * 10 * 2 * plan.agent.row_bytes
  )


def test_devices_share_the_batch_but_not_the_parameters():
  one = plan_of(SMALL, device_limit_bytes=GIB).device.parts
  two = plan_of(SMALL, device_limit_bytes=GIB, num_devices=2).device.parts
  params = 4 * plan_of(SMALL).agent.num_params
  # Beside the parameters the learner has two counters.
  assert two["parameters"] == one["parameters"] == 7 * params + 8
  assert two["batches"] == one["batches"] / 2
  assert two["update"] - params == (one["update"] - params) / 2


def test_without_an_accelerator_the_host_holds_it_all():
  apart = plan_of(SMALL, device_limit_bytes=GIB)
  plan = plan_of(SMALL)
  assert plan.device is None
  assert plan.host.parts == apart.host.parts | apart.device.parts


# Refusals.


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_a_machine_of_16_gib(name):
  check_plan(
    plan_of(
      PRESETS[name](),
      SPECS[name],
      host_limit_bytes=16 * GIB,
      disk_limit_bytes=60 * GIB,
    )
  )


def _refused(plan):
  with pytest.raises(ConfigError) as error:
    check_plan(plan)
  return str(error.value)


def test_a_refusal_names_the_limit_the_need_and_what_drives_it():
  local = PRESETS["paper"]().updated({"replay.backend": "local"})
  text = _refused(plan_of(local, PONG, host_limit_bytes=21 * GIB))
  assert text == (
    "host memory: expected a run of at most 21 GiB (what is free), got one of"
    " 33.4 GiB; its largest parts: replay 29.3 GiB (replay.capacity_sequences"
    " 100000, replay.backend 'local'), update 2.13 GiB (agent.batch_size 64,"
    " agent.trace_length 80, network.torso 'nature', network.torso_channels"
    " (32, 64, 64), network.core_units 512), programs 900 MiB (replay.backend"
    " 'local'); lower one of these settings, or give it more room"
  )
  # What compresses fits.
  check_plan(plan_of(PRESETS["paper"](), PONG, host_limit_bytes=21 * GIB))


def test_the_limit_of_the_settings_is_named():
  small = SMALL.updated({"limits.memory_gib": 0.5})
  text = _refused(make_plan(small, FLAT, disk_limit_bytes=1000 * GIB))
  assert "at most 512 MiB (limits.memory_gib 0.5), got one of 9" in text
  assert "programs 900 MiB (replay.backend 'local')" in text


def test_each_resource_that_is_too_small_is_a_line():
  text = _refused(
    plan_of(
      PRESETS["gpu"](),
      PONG,
      host_limit_bytes=GIB,
      disk_limit_bytes=GIB,
      device_limit_bytes=GIB,
      num_devices=2,
    )
  )
  host, device, disk = text.splitlines()
  assert host.startswith("host memory: ") and disk.startswith("disk: ")
  assert "its largest parts: update 1.12 GiB (agent.batch_size 64," in device
  assert "checkpoint.max_to_keep 2, checkpoint.save_replay True" in disk


def test_every_part_has_its_settings():
  plan = plan_of(PRESETS["gpu"](), PONG, device_limit_bytes=GIB)
  parts = [*plan.host.parts, *plan.device.parts, *plan.disk.parts]
  assert sorted(parts) == sorted(plan_lib._SETTINGS)
  for names in plan_lib._SETTINGS.values():
    assert all(plan.config.setting(name) is not None for name in names)


def test_the_probe_keeps_what_is_planned():
  assert plan_lib._PROBE_ITEMS == PROBE_ITEMS


def test_disk_written_out_and_refused():
  plan = plan_of(SMALL)
  learner = 16 * plan.agent.num_params + 8
  assert plan.checkpoint_bytes == learner + plan.host.parts["replay"]
  assert plan.disk.num_bytes == 3 * plan.checkpoint_bytes + learner
  _refused(plan_of(SMALL, disk_limit_bytes=plan.disk.num_bytes - 1))
  check_plan(plan_of(SMALL, disk_limit_bytes=plan.disk.num_bytes))
  without = SMALL.updated({"checkpoint.save_replay": False})
  assert plan_of(without).disk.num_bytes == 4 * learner


def test_a_run_may_overwrite_its_own_checkpoints(tmp_path):
  config = SMALL.updated({"run.run_dir": str(tmp_path / "new" / "run")})
  before = make_plan(config, FLAT).disk.limit_bytes
  old = tmp_path / "new" / "run" / "checkpoints" / "5-50"
  old.mkdir(parents=True)
  (old / "data").write_bytes(b"x" * 2**26)
  after = make_plan(config, FLAT).disk.limit_bytes
  # Other programs write too: not exactly the same.
  assert abs(after - before) < 2**25


def test_memory_that_is_free_is_less_than_there_is(monkeypatch, tmp_path):
  free = limits_lib.free_memory_bytes()
  if free is not None:
    assert 0 < free < 2**50
  for name, text in (
    ("memory.max", "1000"),
    ("memory.current", "700"),
    ("memory.stat", "anon 600\ninactive_file 50\n"),
  ):
    (tmp_path / name).write_text(text)
  left = limits_lib.left_in_group
  assert left(tmp_path) == 350
  (tmp_path / "memory.max").write_text("max")
  assert left(tmp_path) is None
  assert left(tmp_path / "none") is None


# Warnings, and what people see.


@pytest.mark.parametrize(
  "changes, text",
  [
    ({"run.total_steps": 84}, "end before the first update"),
    ({"agent.target_period_updates": 54}, "target network is never"),
    ({"run.actor_refresh_steps": 500}, "never get new parameters"),
    ({"env.num_envs": 1}, "no ladder of epsilons"),
  ],
)
def test_warns(changes, text):
  assert plan_warnings(plan_of(SMALL)) == []
  found = plan_warnings(plan_of(SMALL.updated(changes)))
  assert len(found) == 1
  assert text in found[0]


def test_warns_where_short_episodes_would_not_fit():
  plan = plan_of(SMALL)
  tight = plan_of(SMALL, host_limit_bytes=plan.host.num_bytes)
  check_plan(tight)
  assert "memory may run out" in plan_warnings(tight)[0]


def test_a_torso_that_was_chosen_is_said():
  assert "torso" not in dict(plan_rows(plan_of(SMALL)))["network"]
  chosen = SMALL.updated(
    {"network.torso": "auto", "network.torso_channels": (8, 8, 8)}
  )
  words = dict(plan_rows(plan_of(chosen)))["network"]
  assert words.endswith("parameters, torso 'mlp' (chosen by 'auto')")


def test_shown_in_a_few_lines():
  plan = plan_of(SMALL.updated({"run.total_steps": 84}))
  assert ("to the first update", "84 steps") in plan_rows(plan)
  file = io.StringIO()
  print_plan(plan, Console(file=file, width=40))
  lines = file.getvalue().splitlines()
  assert lines[:-1] == [f"{name}: {text}" for name, text in plan_rows(plan)]
  assert len(lines) == 12
  assert lines[-1].startswith("warning: run.total_steps 84 end before")
  file = io.StringIO()
  print_plan(plan, Console(file=file, width=100, force_terminal=True))
  assert 12 <= len(file.getvalue().splitlines()) <= 20
  assert "to the first update" in file.getvalue()
