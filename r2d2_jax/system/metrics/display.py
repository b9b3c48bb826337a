"""What a run shows: a panel that is redrawn on a terminal, or plain lines."""

from collections.abc import Callable, Iterator
import contextlib

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r2d2_jax.config import Config
from r2d2_jax.system.metrics.columns import column_of, own_columns, warnings

_WARNING = "bold red"
_LABEL = "dim"
_BAR_CELLS = 24
_PANEL_CELLS = 100  # at most: on wider terminals the eye would have to travel

# By thread, since the legs of one thread follow each other; its waiting is what
# is left blank of the bar. (leg, colour)
_THREADS = {
  "actors": (
    ("environment", "blue"),
    ("inference", "cyan"),
    ("write", "magenta"),
  ),
  "sampler": (("sample", "blue"), ("copy", "cyan")),
  "learner": (("step", "blue"), ("write_back", "magenta")),
}


@contextlib.contextmanager
def run_display(
  console: Console, config: Config
) -> Iterator[Callable[[dict], None]]:
  """A function that shows a row of `RunReport.row` as the run's present state.

  On a terminal a panel that stays below what is printed to the console;
  elsewhere a line per row.
  """
  if not can_redraw(console):
    with progress_display(console) as show_line:
      yield lambda row: show_line(progress_line(row, config))
    return
  panel = RunPanel(config)
  with Live(console=console, auto_refresh=False) as live:
    yield lambda row: live.update(panel.draw(row), refresh=True)


@contextlib.contextmanager
def progress_display(console: Console) -> Iterator[Callable[[str], None]]:
  """A function that shows its argument as the current line."""
  if not can_redraw(console):
    # No wrapping: a log file's line is one line.
    yield lambda line: console.print(
      line, soft_wrap=True, highlight=False, markup=False
    )
    return
  with Live(console=console, auto_refresh=False) as live:
    yield lambda line: live.update(Text(line), refresh=True)


def can_redraw(console: Console) -> bool:
  """Whether what was printed there can be replaced."""
  return console.is_terminal and not console.is_dumb_terminal


def progress_line(row: dict, config: Config) -> str:
  """What a person wants to know at a glance, from a row of the log."""
  if row["updates"]:
    learning = (
      f"{row['updates_per_second']:.2f} updates/s"
      f" | ratio {row['replay_ratio']:.2f}/{config.replay.replay_ratio:g}"
    )
  else:
    learning = _filling(row, config)
  signs = warnings(row, config)
  filled = row["replay_size"] / config.replay.capacity_sequences
  return (
    f"{row['minutes']:.1f} min"
    f" | {_count(row['steps'])} steps {_count(row['frames'])} frames"
    f" | {row['frames_per_second']:.0f} frames/s"
    f" | {learning}"
    f" | return {_return(row['return_exploit'])}"
    f" (all lanes {_return(row['return_mean'])})"
    f" | replay {_percent(filled)}"
    f" | limited by {row['bottleneck']}"
    f" | {_minutes(row['minutes_left'])} left"
    + "".join(
      f" | {column} {_number(row[column])}: {words}"
      for column, words in signs.items()
    )
  )


class RunPanel:
  """The panel; remembers the evaluations, which few rows have."""

  def __init__(self, config: Config):
    self._config = config
    self._last_evaluation = self._best_evaluation = float("nan")

  def draw(self, row: dict) -> Panel:
    """The state of the run now.

    Args:
      row: of `RunReport.row`.
    """
    evaluation = row["eval_return"]
    if evaluation == evaluation:
      self._last_evaluation = evaluation
      # max would keep a NaN that comes first.
      if not self._best_evaluation >= evaluation:
        self._best_evaluation = evaluation
    body = Table.grid(padding=(0, 2))
    body.add_column(style=_LABEL)
    body.add_column()
    for label, content in self._lines(row):
      body.add_row(label, content)
    return Panel(
      body,
      title=Text(f"{self._config.env.task}, {_minutes(row['minutes'])}"),
      title_align="left",
      subtitle=f"limited by {row['bottleneck']}",
      subtitle_align="left",
      width=_PANEL_CELLS,
    )

  def _lines(self, row: dict) -> Iterator[tuple[str, Text | Table]]:
    config = self._config
    signs = warnings(row, config)

    def value(column: str, text: str) -> Text:
      """A value, and beside it what is wrong with it."""
      if column not in signs:
        return Text(text)
      return Text(f"{text} ({signs[column]})", _WARNING)

    yield "progress", _progress(row, config)
    yield (
      "run",
      _join(
        f"{_count(row['steps'])} steps",
        f"{_count(row['frames'])} frames",
        f"{_count(row['updates'])} updates",
        f"{_count(row['episodes'])} games",
      ),
    )
    yield (
      "speed",
      _join(
        f"{row['frames_per_second']:.0f} frames/s",
        f"{row['updates_per_second']:.2f} updates/s",
      ),
    )
    yield (
      "return",
      _join(
        Text(f"exploiting lanes {_return(row['return_exploit'])}", "bold"),
        f"all {_return(row['return_mean'])}",
        f"evaluation {_return(self._last_evaluation)}"
        f" (best {_return(self._best_evaluation)})",
      ),
    )
    fill = row["replay_size"] / config.replay.capacity_sequences
    if row["updates"]:
      ratio = (
        f"ratio {row['replay_ratio']:.2f} of {config.replay.replay_ratio:g}"
      )
    else:
      ratio = _filling(row, config)
    yield (
      "replay",
      _join(f"{_percent(fill)} full", value("replay_ratio", ratio)),
    )
    yield (
      "update",
      _join(
        value("loss", f"loss {_number(row['loss'])}"),
        value("td_abs_mean", f"|td| {_number(row['td_abs_mean'])}"),
        value("grad_norm", f"gradient {_number(row['grad_norm'])}"),
        value("q_max_mean", f"max q {_number(row['q_max_mean'])}"),
      ),
    )
    if config.agent.has_policy:
      yield (
        "policy",
        _join(
          f"entropy {_number(row['policy_entropy'])}",
          f"value {_number(row['value_mean'])}",
          f"{_percent(row['rho_clipped'])} of ratios cut",
        ),
      )
    yield (
      "states",
      _join(
        value("dq_first", f"dQ first {_number(row['dq_first'])}"),
        value("dq_last", f"last {_number(row['dq_last'])}"),
        value("lag_p50", f"lag {_number(row['lag_p50'])} updates"),
      ),
    )
    yield (
      "samples",
      _join(
        value(
          "effective_sample_size",
          f"{_percent(row['effective_sample_size'])} of a batch count",
        ),
        value("reuse_mean", f"drawn {_number(row['reuse_mean'])} times each"),
      ),
    )
    if own := own_columns(row):
      yield (
        "own",
        _join(
          *(
            value(name, f"{column_of(name).words} {_number(row[name])}")
            for name in own
          )
        ),
      )
    for thread, legs in _THREADS.items():
      yield thread, _legs(row, legs)


def _progress(row: dict, config: Config) -> Table:
  run = config.run
  fraction = row["steps"] / run.total_steps
  if run.max_minutes:
    fraction = max(fraction, row["minutes"] / run.max_minutes)
  fraction = min(fraction, 1.0)
  line = Table.grid(padding=(0, 1))
  line.add_row(
    ProgressBar(
      total=1.0,
      completed=fraction,
      width=_BAR_CELLS,
      complete_style="green",  # the default is red, which means trouble here
      finished_style="green",
    ),
    f"{_percent(fraction)}, {_minutes(row['minutes_left'])} left",
  )
  return line


def _legs(row: dict, legs: tuple[tuple[str, str], ...]) -> Text:
  """A bar of a thread's legs, their names in the colours of their parts."""
  bar, names = Text(), []
  for leg, colour in legs:
    share = row[f"share_{leg}"]
    if row["bottleneck"] == leg:
      colour = "bold yellow"
    bar.append("█" * round(_BAR_CELLS * share), colour)
    names.append(Text(f"{leg} {_percent(share)}", colour))
  bar.truncate(_BAR_CELLS)
  bar.append("·" * (_BAR_CELLS - len(bar)), _LABEL)
  return bar.append(" ").append_text(_join(*names))


def _join(*parts: str | Text) -> Text:
  return Text("  ").join(
    part if isinstance(part, Text) else Text(part) for part in parts
  )


def _filling(row: dict, config: Config) -> str:
  return f"filling replay {row['replay_size']}/{config.replay.min_sequences}"


def _count(x: float) -> str:
  for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if x >= limit:
      return f"{x / limit:.2f}{unit}"
  return str(int(x))


def _percent(x: float) -> str:
  return "-" if x != x else f"{100 * x:.0f}%"


def _number(x: float) -> str:
  if x != x:
    return "-"
  return f"{x:.0f}" if 1e3 <= abs(x) < 1e6 else f"{x:.3g}"


def _return(x: float) -> str:
  if x != x:
    return "-"
  return f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}"


def _minutes(x: float) -> str:
  """Minutes, or hours and minutes; a dash for NaN."""
  if x != x:
    return "-"
  hours, minutes = divmod(round(x), 60)
  return f"{x:.0f} min" if x < 100 else f"{hours} h {minutes:02d} min"
