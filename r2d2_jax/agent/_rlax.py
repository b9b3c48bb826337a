"""`rlax`, imported so that a TensorFlow beside it does no harm.

rlax imports TensorFlow Probability's JAX substrate. That loads TensorFlow where
it finds one (8 s, 500 MB) and raises ImportError where the one that is already
loaded is older than it likes, which Reverb's (2.15) is. The substrate works
without TensorFlow, so TensorFlow is hidden while rlax is imported.
"""

import sys

_loaded = {
    name: sys.modules.pop(name)
    for name in list(sys.modules)
    if name == "tensorflow" or name.startswith("tensorflow.")
}
sys.modules["tensorflow"] = None  # makes `import tensorflow` an ImportError
try:
  import rlax  # pylint: disable=unused-import
finally:
  del sys.modules["tensorflow"]
  sys.modules.update(_loaded)
