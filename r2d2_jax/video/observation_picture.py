"""What the agent sees, drawn: frames, MiniGrid's cells, bars of numbers."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r2d2_jax.envs.recall import DELAYS, NUM_SYMBOLS
from r2d2_jax.envs.tasks import chain_length

BACKGROUND = (20, 20, 26)
TEXT = (232, 232, 232)
DIM = (150, 150, 158)
BAR = (92, 116, 166)
_LINES = (62, 62, 70)

# MiniGrid's numbers: type, colour and state of each cell. Types that are not
# here (unseen, empty, wall, floor) fill the whole cell.
_CELL_FILLS = {0: (0, 0, 0), 1: (36, 36, 42), 2: (128, 128, 128)}
_DOOR, _KEY, _BALL, _BOX, _GOAL, _LAVA, _AGENT = 4, 5, 6, 7, 8, 9, 10
_COLOURS = (
  (255, 60, 60),
  (60, 220, 60),
  (70, 110, 255),
  (180, 70, 220),
  (240, 220, 40),
  (150, 150, 150),
)
_MAX_BARS = 16


def enlarge(image: np.ndarray, box: tuple[int, int]) -> Image.Image:
  """Pixels as large as `box` allows, by a whole number: none is blurred.

  Args:
    image: uint8 [height, width] or [height, width, 3].
    box: width and height. A larger image is shrunk, smoothly.
  """
  picture = Image.fromarray(image).convert("RGB")
  factor = min(box[0] / picture.width, box[1] / picture.height)
  if factor >= 1:
    return picture.resize(
      (picture.width * int(factor), picture.height * int(factor)),
      Image.Resampling.NEAREST,
    )
  return picture.resize(
    (int(picture.width * factor), int(picture.height * factor)),
    Image.Resampling.BOX,
  )


def draw_observation(
  obs: np.ndarray, box: tuple[int, int], *, task: str
) -> Image.Image:
  """One frame of the agent's observation, at most as large as `box`.

  Args:
    obs: [*obs_shape]. uint8 [H, W] and [H, W, 3] are shown as they are,
      MiniGrid's uint8 [7, 7, 3] as cells seen by an agent that stands at the
      bottom's middle and looks up, up to 16 numbers as bars, all else as cells
      whose brightness is the value from 0 (or the least) to 1 (or the largest).
    box: width and height in pixels.
    task: as in EnvConfig.
  """
  if task.lower().startswith("minigrid-"):
    return _draw_grid(obs, min(box) // obs.shape[0])
  if obs.dtype == np.uint8 and (
    obs.ndim == 2 or obs.ndim == 3 and obs.shape[-1] == 3
  ):
    return enlarge(obs, box)
  values = obs.astype(np.float64)
  if values.ndim == 1 and len(values) <= _MAX_BARS:
    return _draw_bars(values, box, _bar_names(len(values), task))
  if values.ndim == 1:
    columns = math.ceil(math.sqrt(len(values)))
    rows = math.ceil(len(values) / columns)
    values = np.pad(values, (0, rows * columns - len(values)))
    values = values.reshape(rows, columns)
  elif values.ndim > 2:  # planes: their mean
    values = values.reshape(*values.shape[:2], -1).mean(axis=-1)
  low, high = min(values.min(), 0.0), max(values.max(), 1.0)
  grey = (values - low) / (high - low) * 255
  return enlarge(grey.astype(np.uint8), box)


def _bar_names(count: int, task: str) -> list[str]:
  if task.lower() in DELAYS:
    symbols = [f"symbol {chr(ord('A') + i)}" for i in range(NUM_SYMBOLS)]
    return [*symbols, "cue", "hush", "query"]
  if chain_length(task):
    return ["time", "query", "context"]
  if task.lower() == "stateless-cartpole":
    return ["place", "angle"]
  return [f"x{i}" for i in range(count)]


def _draw_bars(
  values: np.ndarray, box: tuple[int, int], names: list[str]
) -> Image.Image:
  """A bar for each number, from 0; names and numbers where there is room."""
  named = box[0] >= 200
  width, row = min(box[0], 360), min(box[1] // len(values), 40)
  picture = Image.new("RGB", (width, row * len(values)), BACKGROUND)
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(14)
  left, right = (84, width - 64) if named else (0, width - 1)
  limit = max(1.0, np.abs(values).max())
  zero = (left + right) // 2 if (values < 0).any() else left
  reach = right - zero
  for i, value in enumerate(values):
    top, bottom = i * row + 2, (i + 1) * row - 3
    end = zero + value / limit * reach
    draw.rectangle((left, top, right, bottom), outline=_LINES)
    draw.rectangle((min(zero, end), top, max(zero, end), bottom), fill=BAR)
    if named:
      y = (top + bottom) / 2
      draw.text((4, y), names[i], TEXT, font, anchor="lm")
      draw.text((width - 4, y), f"{value:.2f}", TEXT, font, anchor="rm")
  return picture


def _draw_grid(image: np.ndarray, cell: int) -> Image.Image:
  """MiniGrid's view: image[x, y] is cell x from the left, y from the top."""
  columns, rows = image.shape[:2]
  picture = Image.new("RGB", (columns * cell, rows * cell), BACKGROUND)
  draw = ImageDraw.Draw(picture)
  for x in range(columns):
    for y in range(rows):
      kind, colour, state = (int(v) for v in image[x, y])
      _draw_cell(draw, x * cell, y * cell, cell, kind, colour, state)
  _draw_agent(draw, columns // 2 * cell, (rows - 1) * cell, cell)
  return picture


def _draw_cell(
  draw: ImageDraw.ImageDraw,
  x: int,
  y: int,
  cell: int,
  kind: int,
  colour: int,
  state: int,
) -> None:
  def at(*fractions: float) -> tuple[float, ...]:
    """Fractions of the cell, x and y in turn, as pixels."""
    return tuple(
      (y if i % 2 else x) + f * cell for i, f in enumerate(fractions)
    )

  paint = _COLOURS[colour % len(_COLOURS)]
  fill = _CELL_FILLS.get(kind, _CELL_FILLS[1])
  draw.rectangle(
    (x, y, x + cell - 1, y + cell - 1),
    fill=fill,
    outline=_LINES if kind else fill,
  )
  line = max(1, cell // 12)
  if kind == _DOOR:  # open, closed, locked
    draw.rectangle(at(0.12, 0.12, 0.88, 0.88), outline=paint, width=line)
    if state:
      draw.ellipse(at(0.62, 0.42, 0.76, 0.56), fill=paint)
    if state == 2:
      draw.rectangle(at(0.3, 0.3, 0.7, 0.7), fill=paint)
  elif kind == _KEY:
    draw.ellipse(at(0.36, 0.12, 0.7, 0.46), outline=paint, width=2 * line)
    draw.line(at(0.53, 0.46, 0.53, 0.88), fill=paint, width=2 * line)
    draw.line(at(0.36, 0.84, 0.53, 0.84), fill=paint, width=line)
    draw.line(at(0.36, 0.68, 0.53, 0.68), fill=paint, width=line)
  elif kind == _BALL:
    draw.ellipse(at(0.2, 0.2, 0.8, 0.8), fill=paint)
  elif kind == _BOX:
    draw.rectangle(at(0.18, 0.18, 0.82, 0.82), outline=paint, width=2 * line)
    draw.line(at(0.18, 0.5, 0.82, 0.5), fill=paint, width=line)
  elif kind == _GOAL:
    draw.rectangle(at(0.05, 0.05, 0.93, 0.93), fill=paint)
  elif kind == _LAVA:
    draw.rectangle(at(0.05, 0.05, 0.93, 0.93), fill=(255, 128, 0))
  elif kind == _AGENT:
    draw.ellipse(at(0.3, 0.3, 0.7, 0.7), outline=paint, width=line)


def _draw_agent(draw: ImageDraw.ImageDraw, x: int, y: int, cell: int) -> None:
  """The agent is not in its own view: a small red arrow where it stands."""
  draw.polygon(
    [
      (x + 0.5 * cell, y + 0.5 * cell),
      (x + 0.75 * cell, y + 0.92 * cell),
      (x + 0.25 * cell, y + 0.92 * cell),
    ],
    fill=(255, 0, 0),
  )
