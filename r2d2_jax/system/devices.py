"""Devices: those JAX finds, and those the learner splits batches over."""

import jax
from jax.extend.backend import clear_backends
from jax.sharding import Mesh
import numpy as np

from r2d2_jax.agent.learning import BATCH_AXIS
from r2d2_jax.config import Config, ConfigError, first_line

# What JAX's own wheels do not have.
_EXTRAS = {"cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}


# JAX's alias has no stub.
def find_devices() -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]
  """The devices that JAX finds here.

  Raises:
    ConfigError: JAX_PLATFORMS asks for one that is not there.
  """
  # JAX adds its flags when it is imported.
  asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
  try:
    return jax.local_devices()
  # AssertionError: CUDA without its plugin.
  except (RuntimeError, AssertionError) as error:
    if not asked:
      raise
    extras = {_EXTRAS[name] for name in asked.split(",") if name in _EXTRAS}
    raise ConfigError(
      f"JAX_PLATFORMS: expected a device of {asked!r}, but JAX finds"
      f" {_found_without_asking(asked)} here"
      + (f" ({first_line(error)})" if str(error) else "")
      + "; unset it"
      + "".join(
        f", or install the extra {extra!r}: pip install '.[{extra}]'"
        for extra in sorted(extras)
      )
    ) from error


def _found_without_asking(asked: str | None) -> str:
  """'cpu': the kinds of devices that JAX finds if nothing is asked for."""
  jax.config.update("jax_platforms", "")
  try:
    return ", ".join(
      sorted({device.platform for device in jax.local_devices()})
    )
  except RuntimeError:
    return "none"
  finally:
    # As if nobody had looked.
    clear_backends()
    jax.config.update("jax_platforms", asked)


def num_learner_devices(config: Config) -> int:
  """How many devices `run.learner_devices` asks for.

  Raises:
    ConfigError: JAX found fewer.
  """
  batch_size, count = config.agent.batch_size, config.run.learner_devices
  found = len(find_devices())
  if count > found:
    raise ConfigError(
      f"run.learner_devices: expected at most {found}, the devices that JAX"
      f" found here ({jax.default_backend()}), got {count}; 0 takes all that"
      " can split the batch evenly"
    )
  return count or max(n for n in range(1, found + 1) if batch_size % n == 0)


def learner_mesh(config: Config) -> Mesh | None:
  """The devices that `run.learner_devices` asks for; None for a single one.

  Of several processes that are joined (`jax.distributed`), all devices of all.

  Raises:
    ConfigError: JAX found fewer, or all of them do not split a batch evenly.
  """
  if jax.process_count() > 1:
    devices = jax.devices()
    if config.agent.batch_size % len(devices):
      raise ConfigError(
        f"agent.batch_size: expected a multiple of {len(devices)}, the devices"
        f" of {jax.process_count()} processes, got {config.agent.batch_size}"
      )
    return Mesh(np.array(devices), (BATCH_AXIS,))
  count = num_learner_devices(config)
  if count == 1:
    return None
  return Mesh(np.array(jax.local_devices()[:count]), (BATCH_AXIS,))
