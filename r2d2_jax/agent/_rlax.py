"""The functions of rlax that the agent uses, without rlax's own imports.

`import rlax` executes every module of the package. Some of those import
distrax, distrax imports TensorFlow Probability's nightly build, and
only some nights' builds work with a given JAX, and all of them import whatever
TensorFlow they find (8 s, 500 MB) or raise ImportError where it is older than
they like, which Reverb's is. The agent's functions need none of it: their
modules import jax, chex and `rlax._src.base`.

So these modules are executed here from rlax's own files, and by Python's own
loader, but outside `sys.modules`: `from rlax._src import base` inside them
gives a copy of `base` loaded in the same way, and every other import is the
ordinary one. Nothing global changes, not even for a moment: a program that
imports rlax itself, before, afterwards or in another thread, gets rlax as it
is.
"""

import builtins
from importlib import machinery
import importlib.util
import types


def _import(name, globals=None, locals=None, fromlist=(), level=0):
  """Python's import, except that `from rlax._src import a` loads a."""
  if name == "rlax._src" and fromlist:
    return types.SimpleNamespace(**{part: load(part) for part in fromlist})
  return builtins.__import__(name, globals, locals, fromlist, level)


def load(name: str) -> types.ModuleType:
  """Executes one module of rlax, and what it imports of rlax, by itself.

  Args:
    name: the module's name below `rlax._src`, such as "multistep".

  Returns:
    A new module, which is not in `sys.modules`.

  Raises:
    ImportError: rlax is not installed, or this release has no such module.
  """
  spec, path = None, None
  for full_name in ("rlax", "rlax._src", f"rlax._src.{name}"):
    spec = machinery.PathFinder.find_spec(full_name, path)
    if spec is None:
      raise ImportError(
        f"{full_name} was not found; the agent needs rlax 0.1.8 or a later"
        " release that still has it: pip install rlax"
      )
    path = spec.submodule_search_locations
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  # An import statement calls the `__import__` of its module's own builtins.
  vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
  spec.loader.exec_module(module)
  return module


n_step_bootstrapped_returns = load("multistep").n_step_bootstrapped_returns
signed_hyperbolic = load("transforms").signed_hyperbolic
vtrace = load("vtrace").vtrace
