"""TPU slices by name, and what is published of their chips.

Libtpu, the wheel of jax's extra `tpu`, knows the slices and compiles for them;
no TPU is needed, nor looked for.
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

from r2d2_jax.config import ConfigError, MissingPackageError


class Chip(NamedTuple):
  """Published peaks of one chip.

  Source: the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud
  TPU documentation, docs.cloud.google.com/tpu/docs.
  """

  bf16_flops: float  # 1/s; float32 products take one bf16 pass by default
  memory_bytes_per_second: float
  memory_bytes: float


CHIPS = {
  "v4": Chip(275e12, 1200e9, 32 * 2**30),
  "v5e": Chip(197e12, 819e9, 16e9),
  "v5p": Chip(459e12, 2765e9, 95e9),
  "v6e": Chip(918e12, 1638e9, 32e9),
}

# Libtpu asks for these where it finds no machine's metadata; the topology that
# is asked for decides, not the type named here.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # Compilers do not stand in each other's way; the lock is for chips.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def chip_of(topology: str) -> Chip:
  """What is published of a topology's chips, "v5e:4x4" for example.

  Raises:
    ConfigError: it is not written so, or of an unknown generation.
  """
  generation = topology.partition(":")[0]
  if generation not in CHIPS or not re.fullmatch(
    r"\w+:\d+x\d+(x\d+)?", topology
  ):
    raise ConfigError(
      "--topology: expected a generation and its chips along each axis, as"
      f" v5e:4x4 or v4:2x2x1, got {topology!r}; generations:"
      f" {', '.join(CHIPS)}"
    )
  return CHIPS[generation]


def slice_devices(topology: str) -> list[Any]:
  """The devices of a TPU slice, to compile for: one for each chip.

  Call it before anything else starts a backend of JAX in this process.

  Args:
    topology: "v5e:4x4" for example.

  Raises:
    MissingPackageError: libtpu is not installed.
    ConfigError: libtpu knows no such slice.
  """
  chip_of(topology)
  if importlib.util.find_spec("libtpu") is None:
    raise MissingPackageError(
      "compiling for a TPU needs libtpu, the compiler; install the extra"
      " 'tpu': pip install '.[tpu]' (--export lowers without it)"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  generation, _, shape = topology.partition(":")
  # A host has at most 2 x 2 chips of one layer.
  bounds = [min(2, int(size)) for size in shape.split("x")[:2]] + [1]
  # Of a v4's two cores one device is made, as the runtime does it.
  options = {"chip_config_name": "megacore"} if generation == "v4" else {}
  try:
    description = topologies.get_topology_desc(
      topology, "tpu", chips_per_host_bounds=bounds, **options
    )
  except RuntimeError as error:
    raise ConfigError(
      f"--topology {topology}: libtpu refuses it: {error}; the Cloud TPU"
      " documentation lists the slices of each generation"
    ) from error
  return description.devices
