"""A process of a sweep: one whole run, as `train` makes it."""

import threading
import traceback
from typing import NamedTuple

from r2d2_jax.cluster.roles import Host
from r2d2_jax.config import Config, UserError, first_line


class Outcome(NamedTuple):
  """How a run of a sweep ended."""

  state: str  # "done", "saved" (interrupted), "failed"
  words: str  # why it failed
  steps: int
  score: float  # mean of the last evaluation; NaN where there is none


class RunHost(Host):
  """Trains in a process of its own; says how far it is; stops when told to."""

  def __init__(self):
    """Nothing is done yet."""
    self._stop = threading.Event()
    self._row: dict = {}

  def run(self, config: Config) -> Outcome:
    """Trains until the run is over, or `stop` is called; never raises.

    Args:
      config: with run.run_dir.
    """
    from rich.console import Console

    from r2d2_jax.system.train import RunError, train

    try:
      result = train(
        config,
        run_dir=config.run.run_dir,
        on_row=self._note,
        stop=self._stop,
        console=Console(),
      )
    except (UserError, RunError) as error:
      return Outcome("failed", str(error), 0, float("nan"))
    except Exception as error:
      traceback.print_exc()
      words = f"{type(error).__name__}: {first_line(error)}"
      return Outcome("failed", words, 0, float("nan"))
    score = float("nan")
    if result.evaluation is not None and len(result.evaluation.returns):
      score = float(result.evaluation.returns.mean())
    state = "saved" if result.interrupted else "done"
    return Outcome(state, "", result.steps, score)

  def progress(self) -> dict:
    """The last row of the log; {} before the first."""
    return self._row

  def stop(self) -> None:
    """Asks the run to save and end."""
    self._stop.set()

  def _note(self, row: dict) -> None:
    self._row = row
