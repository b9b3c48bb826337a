"""Study 2: how much does an agent rely on its memory?

    python -m experiments.memory_horizon runs/start_state-small/recall/*/seed*

Each run's agent plays whole games with an LSTM that has seen the current row
and the k before it, for k from the whole episode down to 0. Kapturowski et al.,
section 5 and figure 5; docs/studies.md says what each number means.
Interrupted, the same command goes on with what is missing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import sys
import time
from typing import Annotated, Literal

import tyro

from experiments.horizon_table import ALL, HorizonTable, horizon_name
from r2d2_jax.cli.command import check_number, run_command, writing
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.system.run.interrupts import heard_signals

_MAX_LANES = 4096  # as experiments.evaluate
_MAX_HORIZON_GIB = 4.0


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is played, for each run."""

  horizons: str  # k, rows remembered beside the current one
  episodes: int  # whole games with each k


# Powers of two, up to about the burn-in and the trace: the choice is ours.
SIZES = {
  "small": Size(horizons="all,16,4,1,0", episodes=50),
  "paper": Size(horizons="all,64,32,16,8,4,2,1,0", episodes=30),
}


def memory_horizon(
  run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
  /,
  size: Literal["small", "paper"] = "small",
  horizons: str | None = None,
  episodes: int | None = None,
  lanes: int = 50,
  epsilon: float = 0.001,
  seed: int = 2_000_003,
  checkpoint: str = "latest",
  out: pathlib.Path | None = None,
  report_only: bool = False,
) -> None:
  """Plays whole games with ever shorter memories; writes a table and a plot.

  The table, horizon.csv, has a row for each run and k; the plot, horizon.png,
  return, max-Q gap and share of unchanged greedy actions against k. Runs that
  differ in nothing but seed and directory are one curve, their mean, and its
  range. After an interruption the same command plays what is missing.

  Args:
    run_dirs: directories of runs.
    size: 'small' plays 50 games each with k = all, 16, 4, 1, 0: for two cores.
      'paper' plays 30 with k = all, 64, 32, 16, 8, 4, 2, 1, 0: for an
      accelerator.
    horizons: instead of the size's: k, separated by commas. Rows remembered
      beside the current one; 'all' is the whole episode.
    episodes: instead of the size's: whole games of each run with each k.
    lanes: environments that play side by side.
    epsilon: chance of a random action at each step; 0 is greedy.
    seed: of the games and the random actions, the same for every run and k; the
      default is that of experiments.evaluate.
    checkpoint: 'latest'; 'best', the one that scored highest in training's own
      evaluations; or a number of updates.
    out: directory for table and plot; none means runs/memory_horizon-SIZE.
    report_only: draw the plot of the table that is there, and play nothing.
      Only the settings of the runs are read: they need no checkpoints.
  """
  ks = parse_horizons(SIZES[size].horizons if horizons is None else horizons)
  if episodes is None:
    episodes = SIZES[size].episodes
  check_number("--episodes", episodes, 1)
  check_number("--lanes", lanes, 1, _MAX_LANES)
  check_number("--epsilon", epsilon, 0, 1)
  check_number("--seed", seed, 0)
  if not run_dirs:
    raise ConfigError("expected at least one run directory, got none")

  from experiments.horizon_plot import plot_horizons
  from r2d2_jax.system.storage.hub import fetched
  from r2d2_jax.system.storage.rundir import read_config

  # One given twice counts once.
  run_dirs = tuple(map(fetched, run_dirs))
  runs = list({path.resolve(): path for path in run_dirs}.values())
  configs = {run: read_config(run) for run in runs}
  for run, config in configs.items():
    if config.agent.has_policy:
      raise ConfigError(
        f"{run}: expected an agent with values of actions, got agent.algorithm"
        f" '{config.agent.algorithm}', which has a policy; give runs of R2D2"
      )
    _check_memory(ks, config, min(lanes, episodes))
  settings = {
    "episodes": episodes,
    "lanes": lanes,
    "epsilon": epsilon,
    "seed": seed,
  }
  out = out or pathlib.Path("runs", f"memory_horizon-{size}")
  with writing("--out", out):
    table = HorizonTable(out / "horizon.csv", settings)
  if report_only:
    configs = _played(configs, ks, table)
  else:
    _play(runs, ks, table, checkpoint=checkpoint, **settings)
  with writing("--out", out):
    plot_horizons(configs, ks, table, out / "horizon.png")
  written = [out / "horizon.csv"] * (not report_only) + [out / "horizon.png"]
  print(f"wrote {' and '.join(map(str, written))}")


def parse_horizons(text: str) -> list[int | None]:
  """'all,4,0' -> [None, 4, 0]: from the longest to none, each once.

  Raises:
    ConfigError: something else than 'all' or a whole number is in it.
  """
  found: set[int | None] = set()
  for word in text.split(","):
    word = word.strip()
    # Of thousands of digits int() makes no number.
    if word != ALL and not (word.isdecimal() and len(word) <= 18):
      raise ConfigError(
        "--horizons: expected 'all' and whole numbers of rows from 0 on,"
        f" separated by commas, got {word[:40]!r}; e.g. all,16,4,1,0"
      )
    found.add(None if word == ALL else int(word))
  return sorted(found, key=lambda k: float("-inf") if k is None else -k)


def _check_memory(ks: list[int | None], config: Config, lanes: int) -> None:
  from experiments.horizon import horizon_bytes

  longest = max((k for k in ks if k is not None), default=0)
  gib = horizon_bytes(longest, lanes=lanes, config=config.network) / 2**30
  if gib > _MAX_HORIZON_GIB:
    raise ConfigError(
      f"--horizons: {longest} rows of {lanes} lanes take {gib:.1f} GiB,"
      f" expected at most {_MAX_HORIZON_GIB:g}; give a smaller k, fewer"
      " --lanes, or 'all', which takes one state per lane"
    )


def _played(
  configs: Mapping[pathlib.Path, Config],
  ks: Sequence[int | None],
  table: HorizonTable,
) -> dict[pathlib.Path, Config]:
  """Those that have a row in the table for each k; the others are named.

  Raises:
    ConfigError: there is none.
  """
  played = {
    run: config
    for run, config in configs.items()
    if all(table.row(run, k) is not None for k in ks)
  }
  if not played:
    raise ConfigError(
      "--report-only: expected runs whose games with all of --horizons are in"
      " the table of --out, got none; the table names runs by their directory"
    )
  for run in configs:
    if run not in played:
      print(f"left out, not all of its games are there: {run}", file=sys.stderr)
  return played


def _play(
  runs, ks, table, *, checkpoint, episodes, lanes, epsilon, seed
) -> None:
  """Plays what the table lacks."""
  from rich.console import Console

  from experiments.horizon import play_with_horizon
  from r2d2_jax.system.metrics.display import progress_display
  from r2d2_jax.system.storage.agents import load_agent

  # All of them before hours of games: a slip is told now.
  agents = {run: load_agent(run, which=checkpoint) for run in runs}
  for run, agent in agents.items():
    table.check_updates(run, agent.num_updates)
  with writing("--out", table.path):
    table.open()
  cells = [(run, k) for run in runs for k in ks]
  missing = [cell for cell in cells if table.row(*cell) is None]
  print(
    f"{len(cells)} rows of {episodes} games each,"
    f" {len(cells) - len(missing)} of them there already",
    flush=True,
  )
  clock = _Clock(episodes * len(missing))
  console = Console()
  with heard_signals() as stop, progress_display(console) as show_line:
    for run, k in missing:
      agent = agents[run]
      name = f"{run}, k {horizon_name(k)}"

      def show_progress(finished: int, name=name) -> None:
        stop.check()
        clock.played(1)
        # In a file every game would be a line.
        if console.is_terminal:
          show_line(f"{name}: {finished} of {episodes} games | {clock.left()}")

      # Without recurrence the games are the same with any memory.
      if agent.config.network.core == "feedforward" and table.copy(run, k):
        clock.dropped(episodes)
      else:
        games = play_with_horizon(
          agent.params,
          agent=agent.agent,
          config=agent.config.updated(
            {"evaluation.epsilon": epsilon, "evaluation.num_lanes": lanes}
          ),
          horizon=k,
          num_episodes=episodes,
          seed=seed,
          on_progress=show_progress,
        )
        with writing("--out", table.path):
          table.write(run, k, agent, games)
      console.print(
        f"{name}: {table.summary(run, k)} | {clock.left()}",
        soft_wrap=True,
        highlight=False,
        markup=False,
      )


class _Clock:
  """Time left, from the games played so far."""

  def __init__(self, games: int):
    self._to_play = games
    self._played = 0
    self._start_seconds = time.monotonic()

  def played(self, games: int) -> None:
    """So many have ended."""
    self._to_play -= games
    self._played += games

  def dropped(self, games: int) -> None:
    """So many need not be played."""
    self._to_play -= games

  def left(self) -> str:
    """'12.0 min left'."""
    seconds = time.monotonic() - self._start_seconds
    minutes = self._to_play * seconds / max(self._played, 1) / 60
    return f"{minutes:.1f} min left"


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(
    memory_horizon,
    prog="python -m experiments.memory_horizon",
    arguments=arguments,
  )


if __name__ == "__main__":
  sys.exit(main())
