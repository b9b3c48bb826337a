"""Draws the figures of docs/r2d2.md beside this file, as SVG.

python docs/figures/draw.py
"""

import pathlib

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

HERE = pathlib.Path(__file__).resolve().parent
BURN_IN, TRACE, GREY = "#f2b26b", "#6c9bd2", "#d9d9d9"
plt.rcParams.update(
  {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "r2d2_jax",
    "font.family": "sans-serif",
    "font.size": 10,
  }
)


def canvas(width: float, height: float, inches: tuple[float, float]):
  """Axes in units of rows, without ticks, on white."""
  figure, ax = plt.subplots(figsize=inches)
  ax.set_xlim(0, width)
  ax.set_ylim(0, height)
  ax.axis("off")
  figure.subplots_adjust(0, 0, 1, 1)
  return figure, ax


def bar(ax, x, y, rows, colour, words="", **options):
  """A run of rows."""
  style = {"facecolor": colour, "edgecolor": "white", "lw": 1.5, **options}
  ax.add_patch(Rectangle((x, y), rows, 1, **style))
  if words:
    ax.text(x + rows / 2, y + 0.5, words, ha="center", va="center")


def box(ax, x, y, width, height, title, words):
  """A part of the program."""
  ax.add_patch(
    FancyBboxPatch(
      (x, y),
      width,
      height,
      boxstyle="round,pad=0.1",
      fc="#f4f6fa",
      ec="#51617a",
    )
  )
  middle = x + width / 2
  ax.text(middle, y + height - 0.45, title, ha="center", weight="bold")
  ax.text(middle, y + height - 0.75, words, ha="center", va="top", fontsize=9)


def arrow(ax, start, end, words="", at=None, colour="#51617a"):
  """An arrow with words beside it."""
  style = {"arrowstyle": "-|>", "color": colour, "lw": 1.4}
  ax.annotate("", end, start, arrowprops=style)
  if words:
    x, y = at or ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    ax.text(x, y, words, ha="center", va="center", fontsize=9)


def replay():
  """Actors, replay, learner: what goes round."""
  figure, ax = canvas(14, 6, (7.6, 3.3))
  box(
    ax,
    0.3,
    2,
    3.4,
    2.6,
    "actors",
    "many lanes, each\nwith its own $\\epsilon$\nand LSTM state",
  )
  box(
    ax,
    5.3,
    2,
    3.4,
    2.6,
    "replay",
    "items of rows,\na state and a\npriority each",
  )
  box(ax, 10.3, 2, 3.4, 2.6, "learner", "unrolls a batch,\none step of Adam")
  arrow(ax, (3.8, 3.9), (5.2, 3.9), "items", (4.5, 4.25))
  arrow(ax, (8.8, 3.9), (10.2, 3.9), "batch", (9.5, 4.25))
  arrow(ax, (10.2, 2.7), (8.8, 2.7), "priorities", (9.5, 2.3))
  ax.plot([12, 12, 2], [1.8, 0.9, 0.9], color="#51617a", lw=1.4)
  arrow(ax, (2, 0.9), (2, 1.85), "parameters, some updates old", (7, 0.55))
  for k in range(4):
    bar(ax, 5.6 + 0.35 * k, 5.6 - 0.28 * k, 0.8, BURN_IN)
    ax.patches[-1].set_height(0.22)
    bar(ax, 6.4 + 0.35 * k, 5.6 - 0.28 * k, 1.2, TRACE)
    ax.patches[-1].set_height(0.22)
  return figure


def item():
  """Items cut from an episode: burn-in, trace, overlap, stored states."""
  figure, ax = canvas(300, 9.4, (7.6, 3.6))
  shift = 62
  ax.text(58, 7.9, "episode", ha="right")
  bar(ax, shift, 7.4, 200, GREY, "rows 0 ... 199")
  for k in range(3):
    x, y = shift - 40 + 40 * k, 5.2 - 1.5 * k
    bar(ax, x, y, 40, BURN_IN, "burn-in")
    bar(ax, x + 40, y, 80, TRACE, "trace, trained")
    ax.text(x - 3, y + 0.5, f"item {k}", ha="right", va="center")
    ax.plot(x, y + 1.12, marker="v", color="black", markersize=7)
  first = ax.patches[-6]
  first.set(hatch="//", edgecolor="#9a9a9a", facecolor="white")
  ax.text(shift - 20, 6.65, "padding", ha="center", fontsize=9)
  style = {"arrowstyle": "<->", "color": "black"}
  ax.annotate("", (shift + 40, 1.75), (shift + 80, 1.75), arrowprops=style)
  ax.plot([shift + 40] * 2, [1.6, 5.2], color="black", lw=0.7, ls=":")
  ax.plot([shift + 80] * 2, [1.6, 5.2], color="black", lw=0.7, ls=":")
  ax.text(
    shift + 60,
    1.25,
    "overlap of the traces of items 0 and 1",
    ha="center",
    fontsize=9,
  )
  ax.plot(8, 0.4, marker="v", color="black", markersize=7)
  ax.text(
    13,
    0.4,
    "stored state: what the actor remembered before the item's first row",
    va="center",
    fontsize=9,
  )
  return figure


def start_states():
  """The four ways to begin a replayed item."""
  figure, ax = canvas(200, 11.4, (7.6, 4.2))
  cases = [
    ("zero state", "nothing is known of what was before", False, False),
    ("zero state, burn-in", "known is what the burn-in rows tell", False, True),
    ("stored state", "all is known, as older parameters saw it", True, False),
    (
      "stored state, burn-in",
      "known, and refreshed by today's parameters",
      True,
      True,
    ),
  ]
  for number, (name, words, stored, burn_in) in enumerate(cases):
    y = 9.2 - 2.7 * number
    ax.text(0, y + 0.75, name, weight="bold", va="center")
    ax.text(0, y + 0.1, words, fontsize=8.5, va="center")
    start = 88 if burn_in else 118
    ax.plot(
      start - 5, y + 0.5, marker="o", markersize=13, color="black",
      markerfacecolor="black" if stored else "white",
    )  # fmt: skip
    if burn_in:
      bar(ax, 88, y, 30, BURN_IN, "burn-in")
    bar(ax, 118, y, 80, TRACE, "trace: loss and gradient")
    if burn_in:
      ax.text(103, y - 0.45, "no gradient", ha="center", fontsize=8.5)
  return figure


FIGURES = {"replay": replay, "item": item, "start_states": start_states}


def draw(directory: pathlib.Path) -> None:
  """Writes all of them; the same bytes each time."""
  for name, make in FIGURES.items():
    figure = make()
    path = directory / f"{name}.svg"
    figure.savefig(
      path, metadata={"Date": None, "Creator": None}, facecolor="white"
    )
    lines = [line.rstrip() for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    plt.close(figure)


if __name__ == "__main__":
  draw(HERE)
