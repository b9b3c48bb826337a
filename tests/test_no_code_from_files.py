"""Checkpoints and run directories never execute code when they are read."""

import ast
import json
import pathlib
import shutil
import signal
import sys
import zipfile

import numpy as np
import pytest

from r2d2_jax.cli.train import launch
from r2d2_jax.config import Config
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.rundir import checkpoints_dir

# A read that fails within orbax leaves futures behind, which complain when they
# are collected, in whatever test that is.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What turns bytes into calls.
_MODULES = {
  "pickle",
  "_pickle",
  "cPickle",
  "cloudpickle",
  "dill",
  "joblib",
  "marshal",
  "shelve",
  "runpy",
  "jsonpickle",
  # Its connections unpickle.
  "multiprocessing",
}
_CALLS = {
  "eval",
  "exec",
  "compile",
  "__import__",
  "builtins.eval",
  "builtins.exec",
  "builtins.compile",
  "torch.load",
  "yaml.load",
  "yaml.full_load",
  "yaml.unsafe_load",
  "pandas.read_pickle",
}
# allow_pickle=False must be spelled out: numpy has changed its default before.
_NUMPY_READERS = {
  "numpy.load",
  "numpy.lib.format.read_array",
  "numpy.lib.format.open_memmap",
}
# The one exception: a program talks over an anonymous pipe to a child process
# that it has just started. Both ends are this program; no file and no network
# is in between, and nobody else holds an end.
_EXCEPTIONS = {
  ("r2d2_jax/envs/child_world.py", "multiprocessing"),
  ("r2d2_jax/envs/gymnasium_lanes.py", "multiprocessing"),
  ("r2d2_jax/envs/vector_calls.py", "multiprocessing"),
  ("experiments/benchmark/children.py", "multiprocessing"),
  ("experiments/drills/drill.py", "multiprocessing"),
}


def _sources() -> list[str]:
  return sorted(
    str(path.relative_to(ROOT))
    for top in ("r2d2_jax", "experiments")
    for path in (ROOT / top).rglob("*.py")
  )


def _found(path: str, source: str) -> list[str]:
  """What in a source could execute what it reads; one line for each."""
  tree = ast.parse(source)
  names: dict[str, str] = {}  # as the source calls it -> in full
  found = []

  def imports(module: str) -> None:
    top = module.partition(".")[0]
    if top in _MODULES and (path, top) not in _EXCEPTIONS:
      found.append(f"{path} imports {module}")

  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        imports(alias.name)
        names[alias.asname or alias.name] = (
          alias.name if alias.asname else alias.name.partition(".")[0]
        )
    elif isinstance(node, ast.ImportFrom) and not node.level:
      imports(node.module)
      for alias in node.names:
        names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
  for node in ast.walk(tree):
    if isinstance(node, (ast.Name, ast.Attribute)):
      # Not only where it is called: it may be handed on.
      top, dot, rest = ast.unparse(node).partition(".")
      if (name := names.get(top, top) + dot + rest) in _CALLS:
        found.append(f"{path}:{node.lineno} {name}")
    if isinstance(node, ast.Call):
      top, dot, rest = ast.unparse(node.func).partition(".")
      if names.get(top, top) + dot + rest in _NUMPY_READERS:
        given = {k.arg: k.value for k in node.keywords}.get("allow_pickle")
        if not (isinstance(given, ast.Constant) and given.value is False):
          found.append(f"{path}:{node.lineno} without allow_pickle=False")
  return found


@pytest.mark.parametrize("path", _sources())
def test_no_source_executes_what_it_reads(path):
  assert not _found(path, (ROOT / path).read_text())


@pytest.mark.parametrize(
  "source",
  [
    "import pickle",
    "from pickle import loads",
    "import cloudpickle as c",
    "import multiprocessing.connection",
    "def f():\n  import dill",
    "eval(text)",
    "exec(text)",
    "compile(a, b, 'exec')",
    "__import__(name)",
    "import builtins\nbuiltins.eval(text)",
    "list(map(eval, lines))",
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import numpy as np\nnp.load(path, allow_pickle=allowed)",
    "import numpy\nnumpy.load(path)",
    "from numpy import load\nload(path)",
    "import numpy as np\nnp.lib.format.read_array(file)",
    "import torch\ntorch.load(path)",
    "import yaml\nyaml.load(text)",
    "from torch import load\nload(path)",
  ],
)
def test_what_executes_is_found(source):
  assert _found("r2d2_jax/system/a.py", source)


@pytest.mark.parametrize(
  "source",
  [
    "import numpy as np\nnp.load(path, allow_pickle=False)",
    "import re\nre.compile(text)",
    "jitted.lower(x).compile()",
    "import json\njson.load(file)",
    "self.load(path)",
  ],
)
def test_what_is_harmless_passes(source):
  assert not _found("r2d2_jax/system/a.py", source)


# A run whose files were exchanged.


class _Payload:
  """Unpickled, it creates a file."""

  def __init__(self, marker: pathlib.Path):
    self._marker = str(marker)

  def __reduce__(self):
    return (open, (self._marker, "w"))


def _malicious(marker: pathlib.Path) -> np.ndarray:
  return np.array([_Payload(marker)], object)


def _write_malicious_npy(path: pathlib.Path, marker: pathlib.Path) -> None:
  with path.open("wb") as file:  # np.save would add a suffix to the name
    np.lib.format.write_array(file, _malicious(marker), allow_pickle=True)


def test_the_payload_works(tmp_path):
  """Where pickles are allowed it runs: the tests below are of some use."""
  marker = tmp_path / "executed"
  _write_malicious_npy(tmp_path / "a.npy", marker)
  np.load(tmp_path / "a.npy", allow_pickle=True)
  assert marker.exists()


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory) -> Config:
  """A short run that can be resumed exactly."""
  config = smoke()
  run_dir = tmp_path_factory.mktemp("runs") / "run"
  config = config.updated(
    {
      "env.num_envs": 4,
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
      "agent.batch_size": 2,
      "replay.min_sequences": 4,
      "replay.capacity_sequences": 50,
      "run.total_steps": 200,
      "run.lockstep": True,
      "evaluation.num_episodes": 0,
      "log.tensorboard": False,
      "run.run_dir": str(run_dir),
    }
  )
  handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  assert launch(config) == 0
  yield config
  for number, handler in handlers.items():
    signal.signal(number, handler)


@pytest.fixture(name="copied")
def _copied(finished, tmp_path) -> tuple[Config, pathlib.Path]:
  """A copy of that run, and its checkpoint; going on would take more steps."""
  run_dir = tmp_path / "run"
  shutil.copytree(finished.run.run_dir, run_dir)
  config = finished.updated(
    {"run.total_steps": 208, "run.run_dir": str(run_dir)}
  )
  (checkpoint,) = checkpoints_dir(run_dir).iterdir()
  return config, checkpoint


def _npz(path: pathlib.Path, marker: pathlib.Path) -> None:
  """Every array of the archive is malicious."""
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
  with zipfile.ZipFile(path, "w") as archive:
    for name in names:
      with archive.open(name, "w") as file:
        np.lib.format.write_array(file, _malicious(marker), allow_pickle=True)


def _pickle(path: pathlib.Path, marker: pathlib.Path) -> None:
  """No file of numpy's at all: what follows its header, a bare pickle."""
  _write_malicious_npy(path, marker)
  content = path.read_bytes()
  path.write_bytes(content[content.index(b"\n") + 1 :])


def _numbers(path: pathlib.Path, marker: pathlib.Path) -> None:
  """One array, and no archive of them."""
  del marker
  with path.open("wb") as file:
    np.save(file, np.zeros(3))


def _half(path: pathlib.Path, marker: pathlib.Path) -> None:
  """The first half of the file."""
  del marker
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
  "name, write",
  [
    ("arrays.npz", _numbers),
    ("arrays.npz", _half),
    ("replay/weights.npy", _half),
    ("arrays.npz", _npz),
    ("arrays.npz", _write_malicious_npy),
    ("arrays.npz", _pickle),
    ("replay/weights.npy", _write_malicious_npy),
    ("replay/item_blocks.npy", _pickle),
    ("replay/obs_t.npy", _write_malicious_npy),
    ("probe/weights.npy", _write_malicious_npy),
    ("record.json", _pickle),
    ("learner/_METADATA", _pickle),
    ("learner/manifest.ocdbt", _pickle),
  ],
)
def test_malicious_files_are_refused_and_not_executed(
  name, write, copied, tmp_path, capsys
):
  config, checkpoint = copied
  marker, path = tmp_path / "executed", checkpoint / name
  assert path.exists()
  write(path, marker)
  for meta in checkpoint.glob("*/meta.json"):  # whoever exchanges a file
    text = json.loads(meta.read_text())
    text["file_bytes"] = {
      file: (meta.parent / file).stat().st_size for file in text["file_bytes"]
    }
    meta.write_text(json.dumps(text))
  capsys.readouterr()
  assert launch(config) == 2
  told = capsys.readouterr().err
  assert told.startswith("error: ") and told.count("\n") == 1
  assert str(checkpoint) in told and "Traceback" not in told
  assert not marker.exists()


# Whatever files hold, some code would have to look up what they name. Python
# tells of that; a hook cannot be removed, so it listens only at times.
_heard: list[str] | None = None


def _listen(event: str, arguments: tuple) -> None:
  if _heard is not None and event in (
    "pickle.find_class",
    "marshal.loads",
    "marshal.load",
    "exec",
    "import",
  ):
    _heard.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_listen)


@pytest.fixture(name="heard")
def _start_to_listen():
  global _heard
  _heard = []
  yield _heard
  _heard = None


def test_reading_an_agent_looks_up_nothing(finished, heard):
  run_dir = pathlib.Path(finished.run.run_dir)
  load_agent(run_dir)  # imports and compiles what it needs
  heard.clear()
  load_agent(run_dir)
  # jax and orbax import some of their own modules where they use them.
  assert not [x for x in heard if not x.startswith("import")]
  named = [x for x in heard if str(run_dir) in x]
  assert not named


def test_a_whole_resume_unpickles_nothing(copied, heard):
  config, _ = copied
  assert launch(config) == 0
  assert not [x for x in heard if x.startswith("pickle")]


def test_the_listener_hears(tmp_path, heard):
  _write_malicious_npy(tmp_path / "a.npy", tmp_path / "executed")
  np.load(tmp_path / "a.npy", allow_pickle=True)
  assert any(x.startswith("pickle.find_class") for x in heard)


def test_exceptions_are_in_use():
  for path, module in _EXCEPTIONS:
    assert f"import {module}" in (ROOT / path).read_text()
