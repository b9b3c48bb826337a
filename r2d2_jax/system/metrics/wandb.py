"""The sink for Weights & Biases."""

import importlib
import pathlib
import secrets

from r2d2_jax.config import ConfigError, first_line
from r2d2_jax.system.metrics.columns import Row, tag
from r2d2_jax.system.metrics.points import Histograms, bars, scalars
from r2d2_jax.system.storage.files import read_text, replace_file

_WANDB_ID_FILE = "wandb_id"
# The newest W&B wants a newer protobuf than TensorFlow, which Reverb needs.
_INSTALL_WANDB = "pip install wandb 'protobuf<5'"


class WandbSink:
  """A run of Weights & Biases; a resumed run goes on in the same one.

  W&B cannot take back what it was given. So rows that a resumed run repeats are
  left out until it is past the last one before the interruption.
  """

  def __init__(self, project: str, run_dir: pathlib.Path, config_dict: dict):
    """Starts or continues the W&B run; WANDB_MODE=offline needs no network.

    Args:
      project: of W&B.
      run_dir: keeps the run's id, and W&B's own files.
      config_dict: the settings, for W&B's tables.

    Raises:
      ConfigError: the package is missing, or W&B would not start.
    """
    try:
      wandb = importlib.import_module("wandb")
    except ImportError as error:
      raise ConfigError(
        f"log.wandb_project: {project!r} needs the package wandb:"
        f" {first_line(error)}; {_INSTALL_WANDB}, or leave log.wandb_project"
        " empty"
      ) from error
    id_file = run_dir / _WANDB_ID_FILE
    run_id = read_text(id_file) if id_file.exists() else ""
    if not run_id:
      run_id = secrets.token_hex(4)
      replace_file(id_file, run_id.encode())
    try:
      self._run = wandb.init(
        project=project,
        dir=str(run_dir),
        id=run_id,
        name=run_dir.name,
        config=config_dict,
        allow_val_change=True,  # a resumed run may have changed settings
        resume="allow",
        # The live display redraws itself: no text for a log.
        settings={"console": "off"},
      )
    except Exception as error:
      raise ConfigError(
        f"log.wandb_project: W&B would not start: {first_line(error)}; log in"
        " with `wandb login`, set WANDB_MODE=offline to upload later with"
        " `wandb sync`, or leave log.wandb_project empty"
      ) from error
    self._histogram = wandb.Histogram

  def write(self, row: Row, histograms: Histograms) -> None:
    """See `Sink`."""
    if row["steps"] < self._run.step:
      return
    histogram_bars = {
      tag(name): self._histogram(np_histogram=bars(name, array))
      for name, array in histograms.items()
    }
    self._run.log({**scalars(row), **histogram_bars}, step=row["steps"])

  def close(self) -> None:
    """Waits until everything is uploaded."""
    self._run.finish()
