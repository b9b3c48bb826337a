"""One picture of a recorded game: the screen, beside it the agent's thoughts.

    +----------+------------------------------+
    |          | task, step, score    agent's |
    |          | action, max Q        view    |
    |  screen  | Q of each action, a bar each |
    |          | max Q, the last 200 steps    |
    +----------+------------------------------+

Drawn with Pillow, in some 4 ms; a figure of matplotlib takes more than 100.
"""

import collections
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r2d2_jax.video.observation_picture import (
  BACKGROUND,
  BAR,
  DIM,
  TEXT,
  draw_observation,
  enlarge,
)

STRIP_STEPS = 200

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CHOSEN = (250, 160, 50)
_GREEDY = (110, 220, 130)
_FRAME = (62, 62, 70)

_HEIGHT = 544  # as the panel's width a multiple of 16, for the encoder
_SCREEN_BOX = (640, 528)
_PANEL_WIDTH = 400
_MARGIN = 8
_INSET = 98  # the agent's view, beside the text
_TEXT_ROW = 20
_BARS_TOP, _BARS_BOTTOM = 152, 424
_MAX_BARS = 18  # all of Atari's
_NAME_WIDTH, _NUMBER_WIDTH = 128, 72
_STRIP_TOP, _STRIP_BOTTOM = 452, 536


class Moment(NamedTuple):
  """One row of a game, for drawing."""

  step: int  # agent steps before it
  score: float  # raw return up to it
  obs: np.ndarray  # [*obs_shape], what the agent sees; of parts the first
  screen: np.ndarray | None  # uint8 [H, W, 3], what a player sees, if known
  q: np.ndarray  # float32 [A], in the unit of the rewards; -infinity where the
  #                action may not be taken
  greedy: int  # the action with the highest value
  a: int | None  # the action that was taken; None in the last row
  ending: str  # why it is the last row; "" in all others


def format_value(value: float) -> str:
  """Four digits that count, while they fit: 0.1234, 12.34, 1234, 1.2e+06."""
  size = abs(value)
  if size >= 99_999.5:
    return f"{value:.1e}"
  return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"


class Painter:
  """Draws the pictures of one game, all of one size, in their order."""

  def __init__(
    self, *, title: str, subtitle: str, unit: str, action_names: list[str]
  ):
    """See the class.

    Args:
      title: the task.
      subtitle: who plays.
      unit: what the values are, said above the bars.
      action_names: a name for each action.
    """
    self._task = title
    self._title = title
    self._subtitle = subtitle
    self._unit = unit
    self._names = action_names
    self._max_q = collections.deque(maxlen=STRIP_STEPS)
    self._spread = collections.deque(maxlen=STRIP_STEPS)  # max Q - min Q
    self._left_width = 0  # known with the first picture
    self._large = ImageFont.load_default(18)
    self._medium = ImageFont.load_default(14)
    self._small = ImageFont.load_default(12)

  def draw(self, moment: Moment) -> Image.Image:
    """The picture of the game's next row: RGB, sides multiples of 16."""
    if moment.screen is None:
      left = draw_observation(moment.obs, _SCREEN_BOX, task=self._task)
    else:
      left = enlarge(moment.screen, _SCREEN_BOX)
    if not self._left_width:
      self._left_width = -(-(left.width + 2 * _MARGIN) // 16) * 16
    size = (self._left_width + _PANEL_WIDTH, _HEIGHT)
    picture = Image.new("RGB", size, BACKGROUND)
    picture.paste(
      left,
      ((self._left_width - left.width) // 2, (_HEIGHT - left.height) // 2),
    )
    draw = ImageDraw.Draw(picture)
    self._max_q.append(float(moment.q.max()))
    allowed = moment.q[~np.isneginf(moment.q)]
    self._spread.append(float(allowed.max() - allowed.min()))
    x, right = self._left_width + _MARGIN, size[0] - _MARGIN
    if moment.screen is not None:
      self._draw_inset(picture, draw, moment.obs, right)
      self._draw_text(draw, moment, x, right - _INSET - _MARGIN)
    else:
      self._draw_text(draw, moment, x, right)
    self._draw_bars(draw, moment, x, right)
    self._draw_strip(draw, x, right)
    return picture

  def _draw_inset(self, picture, draw, obs, right) -> None:
    view = draw_observation(obs, (_INSET, _INSET), task=self._task)
    draw.text((right, _MARGIN), "the agent sees", DIM, self._small, anchor="ra")
    picture.paste(view, (right - view.width, _MARGIN + 18))

  def _draw_text(self, draw, moment: Moment, x: int, right: int) -> None:
    def line(y, text, colour=TEXT, font=self._medium):
      draw.text((x, y), _fitted(text, font, right - x), colour, font)

    if moment.a is None:
      action, colour = moment.ending, _GREEDY
    else:
      chance = "" if moment.a == moment.greedy else " (at random)"
      action, colour = f"action {self._names[moment.a]}{chance}", _CHOSEN
    if moment.a is not None and self._names[moment.a] == f"action {moment.a}":
      action = action.removeprefix("action ")
    line(_MARGIN, self._title, font=self._large)
    line(_MARGIN + 24, self._subtitle, DIM, self._small)
    y = _MARGIN + 46
    for text, paint in (
      (f"step {moment.step}", TEXT),
      (f"score {moment.score:g}", TEXT),
      (action, colour),
      (f"max Q {format_value(moment.q.max())}", TEXT),
    ):
      line(y, text, paint)
      y += _TEXT_ROW

  def _draw_bars(self, draw, moment: Moment, x: int, right: int) -> None:
    """A full bar is the best action; what a bar lacks is how much worse it is.

    Measured by the largest difference in the strip: it is small against the
    values themselves, which the numbers and the strip tell.
    """
    best = float(moment.q.max())
    scale = 1.05 * max(self._spread) or 1.0
    shown = _shown_actions(moment)
    row = min(28, (_BARS_BOTTOM - _BARS_TOP) // len(shown))
    left, end = x + _NAME_WIDTH, right - _NUMBER_WIDTH
    font = self._small
    y = _BARS_TOP - 18
    draw.text((x, y), self._unit, DIM, font)
    draw.text((right, y), "chosen", _CHOSEN, font, anchor="ra")
    draw.text((right - 50, y), "greedy", _GREEDY, font, anchor="ra")
    for i, a in enumerate(shown):
      top, bottom = _BARS_TOP + i * row + 1, _BARS_TOP + (i + 1) * row - 2
      middle = (top + bottom) / 2
      paint = _CHOSEN if a == moment.a else TEXT
      masked = moment.q[a] == -np.inf
      lack = 1.0 if masked else (best - float(moment.q[a])) / scale
      length = (1 - lack) * (end - left)
      draw.rectangle((left, top, end, bottom), outline=_FRAME)
      draw.rectangle(
        (left, top, left + length, bottom),
        fill=_CHOSEN if a == moment.a else BAR,
      )
      if a == moment.greedy:
        draw.polygon(
          [(x, middle - 4), (x + 8, middle), (x, middle + 4)], fill=_GREEDY
        )
      name = _fitted(self._names[a], font, _NAME_WIDTH - 18)
      draw.text((x + 12, middle), name, paint, font, anchor="lm")
      value = "masked" if masked else format_value(moment.q[a])
      draw.text((right, middle), value, paint, font, anchor="rm")

  def _draw_strip(self, draw, x: int, right: int) -> None:
    """Max Q over the last steps, the newest at the right edge."""
    left = x + 60
    low, high = min(self._max_q), max(self._max_q)
    hidden = len(self._names) - _MAX_BARS
    caption = f"max Q, last {STRIP_STEPS} steps"
    if hidden > 0:
      caption += f"; {hidden} lower Q not shown"
    draw.text((x, _STRIP_TOP - 20), caption, DIM, self._small)
    draw.rectangle((left, _STRIP_TOP, right, _STRIP_BOTTOM), outline=_FRAME)
    for value, at, anchor in (
      (high, _STRIP_TOP, "ra"),
      (low, _STRIP_BOTTOM, "rd"),
    ):
      draw.text(
        (left - 6, at), format_value(value), DIM, self._small, anchor=anchor
      )
    low, high = _opened(low, high)
    step = (right - left - 4) / (STRIP_STEPS - 1)
    height = _STRIP_BOTTOM - _STRIP_TOP - 8
    points = [
      (
        right - 2 - i * step,
        _STRIP_BOTTOM - 4 - (q - low) / (high - low) * height,
      )
      for i, q in enumerate(reversed(self._max_q))
    ]
    draw.line(points * 2 if len(points) == 1 else points, fill=TEXT, width=1)


def _opened(low: float, high: float) -> tuple[float, float]:
  """A range that is never empty, its ends a little apart from the values."""
  space = 0.05 * (high - low) or max(1e-3, 0.05 * abs(high))
  return low - space, high + space


def _shown_actions(moment: Moment) -> list[int]:
  """All actions; of many the highest, and the chosen one, in their order."""
  order = np.argsort(-moment.q, kind="stable").tolist()
  if moment.a is not None:
    order.sort(key=lambda a: a != moment.a)  # stable: the chosen one first
  return sorted(order[:_MAX_BARS])


def _fitted(text: str, font: _Font, width: int) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "...") > width:
    text = text[:-1]
  return text + "..."
