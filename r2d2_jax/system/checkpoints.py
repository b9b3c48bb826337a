"""Checkpoints of the learner in a run's directory, through orbax."""

import pathlib

import jax
import orbax.checkpoint as ocp

from r2d2_jax.types import LearnerState


class CheckpointError(RuntimeError):
  """A checkpoint cannot be read: says which, why, and what to do."""


class Checkpoints:
  """The last few learner states, with the run's counters beside them.

  Each save is written under a temporary name and renamed when it is whole: a
  save that was cut off is never taken for a checkpoint.
  """

  def __init__(self, run_dir: pathlib.Path, *, max_to_keep: int = 2):
    # async off: the state handed to `save` is a host copy already and small.
    self._manager = ocp.CheckpointManager(
        (run_dir / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, enable_async_checkpointing=False
        ),
    )

  def save(self, state: LearnerState, counters: dict[str, float]) -> None:
    """Writes one checkpoint, named after its number of updates.

    Args:
      state: host arrays.
      counters: numbers to resume from (JSON).
    """
    step = int(state.num_updates)
    if step in self._manager.all_steps():
      return
    self._manager.save(
        step,
        args=ocp.args.Composite(
            learner=ocp.args.StandardSave(state),
            counters=ocp.args.JsonSave(counters),
        ),
    )

  def restore(
      self, like: LearnerState
  ) -> tuple[LearnerState, dict[str, float]] | None:
    """The newest checkpoint, or None where there is none.

    Args:
      like: a state of the same structure, shapes and dtypes.

    Raises:
      CheckpointError: it belongs to another network or cannot be read.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    try:
      restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
              learner=ocp.args.StandardRestore(
                  jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
              ),
              counters=ocp.args.JsonRestore(),
          ),
      )
    except (ValueError, KeyError, TypeError, OSError) as error:
      raise CheckpointError(
          f"cannot read checkpoint {step} in {self._manager.directory} into"
          f" this network: {str(error).splitlines()[0]}; use the settings in"
          " the run's config.json, or another run directory"
      ) from error
    return restored["learner"], restored["counters"]

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()
