"""The processes' work, in this process: shards, actor hosts, a learner."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.acting import epsilon_ladder
from r2d2_jax.agent.agent import make_agent
from r2d2_jax.cluster.actor_host import ActorHost
from r2d2_jax.cluster.learner_host import LearnerHost
from r2d2_jax.cluster.roles import ReplayHost
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.envs.make import world_spec
from r2d2_jax.presets import smoke

pytest.importorskip("ray", reason="the processes of a cluster need Ray")
pytest.importorskip("reverb", reason="and a Reverb server")
pytestmark = [pytest.mark.ray, pytest.mark.reverb]

CONFIG = smoke().updated(
  {"replay.backend": "reverb", "agent.batch_size": 8, "agent.burn_in": 6}
)
CLUSTER = ClusterConfig(actors=2, replay_shards=2)


@pytest.fixture(scope="module")
def state():
  agent = make_agent(world_spec(CONFIG.env), CONFIG)
  return jax.device_get(agent.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
  started = []
  for i in range(2):
    shard = ReplayHost()
    scratch = tmp_path_factory.mktemp("shard") / str(i)
    address, size = shard.start(
      CONFIG, CLUSTER, "localhost", i, [], str(scratch)
    )
    assert size == 0
    started.append((shard, address))
  yield started
  for shard, _ in started:
    shard._server.close()


@pytest.fixture(scope="module")
def hosts(shards, state):
  """Both actor hosts, after some steps."""
  made = []
  for actor in range(2):
    host = ActorHost()
    host.start(
      CONFIG,
      CLUSTER,
      actor,
      address=shards[actor][1],
      starts=0,
      incarnation=0,
      parameters=(state.params, 0),
    )
    made.append((host, host.act(200, env_steps=1_000, max_seconds=100.0)))
  return made


def test_an_actor_host_has_its_lanes_of_the_ladder(hosts):
  ladder = epsilon_ladder(
    16, base=CONFIG.agent.epsilon_base, alpha=CONFIG.agent.epsilon_alpha
  )
  for actor, (host, _) in enumerate(hosts):
    np.testing.assert_array_equal(host._loop.epsilon, ladder[actor::2])


def test_a_report_tells_what_was_done(hosts):
  for actor, (_, report) in enumerate(hosts):
    assert report.calls == 200
    assert 1_000 < report.steps <= 1_600
    assert report.episodes
    assert {e.env_id % 2 for e in report.episodes} == {actor}
    assert report.lost_items == 0
    assert {"environment", "inference", "write"} <= set(report.leg_seconds)


def test_a_lease_ends_with_its_time(hosts):
  report = hosts[0][0].act(10**6, env_steps=0, max_seconds=0.0)
  assert (report.calls, report.steps) == (0, 0)


def test_the_first_host_measures_dq(hosts, state):
  host = hosts[0][0]
  assert hosts[1][0]._probe is None
  # States that the parameters themselves have made: no discrepancy.
  same = host.measure_dq()
  assert set(same) == {"dq_first", "dq_last"}
  assert same["dq_last"] == pytest.approx(0.0, abs=1e-5)
  others = jax.tree.map(lambda x: x + 0.3, state.params)
  host._parameters.put(others, 1)
  assert host.measure_dq()["dq_last"] > 1e-3
  host._parameters.put(state.params, 0)


def test_a_learner_host_trains_on_both_shards(shards, hosts, state):
  del hosts
  learner = LearnerHost()
  learner.start(
    CONFIG,
    CLUSTER,
    0,
    addresses=[address for _, address in shards],
    state=state,
  )
  report, parameters = learner.train(
    3, env_steps=5_000, max_seconds=100.0, publish=True
  )
  assert report.updates == report.num_updates == 3
  assert 3 * 8 <= report.rows <= 3 * 8 * 11
  params, num_updates = parameters
  assert num_updates == 3
  after = learner.state()
  jax.tree.map(np.testing.assert_array_equal, params, after.params)
  changed = jax.tree.map(lambda x, y: (x != y).any(), params, state.params)
  assert all(jax.tree.leaves(changed))
  # No parameters where none were asked for.
  assert (
    learner.train(1, env_steps=0, max_seconds=9.0, publish=False)[1] is None
  )
  samples, updates = learner.stats()
  assert samples[1]["samples_by_lane"].reshape(8, 2).sum(0).tolist() == [16, 16]
  assert updates[0]["loss"] > 0
  learner.flush()
  learner._stop.set()
  learner._replay.close()


def test_a_shard_comes_back_from_what_was_saved(shards, hosts, tmp_path):
  del hosts
  saved = [str(tmp_path / f"shard-{i}") for i in range(2)]
  sizes = []
  for (shard, _), path in zip(shards, saved, strict=True):
    shard.save(path)
    sizes.append(shard.size())
  again = ReplayHost()
  _, size = again.start(
    CONFIG, CLUSTER, "localhost", 1, saved, str(tmp_path / "s")
  )
  assert size == sizes[1] > 50
  again._server.close()
  # Where there were others, their items are dealt out.
  alone = ReplayHost()
  _, size = alone.start(
    CONFIG,
    ClusterConfig(actors=2),
    "localhost",
    0,
    saved,
    str(tmp_path / "alone"),
  )
  assert size == sum(sizes)
  alone._server.close()
  assert not (tmp_path / "alone.dealt").exists()


def test_an_actor_host_goes_on_with_another_server(hosts, shards, tmp_path):
  host, _ = hosts[1]
  other = ReplayHost()
  address, _ = other.start(
    CONFIG, CLUSTER, "localhost", 1, [], str(tmp_path / "s")
  )
  before = shards[1][0].size()
  host.connect(address)
  assert host.act(60, env_steps=0, max_seconds=100.0).lost_items == 0
  assert other.size() > 0
  assert shards[1][0].size() == before
  other._server.close()
