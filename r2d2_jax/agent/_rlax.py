"""`rlax`, imported so that an old TensorFlow beside it does no harm.

rlax imports TensorFlow Probability's JAX substrate, whose package, where it
finds TensorFlow already loaded, insists on a newer one than Reverb's (2.15) and
raises ImportError. The JAX substrate needs no TensorFlow at all, so TensorFlow
is hidden while rlax is imported; this also saves its seconds of import time.
"""

import sys

_tensorflow = sys.modules.pop("tensorflow", None)
try:
  import rlax  # pylint: disable=unused-import
finally:
  if _tensorflow is not None:
    sys.modules["tensorflow"] = _tensorflow
