import os
import re
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from r2d2_jax import types
from r2d2_jax.replay import make as make_lib
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.sequences import SequenceBuilder
from tests.replay.tape import StampingActor
from tests.replay.test_replay import (
  LENGTHS,
  PREFETCHED_BATCHES,
  WAIT_SECONDS,
  _items,  # noqa: F401 a fixture
  make_config,
  make_world,
  sample_many,
  stamp,
  stamps,
)

reverb = pytest.importorskip("reverb")
from r2d2_jax.replay import reverb as tables  # noqa: E402
from r2d2_jax.replay import reverb_calls as calls  # noqa: E402
from r2d2_jax.replay.reverb_server import ReverbServer  # noqa: E402

pytestmark = [
  pytest.mark.reverb,
  pytest.mark.filterwarnings("ignore:Reverb listens"),
]


@pytest.fixture(name="make")
def _make():
  made = []

  def make(config=None, **kwargs):
    world = make_world()
    made.append(
      tables.ReverbReplay(
        config or make_config(),
        world.spec,
        StampingActor(world).example(),
        **kwargs,
      )
    )
    return made[-1]

  yield make
  for replay in reversed(made):
    replay.close()


def test_make_replay_makes_it():
  world = make_world()
  replay = make_lib.make_replay(
    make_config(), world.spec, StampingActor(world).example()
  )
  assert isinstance(replay, tables.ReverbReplay)
  replay.close()


def test_rows_that_items_share_are_stored_once():
  # Noise does not compress: what is stored can be counted in bytes.
  spec = types.EnvSpec((32, 32), np.dtype(np.uint8), 4, 1)
  core_state = types.CoreState(
    np.zeros((2, 0, 32, 32), np.uint8), (np.zeros((2, 1), np.float32),) * 2
  )
  builder = SequenceBuilder(
    2, spec=spec, core_state=core_state, **LENGTHS._asdict()
  )
  replay = tables.ReverbReplay(make_config(), spec, core_state)
  random = np.random.default_rng(0)
  num_items, zeros = 0, np.zeros(2, np.float32)
  for t in range(200):
    items = builder.add(
      types.Timestep(
        random.integers(0, 256, (2, 32, 32), np.uint8),
        zeros,
        zeros + 1,
        np.full(2, t == 0),
        np.zeros(2, np.bool_),
        np.arange(2, dtype=np.int32),
      ),
      types.ActorOutput(
        np.zeros(2, np.int32),
        np.zeros(2, np.int32),
        np.zeros((2, 4), np.float32),
        core_state,
      ),
    )
    replay.insert(items, np.ones(len(items)))
    num_items += len(items)
  assert num_items == 2 * 49
  path = reverb.Client(replay.address).checkpoint()
  stored = sum(
    os.path.getsize(os.path.join(folder, name))
    for folder, _, names in os.walk(path)
    for name in names
  )
  replay.close()
  # 400 rows of 1 kB; three times as much if each item kept rows of its own.
  assert 400 * 1024 < stored < 1.3 * 400 * 1024


def test_the_limiter_holds_writers_back_until_enough_was_sampled(make, items):
  replay = make(samples_per_insert=4.0, error_buffer=4.0)
  joined = make(address=replay.address)
  inserted = threading.Event()

  def insert():
    for item in items[:6]:
      joined.insert([item], np.ones(1))
    inserted.set()

  thread = threading.Thread(target=insert, daemon=True)
  thread.start()
  assert not inserted.wait(1.0)
  assert replay.num_inserted() < 6
  while not inserted.wait(0.01):
    try:
      replay.sample(1, 0.5)
    except TimeoutError:
      pass  # now the reader waits for the writer
  thread.join(WAIT_SECONDS)
  assert replay.num_inserted() == 6


def test_closing_frees_a_writer_that_the_limiter_holds(make, items):
  replay = make(samples_per_insert=1.0, error_buffer=1.0)
  outcome = []

  def insert():
    try:
      for item in items:
        replay.insert([item], np.ones(1))
    except ReplayError as error:
      outcome.append(error)

  thread = threading.Thread(target=insert, daemon=True)
  thread.start()
  thread.join(0.5)
  assert thread.is_alive()
  replay.close()
  thread.join(WAIT_SECONDS)
  assert "closed" in str(outcome[0])


@pytest.mark.parametrize("error_buffer", [None, 0.5, 2.9])
def test_an_error_buffer_that_would_block_is_refused(make, error_buffer):
  with pytest.raises(ValueError, match="error_buffer >= 3.0"):
    make(samples_per_insert=3.0, error_buffer=error_buffer)


def test_what_a_killed_process_left_in_scratch_is_not_restored(
  make, items, tmp_path
):
  scratch, saved = tmp_path / "run" / "scratch", tmp_path / "saved"
  first = make(scratch=scratch)
  first.insert(items[:4], np.ones(4))
  saved.mkdir()
  first.save(saved)
  assert not any(scratch.iterdir())  # moved, not copied
  # Of one that was killed before it moved.
  reverb.Client(first.address).checkpoint()
  assert any(scratch.iterdir())
  assert make(scratch=scratch).size() == 0
  assert not any(scratch.iterdir())
  # A later checkpoint deletes whatever sorts before it, and itself after
  # others.
  restored = make(scratch=scratch, restore_from=saved)
  assert restored.size() == 4 and not any(scratch.iterdir())
  restored.close()
  assert not scratch.exists()


def test_a_table_other_than_what_was_saved_is_refused(make, items, tmp_path):
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay.save(tmp_path)
  meta = tmp_path / "meta.json"
  meta.write_text(
    meta.read_text().replace('"num_inserted": 4', '"num_inserted": 5')
  )
  with pytest.raises(ReplayError, match="'num_inserted': 5}, got .*: 4}"):
    make(restore_from=tmp_path)
  chunks = tmp_path / "reverb" / "chunks.tfrecord"
  chunks.write_bytes(b"?" * chunks.stat().st_size)
  with pytest.raises(ReplayError, match="cannot restore .* corrupted"):
    make(restore_from=tmp_path)


def test_another_limiter_than_that_of_the_save_is_refused(make, tmp_path):
  make(samples_per_insert=2.0, error_buffer=2.0).save(tmp_path)
  with pytest.raises(ReplayError, match="samples_per_insert 2.0, .* has None"):
    make(restore_from=tmp_path)


def test_a_server_alone_serves_saves_and_restores(make, items, tmp_path):
  world = make_world()
  parts = make_config(), world.spec, StampingActor(world).example()
  server = ReverbServer(*parts, scratch=tmp_path / "scratch")
  joined = make(address=f"localhost:{server.port}")
  joined.insert(items[:4], np.ones(4))
  expected = {stamp(item) for item in items[:4]}
  assert set(stamps(joined.sample(8, WAIT_SECONDS))) <= expected
  saved = tmp_path / "saved"
  saved.mkdir()
  server.save(saved)
  joined.close()
  server.close()
  with pytest.raises(ReplayError, match="closed"):
    server.check_alive(1.0)
  assert not (tmp_path / "scratch").exists()
  server.close()
  server = ReverbServer(*parts, restore_from=saved)
  joined = make(address=f"localhost:{server.port}")
  assert joined.size() == joined.num_inserted() == 4
  assert set(stamps(joined.sample(8, WAIT_SECONDS))) <= expected
  joined.close()
  server.close()
  # A whole replay finds what a server alone has saved.
  assert make(restore_from=saved).size() == 4


def test_a_server_saves_and_restores_where_it_runs(make, tmp_path):
  joined = make(address=make().address)
  with pytest.raises(ReplayError, match="belongs to another process"):
    joined.save(tmp_path)
  with pytest.raises(ValueError, match="where the server starts"):
    make(address=joined.address, restore_from=tmp_path)


def test_saving_with_a_dead_server_blocks_nobody(
  make, items, tmp_path, monkeypatch
):
  monkeypatch.setattr(calls, "CALL_SECONDS", 2.0)
  replay = make()
  replay.insert(items[:4], np.ones(4))
  replay._server._server.stop()
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.save(tmp_path)
  # Should the call not come back, whatever Reverb does today.
  monkeypatch.setattr(
    replay._connection.client, "checkpoint", threading.Event().wait
  )
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.save(tmp_path)


def test_a_save_that_fails_leaves_the_replay_in_order(
  make, items, tmp_path, monkeypatch
):
  scratch = tmp_path / "scratch"
  replay = make(scratch=scratch)
  replay.insert(items[:4], np.ones(4))

  def fail():
    (scratch / "half").write_bytes(b"half")
    raise RuntimeError("no space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(replay._connection.client, "checkpoint", fail)
    with pytest.raises(ReplayError, match="could not write .* no space left"):
      replay.save(tmp_path)
  assert not any(scratch.iterdir())
  saved = tmp_path / "saved"
  saved.mkdir()
  replay.save(saved)
  assert make(restore_from=saved).size() == 4


def sample_until_it_fails(replay):
  with pytest.raises(ReplayError) as error:
    for _ in range(PREFETCHED_BATCHES + 5):
      replay.sample(32, WAIT_SECONDS)
  return str(error.value)


def test_a_priority_that_came_through_the_port_is_told(
  make, items, tmp_path, monkeypatch
):
  replay = make()
  replay.insert(items[:8], np.ones(8))
  key = int(replay.sample(1, WAIT_SECONDS).keys[0])
  reverb.Client(replay.address).mutate_priorities("items", {key: np.inf})
  told = sample_until_it_fails(replay)
  assert re.search(
    r"replay is at fault, .* got (0\.0|nan|inf) of item \d+\.", told
  )
  assert "Reverb's port" in told and "\n" not in told
  # Such a table is not saved, and where it was, the cause is named.
  directory = tmp_path / "saved"
  directory.mkdir()
  with pytest.raises(ReplayError, match=f"item {key} has priority inf"):
    replay.save(directory)
  assert not any(directory.iterdir())
  with monkeypatch.context() as patch:
    patch.setattr(replay._server, "_check_items", lambda _: None)
    replay.save(directory)
  with pytest.raises(
    ReplayError, match=f"cannot restore .* {key} has priority inf"
  ):
    make(restore_from=directory)


def foreign_items(replay):
  """Writers of items that are not this run's, by what is wrong with them."""
  rows, core = replay._layout.item_specs().values()

  def write(rows_shape, core_shape, byte):
    writer = reverb.Client(replay.address).trajectory_writer(rows_shape[0])
    for place in range(rows_shape[0]):
      columns = {"rows": np.full(rows_shape[1:], byte, np.uint8)}
      if place == 0:
        columns["core"] = np.full(core_shape, byte, np.uint8)
      writer.append(columns)
    writer.create_item(
      "items",
      1e6,
      {"rows": writer.history["rows"][:], "core": writer.history["core"][0]},
    )
    writer.flush()
    writer.close()

  return {
    "columns": lambda: reverb.Client(replay.address).insert(
      [np.zeros(3)], {"items": 1e6}
    ),
    "length": lambda: write((rows[0] + 1,) + rows[1:], core, 0),
    "bytes": lambda: write(rows[:2] + (rows[2] + 1,), core, 0),
    "values": lambda: write(rows, core, 255),
  }


@pytest.mark.parametrize(
  "kind, in_file",
  [("columns", True), ("length", True), ("bytes", False), ("values", False)],
)
def test_an_item_of_another_process_is_told(
  make, items, tmp_path, monkeypatch, kind, in_file
):
  replay = make()
  replay.insert(items[:8], np.ones(8))
  foreign_items(replay)[kind]()
  told = sample_until_it_fails(replay)
  assert "an item that this run did not write" in told and "\n" not in told
  if in_file:
    with pytest.raises(ReplayError, match="this run did not write"):
      replay.save(tmp_path)
    monkeypatch.setattr(replay._server, "_check_items", lambda _: None)
    replay.save(tmp_path)
    with pytest.raises(ReplayError, match="cannot restore .* did not write"):
      make(restore_from=tmp_path)


def test_a_table_that_was_emptied_is_filled_before_it_is_sampled(make, items):
  replay = make()
  replay.insert(items[:8], np.ones(8))
  replay.sample(4, WAIT_SECONDS, min_size=8)
  reverb.Client(replay.address).reset("items")
  replay.insert(items[8:10], np.ones(2))
  with pytest.raises(TimeoutError, match="less than 8"):
    for _ in range(PREFETCHED_BATCHES):  # drawn before it was emptied
      replay.sample(4, 1.0, min_size=8)
  replay.insert(items[10:16], np.ones(6))
  for _ in range(5):
    batch = replay.sample(4, WAIT_SECONDS, min_size=8)
    assert set(stamps(batch)) <= {stamp(item) for item in items[8:16]}


def test_rounding_in_the_tables_sums_gives_no_probability_of_zero(make, items):
  # Priorities of all sizes, then 0: mostly, of the sums some rest remains.
  for seed in range(10):
    replay, random = make(), np.random.default_rng(seed)
    replay.insert(items[:8], np.ones(8))
    keys = np.unique(np.concatenate([b.keys for b in sample_many(replay, 5)]))
    for _ in range(100):
      sizes = random.uniform(0, 1, 8) * 10.0 ** random.integers(-6, 6, 8)
      replay.update_priorities(keys, sizes)
    replay.update_priorities(keys, np.zeros(8))
    for batch in sample_many(replay, PREFETCHED_BATCHES + 2):
      assert (batch.probability > 0.0).all()
    replay.close()
    if batch.probability[-1] < 1e-6:  # a rest it was
      break


_SHORT_OF_MEMORY = """
import resource, warnings
warnings.simplefilter("ignore")
from tests.replay.tape import StampingActor
from tests.replay.test_replay import make_config, make_world
from r2d2_jax.replay.reverb import ReverbReplay
world = make_world()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
ReverbReplay(make_config(), world.spec, StampingActor(world).example())
"""

# It sleeps with Python's lock in its hands, as a server's start may.
_HANGS = """
import ctypes, signal, sys, warnings
warnings.simplefilter("ignore")
from tests.replay.tape import StampingActor
from tests.replay.test_replay import make_config, make_world
from r2d2_jax.replay import reverb_server
from r2d2_jax.replay.reverb import ReverbReplay
world = make_world()
reverb_server._START_SECONDS = float(sys.argv[1])
def hang(*args, **kwargs):
  print("HANGS", flush=True)
  ctypes.PyDLL(None).sleep(600)
reverb_server.reverb.Server = hang
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
ReverbReplay(make_config(), world.spec, StampingActor(world).example())
"""


def test_a_server_that_gets_no_threads_is_not_started(make, monkeypatch):
  before, start = threading.active_count(), threading.Thread.start
  may_start = iter(range(5))

  def start_five(self):
    if next(may_start, None) is None:
      raise RuntimeError("can't start new thread")
    start(self)

  monkeypatch.setattr(threading.Thread, "start", start_five)
  with pytest.raises(
    ReplayError, match="room for 64 more threads, 5 could .*'local'"
  ):
    make()
  assert threading.active_count() == before


@pytest.mark.slow
def test_a_server_is_not_started_where_memory_is_short():
  process = subprocess.run(
    [sys.executable, "-c", _SHORT_OF_MEMORY],
    check=False,
    text=True,
    timeout=120,
    capture_output=True,
  )
  assert process.returncode == 1
  assert re.search(
    "ReplayError: .* room for 64 more threads, .*'local'", process.stderr
  )


@pytest.mark.slow
def test_a_start_that_hangs_ends_at_its_deadline():
  process = subprocess.run(
    [sys.executable, "-c", _HANGS, "1"],
    check=False,
    text=True,
    timeout=120,
    capture_output=True,
  )
  assert process.returncode == 1
  assert "Timeout (0:00:01)" in process.stderr
  assert "in _start_server" in process.stderr


@pytest.mark.slow
def test_a_start_that_hangs_hears_signals():
  with subprocess.Popen(
    [sys.executable, "-c", _HANGS, "600"], text=True, stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == "HANGS\n"
    process.send_signal(signal.SIGTERM)
    try:
      assert process.wait(60) == -signal.SIGTERM
    finally:
      process.kill()


def test_a_start_leaves_handlers_of_signals_as_they_were(make):
  before = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)]
  make()
  assert before == [
    signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)
  ]


def on_port(port):
  config = make_config()
  return config.updated({"replay.port": port})


def test_a_port_that_is_taken_is_told(make):
  # Reverb's own servers would share a port, and each get some of the calls.
  port = int(make().address.rpartition(":")[2])
  with pytest.raises(ReplayError, match=f"does not start.*replay.port {port}"):
    make(on_port(port))
  with socket.socket() as other:
    other.bind(("", 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(
      ReplayError, match=f"does not start.*replay.port {port}"
    ):
      make(on_port(port))
  replay = make(on_port(port))
  assert replay.address == f"localhost:{port}"
  replay.close()
  # Free again at once, though this process's connections are slow to notice.
  assert make(on_port(port)).address == f"localhost:{port}"


_SERVER = """
import time, warnings
warnings.simplefilter("ignore")
from tests.replay.tape import StampingActor
from tests.replay.test_replay import make_config, make_world
from r2d2_jax.replay.reverb import ReverbReplay
world = make_world()
replay = ReverbReplay(make_config(), world.spec, StampingActor(world).example())
print("ADDRESS", replay.address, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_that_was_killed_is_noticed_and_blocks_nobody(
  make, items, monkeypatch
):
  monkeypatch.setattr(calls, "CALL_SECONDS", 2.0)
  with subprocess.Popen(
    [sys.executable, "-c", _SERVER], text=True, stdout=subprocess.PIPE
  ) as server:
    try:
      address = next(
        line.split()[1] for line in server.stdout if line.startswith("ADDRESS")
      )
      replay = make(address=address)
      replay.insert(items[:4], np.ones(4))
      keys = replay.sample(4, WAIT_SECONDS).keys
      replay.check_alive(WAIT_SECONDS)
    finally:
      server.send_signal(signal.SIGKILL)
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.check_alive(1.0)
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.size()
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.update_priorities(keys, np.ones(4))
  with pytest.raises((ReplayError, TimeoutError)):
    for _ in range(100):  # what was prefetched may still come
      replay.sample(4, 1.0)
  with pytest.raises(ReplayError, match="dead or out of reach"):
    replay.insert(items[4:6], np.ones(2))
  replay.close()


_FORGETFUL = """
import numpy as np, warnings
warnings.simplefilter("ignore")
from tests.replay.tape import StampingActor, play
from tests.replay.test_replay import LENGTHS, make_config, make_world
from r2d2_jax.replay.reverb import ReverbReplay
world = make_world()
replay = ReverbReplay(make_config(), world.spec, StampingActor(world).example())
items = play(world, LENGTHS, 60).items[0]
replay.insert(items, np.ones(len(items)))
replay.sample(4, 30.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "replay.close()"])
def test_a_process_ends_with_and_without_close(end):
  # A time limit stands in for a process that hangs.
  assert (
    subprocess.run(
      [sys.executable, "-c", _FORGETFUL + end],
      check=False,
      timeout=120,
      capture_output=True,
    ).returncode
    == 0
  )
