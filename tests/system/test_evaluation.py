"""Evaluation: whole games, raw scores, and nothing of the training touched."""

import jax
import numpy as np
import pytest

from r2d2_jax.agent.networks import make_networks
from r2d2_jax.config import EnvConfig, UserError
from r2d2_jax.envs.make import make_world
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.envs.rows import BadRowsError
from r2d2_jax.envs.world import EpisodeReport
from r2d2_jax.presets import smoke
from r2d2_jax.system import evaluation
from r2d2_jax.system.evaluation import (
  Evaluation,
  evaluate,
  read_last_evaluation,
  write_evaluation,
)
from r2d2_jax.system.loops.actor import ActorLoop
from r2d2_jax.system.loops.parameters import ParameterStore
from r2d2_jax.system.train import RunError, train
from r2d2_jax.types import AgentInputs
from tests.agent.small import assert_trees_close, assert_trees_equal
from tests.agents import agent_of
from tests.stamped import StampedWorld
from tests.system.test_train import small


def _config(settings):
  return smoke().updated(
    {
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
      **settings,
    }
  )


CONFIG = _config({"evaluation.num_lanes": 3})


@pytest.fixture(scope="module", name="recall")
def _recall():
  """Networks and parameters for the recall task."""
  networks = make_networks(RecallWorld(1, seed=0).spec, config=CONFIG.network)
  return networks, jax.jit(networks.init)(jax.random.key(0))


@pytest.fixture(name="scripted")
def _scripted(monkeypatch):
  """Evaluation in stamped worlds: very short games beside a very long one."""
  worlds = []

  def make_world(config, *, seed):
    del seed
    lengths = [[1, 2], [3], [150]][: config.num_envs]
    worlds.append((config, StampedWorld(lengths, frame_skip=4)))
    return worlds[-1][1]

  networks = make_networks(StampedWorld([[1]]).spec, config=CONFIG.network)
  params = jax.jit(networks.init)(jax.random.key(0))

  def run(num_episodes, config=CONFIG, **kwargs):
    played = evaluate(
      params,
      agent=agent_of(networks, config),
      config=config,
      num_episodes=num_episodes,
      seed=0,
      **{"make_world": make_world, **kwargs},
    )
    return played, *worlds[-1]

  return run


def _true_returns(world, lane):
  """Raw returns of a lane's whole games, from the script."""
  games = {}
  for row in world.rows[lane]:
    games.setdefault(row.episode, []).append(row)
  return [
    sum(r.r_t for r in rows) for rows in games.values() if rows[-1].is_last
  ]


def test_long_games_are_played_to_their_end(scripted):
  """Each lane plays as many: the short games crowd nothing out."""
  progress = []
  played, _, world = scripted(6, on_progress=progress.append)
  assert progress == [1, 2, 3, 4, 5, 6]
  assert [e.env_id for e in played.episodes] == [0, 0, 1, 1, 2, 2]
  assert [e.episode_steps for e in played.episodes] == [1, 2, 3, 3, 150, 150]
  assert [e.episode_frames for e in played.episodes] == [4, 8, 12, 12, 600, 600]
  np.testing.assert_allclose(
    played.returns,
    np.concatenate([_true_returns(world, lane)[:2] for lane in range(3)]),
  )
  assert played.returns.dtype == np.float64


def test_a_number_that_the_lanes_do_not_divide(scripted):
  played, _, _ = scripted(4)
  assert [e.env_id for e in played.episodes] == [0, 0, 1, 2]
  assert [e.episode_steps for e in played.episodes] == [1, 2, 3, 150]
  played, config, _ = scripted(2)
  assert config.num_envs == 2
  assert [e.episode_steps for e in played.episodes] == [1, 3]


def test_scores_are_raw_and_games_whole_whatever_training_does(scripted):
  config = CONFIG.updated(
    {
      "env.life_loss": "reset",
      "env.batch_size": 2,
      "env.num_envs": 7,
      "agent.reward_clip": 1.0,
    }
  )
  played, seen, world = scripted(3, config)
  assert (seen.life_loss, seen.batch_size, seen.num_envs) == ("ignore", 0, 3)
  np.testing.assert_allclose(
    played.returns, [_true_returns(world, lane)[0] for lane in range(3)]
  )
  assert played.returns.max() > 10_000


def test_it_can_be_stopped(scripted):
  calls = []
  played, _, _ = scripted(
    3, should_stop=lambda: calls.append(0) or len(calls) > 9
  )
  assert [e.episode_steps for e in played.episodes] == [1, 3]


def test_a_game_begins_from_the_null_state_as_in_training(recall, monkeypatch):
  """First rows: values of a zero state without action and reward, always."""
  networks, params = recall
  compile_actor = evaluation.compile_actor
  seen = []

  def spying_actor(step):
    actor = compile_actor(step)

    def act(params, state, timestep, epsilon):
      assert (epsilon == np.float32(CONFIG.evaluation.epsilon)).all()
      state, output = actor(params, state, timestep, epsilon)
      seen.append((timestep, jax.device_get(output)))
      return state, output

    return act

  monkeypatch.setattr(evaluation, "compile_actor", spying_actor)
  evaluate(
    params,
    agent=agent_of(networks, CONFIG),
    config=CONFIG,
    num_episodes=6,
    seed=0,
  )
  step = jax.jit(networks.step)
  later_games = 0
  for t, (timestep, output) in enumerate(seen):
    nothing = np.zeros(3)
    inputs = AgentInputs(
      timestep.obs_t,
      nothing.astype(np.int32),
      nothing.astype(np.float32),
      timestep.is_first_t,
    )
    q_t, _ = step(params, inputs, networks.initial_core_state(3))
    first = timestep.is_first_t
    assert_trees_close(np.asarray(q_t)[first], output.q_t[first])
    later_games += int(t > 0) * first.sum()
  assert later_games >= 3


def test_training_never_notices_an_evaluation(recall):
  """Two actor loops, one with evaluations between: bit for bit the same."""
  networks, params = recall

  def act(evaluate_every):
    inserted = []
    parameters = ParameterStore(params)
    loop = ActorLoop(
      CONFIG,
      world=RecallWorld(16, seed=1),
      agent=agent_of(networks, CONFIG),
      parameters=parameters,
      insert=lambda items, priorities: inserted.append(
        (
          [
            item._replace(blocks=[b._replace(uid=0) for b in item.blocks])
            for item in items
          ],
          priorities,
        )
      ),
      key=jax.random.key(1),
    )
    games = []
    for call in range(60):
      loop.step()
      if evaluate_every and call % evaluate_every == 7:
        games.append(
          evaluate(
            parameters.latest().params,
            agent=agent_of(networks, CONFIG),
            config=CONFIG,
            num_episodes=3,
            seed=5,
          ).episodes
        )
    return inserted, games

  undisturbed, _ = act(0)
  disturbed, games = act(20)
  assert len(undisturbed) >= 2
  assert_trees_equal(undisturbed, disturbed)
  # ... and no evaluation notices another, or what was trained meanwhile
  assert len(games) == 3 and games[0] == games[1] == games[2]


def test_the_last_evaluation_is_read_back(tmp_path):
  assert read_last_evaluation(tmp_path) is None
  for updates, returns in (
    (10, [1.0, 2.0]),
    (20, [3.0]),
    (20, [1234567.5, -4.0]),
  ):
    games = [EpisodeReport(0, r, 4, 1, False) for r in returns]
    write_evaluation(
      tmp_path, Evaluation(games), num_updates=updates, steps=10 * updates
    )
  last = read_last_evaluation(tmp_path)
  assert last.num_updates == 20
  # ... and with all digits of a score in the millions.
  np.testing.assert_array_equal(last.returns, [1234567.5, -4.0])
  # Of certain parameters.
  past = read_last_evaluation(tmp_path, num_updates=10)
  assert past.num_updates == 10
  np.testing.assert_array_equal(past.returns, [1.0, 2.0])
  assert read_last_evaluation(tmp_path, num_updates=15) is None


def test_another_table_is_no_evaluation(tmp_path):
  (tmp_path / "evaluation.csv").write_text("a,b\n1,2\n")
  with pytest.raises(ValueError, match="expected columns updates, game"):
    read_last_evaluation(tmp_path)


@pytest.mark.envpool
def test_no_op_starts_are_counted_in_raw_frames():
  """Of at most 30 no-ops: not 30 agent steps, and not 30 frames' worth."""
  envpool = pytest.importorskip("envpool")
  pool = envpool.make(
    "Seaquest-v5",
    env_type="gymnasium",
    num_envs=1,
    seed=5,
    stack_num=1,
    frame_skip=1,
    noop_max=1,
    use_fire_reset=False,
  )
  frames = [pool.reset()[0][0, 0].tobytes()]
  for _ in range(140):
    frames.append(pool.step(np.zeros(1, np.int32))[0][0, 0].tobytes())
  pool.close()
  world = make_world(EnvConfig(task="Seaquest", num_envs=16), seed=0)
  world.reset()
  starts = [frames.index(obs.tobytes()) for obs in world.recv().obs_t]
  world.close()
  assert 20 < max(starts) <= 30


@pytest.mark.parametrize("field", ["r_t", "obs_t"])
def test_rows_that_are_not_finite_end_it_in_one_message(scripted, field):
  closed = []

  class Broken(StampedWorld):
    def recv(self):
      t = super().recv()
      values = np.array(getattr(t, field), np.float32)
      values[t.obs_t[:, 1] == 3] = np.nan
      return t._replace(**{field: values})

    def close(self):
      closed.append(True)

  def make_world(config, *, seed):
    del seed
    return Broken([[1, 2], [3], [150]][: config.num_envs])

  with pytest.raises(BadRowsError) as caught:
    scripted(3, make_world=make_world)
  assert f"'recall', lane 1: expected finite numbers in {field}, got nan" in (
    str(caught.value)
  )
  assert isinstance(caught.value, UserError) and closed == [True]


def test_trainings_own_evaluation_tells_it_too(tmp_path):
  config = small({"run.total_steps": 500, "evaluation.num_lanes": 3})

  class Broken(RecallWorld):
    def recv(self):
      t = super().recv()
      r_t = np.where(self.num_envs == 3, np.inf, t.r_t)
      return t._replace(r_t=np.broadcast_to(r_t, t.r_t.shape))

  def make_world(config, *, seed):
    return Broken(config.num_envs, seed=seed)

  with pytest.raises(RunError) as caught:
    train(config, run_dir=tmp_path / "run", make_world=make_world)
  message = str(caught.value)
  assert message.startswith("environment 'recall', lane 0: expected finite")
  assert "in r_t, got inf" in message and "last good checkpoint" in message
  assert not (tmp_path / "run" / "crash.txt").exists()
