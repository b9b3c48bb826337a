"""What holds for every test. Nothing here imports jax."""

import os

from hypothesis import settings

# Golden values are the CPU's: an accelerator rounds its products more coarsely.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# TensorFlow otherwise reports at length that it found no GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The same examples in every run, on a machine of whatever speed: the first call
# of a property compiles, which any deadline would count.
settings.register_profile(
    "r2d2_jax", deadline=None, derandomize=True, database=None
)
settings.load_profile("r2d2_jax")
