"""What the watching thread does: log, evaluate, save, and tell the user."""

from collections.abc import Callable
import contextlib
from typing import NamedTuple

import jax
import numpy as np

from r2d2_jax.config import UserError, first_line
from r2d2_jax.system.evaluation import Evaluation, evaluate, write_evaluation
from r2d2_jax.system.metrics.learning_curve import plot_learning_curve
from r2d2_jax.system.metrics.report import summary
from r2d2_jax.system.run.background import Background
from r2d2_jax.system.run.build import Parts
from r2d2_jax.system.run.chores import Chores
from r2d2_jax.system.run.stop import Stop
from r2d2_jax.system.run.turns import actors_may_step, is_over
from r2d2_jax.system.run.watchdog import watchdog
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.rundir import checkpoints_dir

# Games that the agent was not trained on: the training's seeds are far away.
_EVAL_SEED_OFFSET = 1_000_003
# An evaluation's step may be its first one, which is compiled.
_EVALUATION_HANG_SECONDS = 60.0
_WATCHDOG_MINUTES = 5.0

Columns = dict[str, float | int | str]


class Row(NamedTuple):
  """What the run says of itself at one moment."""

  columns: Columns
  histograms: dict[str, np.ndarray]

  @property
  def counts(self) -> tuple[float | int | str, float | int | str]:
    """Steps and updates."""
    return self.columns["steps"], self.columns["updates"]


class Monitor:
  """The run's log, evaluations and saves."""

  def __init__(
    self,
    parts: Parts,
    stop: Stop,
    *,
    say: Callable[[str], None],
    show: Callable[[Columns], None],
    on_row: Callable[[Columns], None] | None = None,
  ):
    """See the class.

    Args:
      parts: of the run.
      stop: ends an evaluation.
      say: takes a line for the user.
      show: takes a row for the user.
      on_row: is called with each row of the log, once it is written.
    """
    self._parts = parts
    self._config = parts.config
    self._stop = stop
    self._say = say
    self._show = show
    self._on_row = on_row
    self._num_evaluation_steps = 0
    # Counts of the last row, which may be of an earlier life.
    self._logged: tuple = parts.log.last_counts()
    self._held: Row | None = None
    self._saver = Background("saver")
    self._evaluator = Background("evaluator")

  def chores(self) -> Chores:
    """Log and evaluation come before the save, which so contains them."""
    config, learner = self._config, self._parts.learner
    updates = lambda: learner.num_updates
    chores = Chores()
    if config.log.period_updates:
      chores.add_by_count(self._log_row, config.log.period_updates, updates)
    else:
      chores.add_by_seconds(self._log_row, config.log.period_seconds)
    if config.evaluation.period_steps and config.evaluation.num_episodes:
      chores.add_by_count(
        self._evaluate_meanwhile,
        config.evaluation.period_steps,
        lambda: self._parts.ratio.env_steps,
      )
    if config.checkpoint.period_updates:
      chores.add_by_count(self._save, config.checkpoint.period_updates, updates)
    else:
      chores.add_by_seconds(self._save, 60 * config.checkpoint.period_minutes)
    return chores

  def raise_background_errors(self) -> None:
    """Raises what a save or an evaluation beside the run has raised."""
    self._saver.raise_error()
    self._evaluator.raise_error()

  def watchdog(self) -> contextlib.AbstractContextManager[None]:
    """Within it the user is told when the environments stand still."""
    ratio = self._parts.ratio
    return watchdog(
      lambda: (ratio.env_steps, self._num_evaluation_steps),
      lambda minutes: self._say(
        f"warning: no step for {minutes:.0f} minutes: "
        + (
          f"the environments of {self._config.env.task!r} give no rows"
          if actors_may_step(self._parts)
          else "the learner, for which the actors wait, does not move"
        )
        + ". If that lasts, stop the run and start it again: it goes on from"
        " its last checkpoint"
      ),
      period_minutes=_WATCHDOG_MINUTES,
    )

  # Rows.

  def row(self) -> Row:
    """The state of the run now; what it adds up begins anew."""
    parts = self._parts
    sampled, histograms = parts.samples.pop()
    learned, learned_histograms = parts.learner.metrics()
    columns = parts.report.row(
      steps=parts.ratio.env_steps,
      updates=parts.learner.num_updates,
      replay_size=parts.replay.size(),
      replay_ratio=parts.ratio.measured(),
      metrics={
        **learned,
        **self._measure_dq(),
        **sampled,
      },
      leg_seconds={
        **parts.actors.timer.seconds(),
        **(parts.prefetcher.timer.seconds() if parts.prefetcher else {}),
        **parts.learner.timer.seconds(),
      },
    )
    return Row(columns, histograms | learned_histograms)

  def show_last(self, row: Row) -> None:
    """Shows the row in which the training ended, where it was not shown yet."""
    if row.counts != self._logged:
      self._show(row.columns)

  def write_last(self, row: Row) -> None:
    """The run as its training ended, with what was evaluated since: one row."""
    mean = self._parts.report.take_evaluation()
    if mean == mean:
      row.columns["eval_return"] = mean
    elif row.counts == self._logged:
      return
    self._write(row)

  def last_row(self) -> Row:
    """The state in which the training ended, with what a row held back had."""
    row, held = self.row(), self._held
    if held is None:
      return row
    columns = {
      name: held.columns.get(name, value) if value != value else value
      for name, value in row.columns.items()
    }
    return Row(columns, held.histograms | row.histograms)

  def _log_row(self) -> None:
    """Logs what has moved since the last row."""
    parts = self._parts
    counts = parts.ratio.env_steps, parts.learner.num_updates
    if counts == self._logged or is_over(parts):
      return
    row = self.row()
    if is_over(parts):  # meanwhile: the last row, which is to come, says it
      self._held = row
      return
    self._show(row.columns)
    self._write(row)

  def _write(self, row: Row) -> None:
    self._logged = row.counts
    try:
      self._parts.log.write(row.columns)
    except OSError as error:
      self._say(f"cannot write the log: {first_line(error)}")
    for sink in self._parts.sinks:
      sink.write(row.columns, row.histograms)
    if self._on_row is not None:
      self._on_row(dict(row.columns))

  def _measure_dq(self) -> dict[str, float]:
    params = self._parts.parameters.latest().params
    batch = self._parts.learner.latest_batch
    if batch is None or batch.row_carry is None:
      return self._parts.probe.measure(params)
    return self._parts.probe.measure_on(
      params, batch.on_device.sequence, batch.row_carry
    )

  # Saves.

  def protected_save(self) -> contextlib.AbstractContextManager[None]:
    """Within it no signal cuts short what would be the only checkpoint."""
    if list_checkpoints(checkpoints_dir(self._parts.run_dir)):
      return contextlib.nullcontext()
    return self._stop.shielded()

  def _save(self) -> None:
    """Saves; with threads beside them, skipping while the last one runs."""
    if self._saver.is_busy:
      return
    job = self._parts.state.prepare_save()
    if self._config.run.lockstep:
      with self.protected_save():
        self._say_if_it_fails(job)
    else:
      self._saver.start(lambda: self._say_if_it_fails(job))

  def _say_if_it_fails(self, job: Callable[[], object]) -> None:
    """A full disk must not end a run: the next save may succeed."""
    try:
      job()
    except (UserError, OSError) as error:
      self._say(f"warning: {error}")

  def finish_background(self) -> None:
    """Waits for a save, and a while for an evaluation."""
    # It asks at every step whether to stop.
    self._evaluator.join(_EVALUATION_HANG_SECONDS)
    if self._evaluator.is_busy:
      self._say("warning: an evaluation hangs, and is left behind")
    if self._saver.is_busy:
      self._say("waiting for a save to finish")
      self._saver.join()

  # Evaluations.

  def _evaluate_meanwhile(self) -> None:
    if self._config.run.lockstep:
      self.evaluate()
    elif not self._evaluator.is_busy:
      self._evaluator.start(self.evaluate)

  def evaluate(self) -> Evaluation | None:
    """Evaluates the learner as it is now; None if the run stopped meanwhile."""
    parts, stop = self._parts, self._stop
    state, steps = parts.learner.state(), parts.ratio.env_steps
    updates = int(state.num_updates)
    training = not parts.report.has_ended
    num_episodes = self._config.evaluation.num_episodes

    def should_stop() -> bool:
      self._num_evaluation_steps += 1
      return stop.asked or training and stop.ended.is_set()

    self._say(f"update {updates}: evaluating {num_episodes} whole games")
    evaluation = (parts.evaluate or evaluate)(
      jax.device_put(state.params),
      agent=parts.agent,
      config=self._config,
      num_episodes=num_episodes,
      seed=self._config.run.seed + _EVAL_SEED_OFFSET,
      should_stop=should_stop,
      make_world=parts.make_world,
    )
    if len(evaluation.episodes) < num_episodes:
      return None
    self._say_if_it_fails(
      lambda: write_evaluation(
        parts.run_dir, evaluation, num_updates=updates, steps=steps
      )
    )
    mean = float(evaluation.returns.mean())
    parts.report.add_evaluation(mean)
    self._say_if_it_fails(
      lambda: parts.state.save_if_best(state, steps=steps, eval_return=mean)
    )
    self._say(f"evaluation: {summary(evaluation.returns)}")
    return evaluation

  def plot(self) -> None:
    """Draws the learning curve."""
    path = self._parts.run_dir / "learning_curve.png"
    try:
      plot_learning_curve(
        self._parts.run_dir / "log.csv", path, title=self._config.env.task
      )
    # A picture is never worth an error, whatever matplotlib stumbles over.
    except Exception as error:
      self._say(f"warning: cannot draw {path}: {first_line(error)}")
    else:
      self._say(f"wrote {path}")
