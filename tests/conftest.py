"""What holds for every test. Nothing here imports jax."""

import os
import pathlib

from hypothesis import settings

# Golden values are the CPU's: an accelerator rounds its products more coarsely.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# TensorFlow otherwise reports at length that it found no GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Many tests, the processes that they start and the workers of pytest-xdist
# compile the same programs: once, and not again in the next run. Programs are
# found by their content, JAX's version and its flags; `make clean` removes
# them.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling is most of the work, and what LLVM does to loops as small as these
# saves none: without it a test file takes about two thirds of the time.
_FLAG = "--xla_backend_optimization_level=0"
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()

# Each worker has its share of the cores: XLA takes NPROC threads, and BLAS what
# the other two say.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
  for name in "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
    os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // _WORKERS)))

# The same examples in every run, on a machine of whatever speed: the first call
# of a property compiles, which any deadline would count.
settings.register_profile(
  "r2d2_jax", deadline=None, derandomize=True, database=None
)
settings.load_profile("r2d2_jax")

# The files that take longest, which begin first: at the end of the tests they
# would keep one worker busy and leave the others nothing. (With the makefile's
# --no-loadscope-reorder; otherwise files with many tests begin first.)
_LONGEST_FIRST = (
  "test_notebooks.py",
  "test_examples.py",
  "test_train.py",
  "test_doors.py",
  "test_data_parallel.py",
  "test_cores.py",
  "test_benchmark.py",
  "test_run.py",
)


def pytest_collection_modifyitems(items):
  place = {name: i for i, name in enumerate(_LONGEST_FIRST)}
  items.sort(key=lambda item: place.get(item.path.name, len(place)))
