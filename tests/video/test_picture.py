"""Pictures: what is written on them, what the bars say, no pixel blurred."""

import numpy as np
from PIL import Image, ImageDraw
import pytest

from r2d2_jax.video import picture as picture_lib
from r2d2_jax.video.observation_picture import draw_observation, enlarge
from r2d2_jax.video.picture import Moment, Painter, format_value

_CHOSEN = picture_lib._CHOSEN
_BAR = picture_lib.BAR


def _moment(q, **changes):
  q = np.array(q, np.float32)
  moment = Moment(
    step=7,
    score=3.0,
    obs=np.zeros((84, 84), np.uint8),
    screen=None,
    q=q,
    greedy=int(q.argmax()),
    a=int(q.argmax()),
    ending="",
  )
  return moment._replace(**changes)


def _painter(names, title="Pong"):
  return Painter(
    title=title, subtitle="12 updates", unit="unit", action_names=names
  )


@pytest.fixture(name="written")
def _written(monkeypatch):
  """All texts that are drawn."""
  texts = []
  draw_text = ImageDraw.ImageDraw.text

  def text(self, xy, text, *args, **kwargs):
    texts.append(text)
    return draw_text(self, xy, text, *args, **kwargs)

  monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
  return texts


@pytest.fixture(name="bars")
def _bars(monkeypatch):
  """Length and colour of all bars that are drawn."""
  bars = []
  draw_rectangle = ImageDraw.ImageDraw.rectangle

  def rectangle(self, xy, fill=None, **kwargs):
    if fill in (_BAR, _CHOSEN):
      bars.append((xy[2] - xy[0], fill))
    return draw_rectangle(self, xy, fill, **kwargs)

  monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", rectangle)
  return bars


def test_values_names_step_score_and_action_are_written(written):
  painter = _painter(["NOOP", "UP", "DOWN"])
  painter.draw(_moment([0.25, -1.5, 12.345]))
  for text in (
    "Pong",
    "12 updates",
    "unit",
    "step 7",
    "score 3",
    "action DOWN",
    "max Q 12.35",
    "NOOP",
    "0.250",
    "UP",
    "-1.500",
    "DOWN",
    "12.35",
  ):
    assert text in written, text


def test_an_action_that_is_not_the_greedy_one_was_random(written):
  _painter(["a", "b"]).draw(_moment([0.0, 1.0], a=0))
  assert "action a (at random)" in written


def test_an_action_without_a_name_is_not_called_action_twice(written):
  _painter(["action 0", "action 1"]).draw(_moment([0.0, 1.0]))
  assert "action 1" in written and "action action 1" not in written


def test_the_last_row_says_how_the_game_ended(written, bars):
  _painter(["a", "b"]).draw(_moment([0.0, 1.0], a=None, ending="game over"))
  assert "game over" in written
  assert [colour for _, colour in bars] == [_BAR, _BAR]


def test_a_bar_lacks_what_its_action_is_worse_by(bars):
  """On the scale of the largest difference so far: 1.05 times 2."""
  painter = _painter(["a", "b", "c"])
  for q in ([0.0, 2.0, 1.0], [5.5, 5.0, 6.0]):
    del bars[:]
    painter.draw(_moment(q))
    full = max(length for length, _ in bars)
    np.testing.assert_allclose(
      [length for length, _ in bars],
      [full * (1 - (max(q) - x) / 2.1) for x in q],
      rtol=1e-6,
    )
    chosen = [colour == _CHOSEN for _, colour in bars]
    assert chosen == [x == max(q) for x in q]


def test_equal_values_have_full_bars(bars):
  _painter(["a", "b"]).draw(_moment([0.0, 0.0]))
  assert bars[0][0] == bars[1][0] > 100


def test_of_many_actions_the_highest_are_shown_and_the_chosen_one(written):
  painter = _painter([f"n{a}" for a in range(30)])
  painter.draw(_moment(np.arange(30.0), a=2))
  shown = [t for t in written if t[0] == "n" and t[1:].isdecimal()]
  assert shown == ["n2"] + [f"n{a}" for a in range(13, 30)]
  assert "max Q, last 200 steps; 12 lower Q not shown" in written


def test_the_strip_forgets_what_is_more_than_200_steps_ago(written):
  painter = _painter(["a"])
  for step in range(201):
    del written[:]
    painter.draw(_moment([-7.0 if step == 0 else 1.0], step=step))
    assert ("-7.000" in written) == (step < 200)


def test_sizes_are_what_encoders_want_and_never_change():
  for title, obs, screen in (
    ("Pong", np.zeros((84, 84), np.uint8), np.zeros((210, 160, 3), np.uint8)),
    ("Pong", np.zeros((84, 84), np.uint8), None),
    ("CartPole-v1", np.ones(4, np.float32), np.zeros((400, 600, 3), np.uint8)),
    ("big", np.ones(4, np.float32), np.zeros((900, 1300, 3), np.uint8)),
    ("recall", np.ones(7, np.float32), None),
    ("Catch-v0", np.ones((10, 5), np.float32), None),
    ("Taxi-v3", np.ones(500, np.float32), None),
    ("planes", np.ones((6, 5, 4), np.float32), None),
    ("MiniGrid-MemoryS7-v0", np.ones((7, 7, 3), np.uint8), None),
  ):
    painter = _painter(["a", "b"], title)
    sizes = {
      painter.draw(_moment([0.0, 1e9], obs=obs, screen=screen, step=s)).size
      for s in (0, 10_000_000)
    }
    ((width, height),) = sizes
    assert width % 16 == height % 16 == 0, title
    assert 400 < width <= 1056 and height == 544, title


@pytest.mark.parametrize(
  "value, text",
  [
    (0.0, "0.000"),
    (-0.12345, "-0.123"),
    (12.345, "12.35"),
    (1234.56, "1234.6"),
    (99_999.0, "99999.0"),
    (1_234_567.0, "1.2e+06"),
  ],
)
def test_values_are_short(value, text):
  assert format_value(np.float32(value)) == text


def test_pixels_grow_by_a_whole_number_and_are_not_blurred():
  image = np.random.default_rng(0).integers(0, 256, (84, 84, 3), np.uint8)
  large = np.asarray(enlarge(image, (640, 528)))
  assert large.shape == (504, 504, 3)
  np.testing.assert_array_equal(large[::6, ::6], image)
  np.testing.assert_array_equal(large[5::6, 5::6], image)


def test_numbers_become_bars_from_zero():
  obs = np.array([1.0, 0.0, 0.5], np.float32)
  image = np.asarray(draw_observation(obs, (360, 528), task="x"))
  filled = (image == _BAR).all(axis=-1).sum(axis=1)
  rows = [filled[20], filled[60], filled[100]]
  np.testing.assert_allclose(rows, [212, 1, 107], atol=2)


def test_recalls_numbers_have_their_names(written):
  draw_observation(np.zeros(7, np.float32), (640, 528), task="recall")
  names = [text for text in written if not text[0].isdigit()]
  assert names == [
    "symbol A",
    "symbol B",
    "symbol C",
    "symbol D",
    "cue",
    "hush",
    "query",
  ]


def test_minigrids_cells_lie_as_the_agent_sees_them():
  """x from the left, y from the top; the agent looks up from the bottom."""
  empty, wall, ball, red, green = 1, 2, 6, 0, 1
  view = np.zeros((7, 7, 3), np.uint8)
  view[..., 0] = empty
  view[1, 0] = wall, 5, 0
  view[2, 6] = ball, green, 0  # to the left of the agent
  view[3, 5] = ball, red, 0  # straight ahead
  image = draw_observation(view, (140, 140), task="MiniGrid-MemoryS7-v0")
  assert image.size == (140, 140)
  centre = lambda x, y: image.getpixel((20 * x + 10, 20 * y + 10))
  assert centre(1, 0) == (128, 128, 128)
  assert centre(2, 6) == (60, 220, 60)
  assert centre(3, 5) == (255, 60, 60)
  assert image.getpixel((70, 135)) == (255, 0, 0)
  assert centre(5, 3) == centre(0, 0) == (36, 36, 42)


def test_a_blank_observation_of_plain_cells_is_dark_and_a_full_one_bright():
  for value in (0.0, 1.0):
    obs = np.full((10, 5), value, np.float32)
    image = draw_observation(obs, (640, 528), task="Catch-v0")
    assert isinstance(image, Image.Image) and image.size == (260, 520)
    assert (np.asarray(image) == 255 * value).all()


def test_an_action_that_may_not_be_taken_has_no_bar(written, bars):
  painter = _painter(["left", "right", "up"])
  painter.draw(_moment([1.0, -np.inf, 3.0]))
  assert "masked" in written and "max Q 3.000" in written
  lengths = [length for length, _ in bars]
  assert lengths[1] == 0 and 0 < lengths[0] < lengths[2]
