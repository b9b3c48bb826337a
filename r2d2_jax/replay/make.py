"""Which memory: the one place that knows both backends."""

import pathlib

from r2d2_jax import types
from r2d2_jax.config import Config, MissingPackageError
from r2d2_jax.replay.checks import ReplayError
from r2d2_jax.replay.interface import Replay
from r2d2_jax.replay.largest import LargestFirst
from r2d2_jax.replay.local import LocalReplay


def make_replay(
  config: Config,
  spec: types.EnvSpec,
  core_state: types.CoreState,
  *,
  address: str | None = None,
  restore_from: pathlib.Path | None = None,
  scratch: pathlib.Path | None = None,
) -> Replay:
  """The memory that `config.replay.backend` names, with its first priorities.

  Args:
    config: capacity, exponent, lengths of items, and the seed of local
      sampling.
    spec: what the world says of itself.
    core_state: an example, with one leading dimension, for shapes and dtypes.
    address: "host:port" of a Reverb server in another process; None starts one
      here. The local replay has none.
    restore_from: directory of the `save` of such a replay, which it goes on
      from and leaves as it is; None starts empty.
    scratch: where Reverb writes what `save` then moves to its place: a
      directory of its own on the same file system, emptied here. None takes a
      temporary one. The local replay needs none.

  Raises:
    ReplayError: what is in `restore_from` is not whole, or of other settings.
    ValueError: another backend than 'reverb' or 'local'.
    MissingPackageError: 'reverb' is asked for and not installed.
  """
  replay = _make_backend(
    config, spec, core_state, address, restore_from, scratch
  )
  if config.replay.initial_priority == "actor":
    return replay
  try:
    return LargestFirst(replay, restore_from=restore_from)
  except ReplayError:
    replay.close()
    raise


def _make_backend(
  config: Config,
  spec: types.EnvSpec,
  core_state: types.CoreState,
  address: str | None,
  restore_from: pathlib.Path | None,
  scratch: pathlib.Path | None,
) -> Replay:
  if config.replay.backend == "local":
    return LocalReplay(
      config, spec, core_state, seed=config.run.seed, restore_from=restore_from
    )
  if config.replay.backend != "reverb":
    raise ValueError(
      "expected the replay backend 'reverb' or 'local'; got "
      f"{config.replay.backend!r}"
    )
  try:
    # Here and not above: importing TensorFlow takes seconds and half a
    # gigabyte.
    from r2d2_jax.replay.reverb import ReverbReplay
  except Exception as error:  # where memory is short, TensorFlow's own kinds
    raise MissingPackageError(
      "the replay backend 'reverb' needs dm-reverb and TensorFlow, which cannot"
      f" be imported ({error}). Install them (see README) and give them a "
      "gigabyte of memory, or take the replay backend 'local'."
    ) from error
  return ReverbReplay(
    config,
    spec,
    core_state,
    address=address,
    restore_from=restore_from,
    scratch=scratch,
  )
