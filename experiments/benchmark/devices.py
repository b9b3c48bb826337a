"""The devices that can be measured: whether they are here, and their peaks."""

import os

from r2d2_jax.config import ConfigError

# Published peaks of dense products in TFLOP/s, by the beginning of the device's
# kind: of TF32, which JAX and PyTorch (as it is set here) take for float32's
# products, and of bfloat16. NVIDIA's data sheets, halved where they count
# sparsity.
_PEAKS = {
  "NVIDIA A100": {"float32": 156.0, "bfloat16": 312.0},
  "NVIDIA H100 PCIe": {"float32": 378.0, "bfloat16": 756.0},
  "NVIDIA H100": {"float32": 494.0, "bfloat16": 989.0},
  "NVIDIA H200": {"float32": 494.0, "bfloat16": 989.0},
  "NVIDIA L4": {"float32": 60.0, "bfloat16": 121.0},
}


def peak_flops(kind: str, dtype: str) -> float | None:
  """FLOP/s of a kind of device at most, as published; None where unknown."""
  for name, peaks in _PEAKS.items():
    if (
      kind == name or kind.startswith(f"{name} ") or kind.startswith(f"{name}-")
    ):
      return 1e12 * peaks[dtype]
  return None


def find_device(device: str) -> str:
  """The kind of the device that JAX finds here, "NVIDIA H100 80GB HBM3".

  To be called in a process of its own: it takes the accelerator's memory.

  Args:
    device: "cpu" or "gpu".

  Raises:
    ConfigError: JAX finds none of these.
  """
  import jax

  found = jax.local_devices()
  for each in found:
    if each.platform == device:
      return each.device_kind
  kinds = ", ".join(sorted({each.platform for each in found}))
  asked = os.environ.get("JAX_PLATFORMS")
  raise ConfigError(
    f"--device {device}: expected a device of this kind, but JAX finds {kinds}"
    " here"
    + (f" (JAX_PLATFORMS={asked})" if asked else "")
    + "; install the extra 'gpu' (pip install '.[gpu]') where there is a card,"
    " or measure with --device cpu"
  )
