"""Plots of human-normalised scores beside the published ones."""

import pathlib

import numpy as np

from r2d2_jax.analysis.aggregates import bootstrap_interval, performance_profile
from r2d2_jax.analysis.scores import PUBLISHED_AGENTS
from r2d2_jax.analysis.standings import GameScores, published_percent

# matplotlib is imported where it is used: it takes a second. `Figure`, not
# pyplot: no display may be assumed, and figures are freed by themselves.

_COLORS = {
  "impala_deep": "tab:green",
  "apex": "tab:orange",
  "r2d2": "tab:red",
}
_OWN = "tab:blue"


def plot_profile(
  games: list[GameScores], png_path: pathlib.Path, *, with_interval: bool
) -> None:
  """Draws the performance profile: fraction of runs whose score is above tau.

  Args:
    games: of the 57; each counts the same.
    png_path: where to write.
    with_interval: adds the 95 % bootstrap interval as a band.

  Raises:
    ImportError: the interval needs rliable.
  """
  from matplotlib.figure import Figure

  scores = [game.human_normalised for game in games]
  # From 1 % of the human's score to beyond R2D2's best, and ours.
  best = max(1e5, *map(np.max, scores))
  taus = np.geomspace(1, best, 241)
  figure = Figure(figsize=(7, 4.2), layout="constrained")
  axes = figure.subplots()
  if with_interval:
    low, high = bootstrap_interval(
      scores, lambda s: performance_profile(s, taus)
    )
    axes.fill_between(taus, low, high, color=_OWN, alpha=0.2, linewidth=0)
  axes.plot(
    taus, performance_profile(scores, taus), color=_OWN, label="these runs"
  )
  for column, agent in PUBLISHED_AGENTS.items():
    theirs = [np.array([published_percent(g.name, column)]) for g in games]
    axes.plot(
      taus,
      performance_profile(theirs, taus),
      color=_COLORS[column],
      linewidth=1,
      label=f"{agent} (published)",
    )
  axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
  axes.text(108, 1.04, "human", fontsize="small", va="center")
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter("{x:g}")
  axes.set_xlim(taus[0], taus[-1])
  axes.set_ylim(-0.02, 1.08)
  axes.set_xlabel("human-normalised score tau (%)")
  axes.set_ylabel("fraction of runs with a score above tau")
  axes.set_title(f"Performance profile over {len(games)} of 57 games")
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  figure.savefig(png_path, dpi=130)


def plot_games(games: list[GameScores], png_path: pathlib.Path) -> None:
  """Draws a bar for each game: human-normalised score, beside R2D2's.

  The axis is logarithmic in both directions, linear between -10 % and 10 %. A
  line spans the runs of a game that has several.

  Args:
    games: of the 57.
    png_path: where to write.
  """
  from matplotlib.figure import Figure

  games = sorted(games, key=lambda game: game.human_normalised.mean())
  rows = np.arange(len(games))
  runs = [game.human_normalised for game in games]
  means = np.array([r.mean() for r in runs])
  figure = Figure(figsize=(7, 1.6 + 0.2 * len(games)), layout="constrained")
  axes = figure.subplots()
  axes.barh(rows, means, color=_OWN, height=0.7, label="these runs")
  several = [i for i in rows if len(runs[i]) > 1]
  axes.hlines(
    several,
    [runs[i].min() for i in several],
    [runs[i].max() for i in several],
    color="black",
    linewidth=1,
  )
  published = [published_percent(game.name, "r2d2") for game in games]
  axes.plot(
    published,
    rows,
    color=_COLORS["r2d2"],
    marker="D",
    markersize=4,
    linestyle="none",
    label="R2D2 (published)",
  )
  axes.axvline(100, color="black", linewidth=0.8, linestyle=":", label="human")
  axes.set_xscale("symlog", linthresh=10)
  everything = np.concatenate([*runs, published, [0, 100]])
  axes.set_xlim(min(2 * everything.min(), 0), 2 * everything.max())
  axes.xaxis.set_major_formatter("{x:g}")
  axes.set_yticks(rows, [g.name.replace("_", " ") for g in games], fontsize=8)
  axes.set_ylim(-0.6, len(games) - 0.4)
  axes.set_xlabel("human-normalised score (%)")
  axes.grid(axis="x", alpha=0.3)
  axes.set_axisbelow(True)
  figure.legend(frameon=False, loc="outside upper center", ncols=3)
  figure.savefig(png_path, dpi=130)
