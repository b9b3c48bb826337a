"""Which memory: the one place that knows both backends."""

from typing import TYPE_CHECKING, Union

from r2d2_jax import types
from r2d2_jax.config import Config
from r2d2_jax.replay.local import LocalReplay

if TYPE_CHECKING:
  from r2d2_jax.replay.tables import ReverbReplay


def make_replay(config: Config, spec: types.EnvSpec,
                core_state: types.CoreState) -> Union[LocalReplay, "ReverbReplay"]:
  """The memory that `config.replay.backend` names.

  Args:
    config: capacity, exponent, lengths of items, and the seed of local sampling.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.

  Raises:
    ValueError: another backend than 'reverb' or 'local'.
    ImportError: 'reverb' is asked for and not installed.
  """
  if config.replay.backend == "local":
    return LocalReplay(config, spec, core_state, seed=config.run.seed)
  if config.replay.backend != "reverb":
    raise ValueError(
        "expected the replay backend 'reverb' or 'local'; got "
        f"{config.replay.backend!r}")
  try:
    # Here and not above: importing TensorFlow takes seconds and half a gigabyte.
    from r2d2_jax.replay.tables import ReverbReplay  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "the replay backend 'reverb' needs dm-reverb and TensorFlow. Install "
        "them (see README), or take the replay backend 'local'.") from error
  return ReverbReplay(config, spec, core_state)
