"""What JAX compiles is kept for the next start, in a directory of one's own."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import pytest

from r2d2_jax.cli import evaluate, export, record
from r2d2_jax.config import ConfigError, UserError, validate
from r2d2_jax.presets import smoke
from r2d2_jax.system import compile_cache
from r2d2_jax.system.compile_cache import keep_compiled

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FLAGS = (
  "jax_compilation_cache_dir",
  "jax_compilation_cache_max_size",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def without_cache(tmp_path, monkeypatch):
  """JAX without the tests' cache; XDG_CACHE_HOME is a directory of the test."""
  before = {name: getattr(jax.config, name) for name in _FLAGS}
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.delenv(
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False
  )
  jax.config.update("jax_compilation_cache_dir", None)
  with warnings.catch_warnings():
    yield tmp_path / "cache" / "r2d2_jax" / "compiled"
  for name, value in before.items():
    jax.config.update(name, value)


def test_a_directory_of_ones_own(without_cache):
  assert keep_compiled(0.5) == without_cache
  assert without_cache.stat().st_mode & 0o777 == 0o700
  assert jax.config.jax_compilation_cache_dir == str(without_cache)
  assert jax.config.jax_compilation_cache_max_size == 2**29
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
  # The trial of writing has left nothing.
  assert [path.name for path in without_cache.iterdir()] == [".lockfile"]


def test_zero_keeps_nothing(without_cache):
  assert keep_compiled(0.0) is None
  assert jax.config.jax_compilation_cache_dir is None
  assert not without_cache.parent.exists()


def test_a_cache_that_jax_has_stays(without_cache, tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "other"))
  assert keep_compiled(0.5) is None
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "other")
  assert not without_cache.parent.exists()


def test_the_default_directory_is_the_homes(without_cache, monkeypatch):
  home = without_cache.parents[2]
  monkeypatch.setenv("HOME", str(home))
  for value in ("", "relative"):  # the specification ignores it
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_compiled(1.0) == home / ".cache" / "r2d2_jax" / "compiled"


def refused(match: str) -> None:
  with pytest.warns(UserWarning, match=match) as caught:
    assert keep_compiled(1.0) is None
  assert len(caught) == 1
  assert jax.config.jax_compilation_cache_dir is None


def test_a_place_that_cannot_be_used_is_one_warning(without_cache):
  without_cache.parent.parent.mkdir()
  without_cache.parent.touch()
  refused("what JAX compiles is not kept .*Not a directory|File exists")


def test_a_full_disk_is_one_warning(without_cache, monkeypatch):
  # No file may be larger than none at all.
  monkeypatch.setattr(
    compile_cache.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "wb")
  )
  refused("No space left on device")


def test_a_directory_that_others_can_write_is_refused(without_cache):
  without_cache.mkdir(parents=True)
  without_cache.chmod(0o770)
  refused("can be written by others; make it yours alone, mode 700")


def test_a_directory_of_another_user_is_refused(without_cache, monkeypatch):
  monkeypatch.setattr(os, "geteuid", lambda: 12345)
  refused("belongs to another user")


def test_without_the_package_for_locks_it_says_so(without_cache, monkeypatch):
  monkeypatch.setattr(
    compile_cache.importlib.util, "find_spec", lambda name: None
  )
  refused("pip install filelock")


def test_what_a_killed_process_left_half_written_is_removed(without_cache):
  without_cache.mkdir(parents=True)
  for name in ("a-cache", "a-atime", "b-cache", "c-atime", "other"):
    (without_cache / name).touch()
  keep_compiled(1.0)
  assert {path.name for path in without_cache.iterdir()} == {
    ".lockfile",
    "a-cache",
    "a-atime",
    "other",
  }


@pytest.mark.parametrize(
  "command, arguments",
  [
    (evaluate, ["--episodes", "1"]),
    (export, ["OUT", "--episodes", "1"]),
    (record, ["--out", "OUT.gif"]),
  ],
)
def test_commands_that_play_keep_programs(
  command, arguments, tmp_path, monkeypatch, capsys
):
  def keep(limit_gib):
    raise UserError(f"asked to keep {limit_gib} GiB")

  monkeypatch.setattr(compile_cache, "keep_compiled", keep)
  agent = ROOT / "pretrained" / "recall"
  arguments = [x.replace("OUT", str(tmp_path / "out")) for x in arguments]
  assert command.main([str(agent), *arguments]) == 2
  assert "asked to keep 1.0 GiB" in capsys.readouterr().err


def test_the_limit_has_bounds():
  validate(smoke().updated({"run.compile_cache_gib": 0.0}))
  with pytest.raises(ConfigError, match="run.compile_cache_gib: expected at"):
    validate(smoke().updated({"run.compile_cache_gib": -1.0}))


_PROGRAM = """
import sys, jax, jax.numpy as jnp, numpy as np
from r2d2_jax.presets import smoke
from r2d2_jax.system.train import train
result = train(
  smoke().updated({
    "run.lockstep": True, "run.total_steps": 4_000, "replay.backend": "local",
    "evaluation.num_episodes": 0, "checkpoint.save_replay": False,
    "run.compile_cache_gib": float(sys.argv[2]), "log.tensorboard": False,
  }), run_dir=sys.argv[1])
assert int(result.state.num_updates) > 0
print(sum(float(np.abs(x).sum()) for x in jax.tree.leaves(result.state.params)))
"""


def _python(tmp_path, program, *arguments):
  """Runs it with a cache directory of the test's, and none of JAX's own."""
  environ = {
    key: value for key, value in os.environ.items() if "CACHE" not in key
  }
  result = subprocess.run(
    [sys.executable, "-c", program, *arguments],
    cwd=ROOT,
    env=environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stderr == ""
  return result


def _start(tmp_path, name, limit_gib="1"):
  """A small run in a process of its own; what it learned, in one number."""
  result = _python(tmp_path, _PROGRAM, str(tmp_path / name), limit_gib)
  return float(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_second_start_finds_all_programs(tmp_path):
  """And learns the same: lock-step, bit for bit."""
  cache = tmp_path / "cache" / "r2d2_jax" / "compiled"
  alone = _start(tmp_path, "without", "0")
  assert not cache.exists()
  first = _start(tmp_path, "first")
  programs = {
    path.name: path.stat().st_mtime_ns for path in cache.glob("*-cache")
  }
  assert any(name.startswith("jit_learner_step") for name in programs)
  uses = {path.name: path.read_bytes() for path in cache.glob("*-atime")}
  second = _start(tmp_path, "second")
  assert {
    path.name: path.stat().st_mtime_ns for path in cache.glob("*-cache")
  } == programs
  # Each was read again.
  assert uses.keys() == {path.name for path in cache.glob("*-atime")}
  assert all((cache / name).read_bytes() != use for name, use in uses.items())
  assert alone == first == second


def test_the_least_recently_used_leave(tmp_path):
  """A limit of 8 kB, for twelve programs of 1.6 kB."""
  program = """if True:
    import jax
    from r2d2_jax.system.compile_cache import keep_compiled
    print(keep_compiled(8_000 / 2**30))
    for i in range(12):
      jax.jit(lambda x: x * i + x.sum())(1.0)
  """
  result = _python(tmp_path, program)
  cache = pathlib.Path(result.stdout.strip())
  sizes = [path.stat().st_size for path in cache.glob("*-cache")]
  assert 2 <= len(sizes) <= 5 and sum(sizes) <= 8_000
