"""Recording: whole games with raw scores, in files that can be read back."""

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d2_jax.agent.networks import Networks, make_networks
from r2d2_jax.config import FileError
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.presets import smoke
from r2d2_jax.system.evaluation import evaluate
from r2d2_jax.system.storage.agents import SavedAgent
from r2d2_jax.types import CoreState
from r2d2_jax.video import recording
from r2d2_jax.video.recording import open_video, play_game, record
from tests.agents import agent_of
from tests.stamped import StampedWorld, stamped_reward

# imageio starts its decoder with a fork, which JAX warns of.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

_TINY = smoke().updated(
  {
    "network.torso_channels": (4,),
    "network.core_units": 4,
    "network.head_units": 4,
  }
)


@pytest.fixture(scope="module", name="agent")
def _agent():
  """An untrained agent for recall."""
  spec = RecallWorld(1, seed=0).spec
  networks = make_networks(spec, config=_TINY.network)
  params = jax.jit(networks.init)(jax.random.key(0))
  return SavedAgent(
    _TINY, spec, agent_of(networks, _TINY), params, num_updates=3, steps=99
  )


def _fixed_networks() -> Networks:
  """Values are the parameters, whatever is seen."""

  def step(params, inputs, core_state):
    return jnp.tile(params, (inputs.r_t.shape[0], 1)), core_state

  nothing = lambda num: CoreState(jnp.zeros((num, 0, 2)), ())
  return Networks(lambda key: (), nothing, step, step, step)


@pytest.fixture(name="scripted")
def _scripted(monkeypatch):
  """Plays in a stamped world: games of 3, 5 and 2 steps, the last one cut."""
  seen = []

  def make_world(config, *, seed):
    del seed
    seen.append(config)
    return StampedWorld([[3, 5, 2]], truncated=[(0, 2)], frame_skip=4)

  def play(q=(0.0, 1.0, 0.5, 0.0), config=_TINY, **kwargs):
    moments = list(
      play_game(
        jnp.array(q, jnp.float32),
        agent=agent_of(_fixed_networks(), config),
        config=config,
        seed=0,
        make_world=make_world,
        **kwargs,
      )
    )
    return moments, seen[-1]

  return play


@pytest.mark.parametrize(
  "game, steps, ending",
  [(1, 3, "game over"), (2, 5, "game over"), (3, 2, "cut by the frame cap")],
)
def test_every_row_of_the_game_asked_for_is_shown(
  scripted, game, steps, ending
):
  config = _TINY.updated({"evaluation.epsilon": 0.0})
  moments, _ = scripted(config=config, game=game)
  assert [m.step for m in moments] == list(range(steps + 1))
  assert [m.obs.tolist() for m in moments] == [
    [game - 1, step] for step in range(steps + 1)
  ]
  # stamped rewards of action 1, added up
  rewards = [stamped_reward(step, 1) for step in range(steps + 1)]
  assert [m.score for m in moments] == list(itertools.accumulate(rewards))
  assert [m.a for m in moments] == [1] * steps + [None]
  assert [m.ending for m in moments] == [""] * steps + [ending]
  assert all(m.screen is None and m.greedy == 1 for m in moments)


def test_a_game_can_be_cut(scripted):
  moments, _ = scripted(game=2, max_steps=4)
  assert [m.step for m in moments] == [0, 1, 2, 3, 4]
  assert moments[-1].ending == "stopped after 4 steps" and moments[-1].a is None
  moments, _ = scripted(game=2, max_steps=5)
  assert moments[-1].ending == "game over"


def test_it_is_played_as_evaluation_plays(scripted):
  config = _TINY.updated(
    {
      "env.num_envs": 7,
      "env.batch_size": 2,
      "env.life_loss": "reset",
      "env.flicker_probability": 0.5,
    }
  )
  _, seen = scripted(config=config)
  assert seen == dataclasses.replace(
    config.env, num_envs=1, batch_size=0, life_loss="ignore"
  )


def test_actions_are_random_as_often_as_epsilon_says(scripted):
  config = _TINY.updated({"evaluation.epsilon": 1.0})
  moments, _ = scripted(config=config, game=2)
  assert len({m.a for m in moments[:-1]}) > 1
  assert {m.greedy for m in moments} == {1}


def test_values_are_shown_in_the_unit_of_the_rewards(scripted):
  """h(8) = sqrt(9) - 1 + 0.008; without rescaling the network's own values."""
  q = (0.0, 2.008, -2.008, 1.0)
  moments, _ = scripted(q)
  np.testing.assert_allclose(moments[0].q[:3], [0.0, 8.0, -8.0], rtol=1e-5)
  moments, _ = scripted(q, _TINY.updated({"agent.value_rescaling": False}))
  np.testing.assert_allclose(moments[0].q, q)


@pytest.mark.parametrize(
  "changes, expected",
  [
    ({}, "Q = h^-1(network's output), unit: reward"),
    (dict(value_rescaling=False), "Q = network's output, unit: reward"),
    (
      dict(reward_clip=1.0),
      "Q = h^-1(network's output), unit: clipped reward",
    ),
  ],
)
def test_what_the_values_are_is_said(changes, expected):
  config = dataclasses.replace(_TINY.agent, **changes)
  assert recording.value_unit(config) == expected


@pytest.mark.parametrize("name", ["game.mp4", "game.gif"])
def test_a_file_has_a_picture_for_each_row_and_the_score_of_evaluation(
  agent, name, monkeypatch, tmp_path
):
  iio = pytest.importorskip("imageio.v3")
  said = []
  painter = recording.Painter

  def spy(**kwargs):
    said.append(kwargs)
    return painter(**kwargs)

  monkeypatch.setattr(recording, "Painter", spy)
  out = tmp_path / name
  shown = []
  result = record(agent, out, epsilon=0.5, seed=5, on_picture=shown.append)
  (report,) = evaluate(
    agent.params,
    agent=agent.agent,
    num_episodes=1,
    seed=5,
    config=agent.config.updated({"evaluation.epsilon": 0.5}),
  ).episodes
  assert result == (
    report.episode_steps + 1,
    report.episode_steps,
    report.episode_return,
    "game over",
    False,
  )
  pictures = np.stack(list(iio.imiter(out)))
  assert len(pictures) == len(shown) == result.pictures > 3
  assert any(m.a != m.greedy for m in shown[:-1])
  assert pictures.shape[1:] == (544, 784, 3)
  assert list(tmp_path.iterdir()) == [out]
  # the chosen action in orange, but for the legend in all but the last picture
  orange = (np.abs(pictures.astype(int) - (250, 160, 50)) < 12).all(-1)
  counts = orange.sum(axis=(1, 2))
  assert (counts[:-1] > 2 * counts[-1]).all()
  assert said == [
    dict(
      title="recall",
      subtitle="3 updates, epsilon 0.5",
      unit="Q = h^-1(network's output), unit: reward",
      action_names=["A", "B", "C", "D"],
    )
  ]


def test_pictures_come_back_in_their_order_and_colours(tmp_path):
  iio = pytest.importorskip("imageio.v3")
  colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
  for suffix in (".mp4", ".gif"):
    out = tmp_path / f"x{suffix}"
    with open_video(out, (64, 32), fps=2.5) as write:
      for colour in colours:
        write(np.full((32, 64, 3), colour, np.uint8).tobytes())
    pictures = np.stack(list(iio.imiter(out)))
    assert pictures.shape == (3, 32, 64, 3)
    assert (np.abs(pictures[:, 16, 32].astype(int) - colours) < 12).all(), (
      suffix
    )


def test_pictures_last_as_long_as_fps_says(agent, tmp_path):
  iio = pytest.importorskip("imageio.v3")
  with open_video(tmp_path / "X.MP4", (64, 32), fps=12.5) as write:
    write(bytes(64 * 32 * 3))
  assert iio.immeta(tmp_path / "X.MP4", plugin="FFMPEG")["fps"] == 12.5
  with open_video(tmp_path / "x.gif", (64, 32), fps=12.5) as write:
    write(bytes(64 * 32 * 3))
    write(bytes([255]) * (64 * 32 * 3))
  assert iio.immeta(tmp_path / "x.gif")["duration"] == 80  # ms
  assert recording.default_fps(agent) == 5
  atari = dataclasses.replace(agent, spec=agent.spec._replace(frame_skip=4))
  assert recording.default_fps(atari) == 15


def test_a_recording_that_is_stopped_keeps_what_it_has(agent, tmp_path):
  iio = pytest.importorskip("imageio.v3")
  out, shown = tmp_path / "x.gif", []
  result = record(
    agent,
    out,
    epsilon=0,
    seed=5,
    on_picture=shown.append,
    should_stop=lambda: len(shown) == 3,
  )
  assert (result.pictures, result.steps) == (3, 2)
  assert result.interrupted and result.ending == "interrupted"
  assert len(list(iio.imiter(out))) == 3


def test_an_error_leaves_nothing_and_spoils_nothing(agent, tmp_path):
  out = tmp_path / "x.mp4"
  out.write_text("older")

  def fail(moment):
    if moment.step == 2:
      raise RuntimeError("fault")

  with pytest.raises(RuntimeError, match="fault"):
    record(agent, out, epsilon=0, seed=5, on_picture=fail)
  assert list(tmp_path.iterdir()) == [out] and out.read_text() == "older"


def test_an_encoder_that_cannot_write_says_why(agent, tmp_path):
  with pytest.raises(
    FileError, match="absent.*cannot be written.*No such file"
  ):
    record(agent, tmp_path / "absent" / "x.mp4", epsilon=0, seed=5)
  # ... also if it has taken all the pictures
  with pytest.raises(
    FileError, match="absent.*cannot be written.*No such file"
  ):
    with open_video(tmp_path / "absent" / "x.mp4", (64, 32), fps=5) as write:
      write(bytes(64 * 32 * 3))


@pytest.mark.parametrize(
  "name, fps, expected",
  [
    ("x.avi", 5, "expected a name ending in .mp4 or .gif, got 'x.avi'"),
    ("x", 5, "expected a name ending in .mp4 or .gif"),
    ("x.gif", 60, "at most 50 for .gif, got 60"),
    ("x.mp4", -1, "more than 0"),
    ("x.mp4", float("nan"), "more than 0"),
  ],
)
def test_what_cannot_be_written_is_refused(agent, name, fps, expected):
  with pytest.raises(ValueError, match=expected):
    record(agent, pathlib.Path(name), epsilon=0, seed=0, fps=fps)


@pytest.mark.envpool
def test_the_screen_is_the_one_on_which_the_agent_acted():
  """Pong's in colour; the agent's own view of it is the same moment in grey."""
  pytest.importorskip("envpool")
  from PIL import Image

  env = dataclasses.replace(
    _TINY.env, task="Pong", full_action_space=False, frame_skip=1
  )
  q = jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
  moments = list(
    play_game(
      q,
      agent=agent_of(_fixed_networks(), _TINY),
      seed=0,
      max_steps=120,
      config=dataclasses.replace(_TINY, env=env),
    )
  )
  assert len(moments) == 121

  def distance(moment, other):
    grey = Image.fromarray(moment.screen).convert("L")
    grey = np.asarray(grey.resize((84, 84), Image.Resampling.BOX)).astype(int)
    return np.abs(grey - other.obs).mean()

  for before, now in list(itertools.pairwise(moments))[100:]:
    assert distance(now, now) < distance(now, before)
