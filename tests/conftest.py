"""What holds for every test. Nothing here imports jax."""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# Golden values are the CPU's: an accelerator rounds its products more coarsely.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# TensorFlow otherwise reports at length that it found no GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Many tests, and the processes that they start, compile the same programs: once.
_COMPILED = tempfile.mkdtemp(prefix="r2d2_jax_compiled_")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# The same examples in every run, on a machine of whatever speed: the first call
# of a property compiles, which any deadline would count.
settings.register_profile(
    "r2d2_jax", deadline=None, derandomize=True, database=None
)
settings.load_profile("r2d2_jax")
