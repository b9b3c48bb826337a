"""Programs for accelerators that are not here: what is lowered, its cost."""

import importlib.util
import re
import subprocess
import sys

import jax
import pytest

from experiments.benchmark.workload import (
  PONG,
  learner_flops,
  reference_config,
)
from experiments.compile.__main__ import main
from experiments.compile.cost import (
  Cost,
  collectives,
  product_flops,
  roofline,
)
from experiments.compile.programs import (
  actor_program,
  export,
  learner_program,
)
from experiments.compile.report import steps_per_update
from experiments.compile.topology import Chip, chip_of
from r2d2_jax.agent import networks as networks_module
from r2d2_jax.config import ConfigError
from r2d2_jax.presets import PRESETS

TOY = reference_config("toy")


def _programs():
  return {
    "learner": learner_program(TOY, PONG),
    "actor": actor_program(TOY, PONG),
  }


def _counts(module: str) -> tuple[int, int, int, int]:
  """Convolutions, those of the first layer's stride, barriers, loops."""
  return (
    module.count("stablehlo.convolution"),
    module.count("stride = [4, 4]"),
    module.count("optimization_barrier"),
    module.count("stablehlo.while"),
  )


def _assert_no_cpus_way(program: str, platform: str) -> None:
  counts = _counts(export(_programs()[program], platform))
  # Learner: three layers, of two networks, burn-in and trace: 12, and the
  # trace's gradients of three kernels and two inputs. The first layer has its
  # stride in the first four and no blocks; the two barriers and the five loops
  # are the LSTM's (four unrolls, one of them backward too).
  assert counts == {"learner": (17, 4, 2, 5), "actor": (3, 1, 0, 1)}[program]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("program", ["learner", "actor"])
def test_no_cpus_way_is_lowered_for_accelerators(program, platform):
  _assert_no_cpus_way(program, platform)


def test_a_choice_made_while_tracing_would_be_seen(monkeypatch):
  def by_default_backend(cpu, other):
    return (cpu if jax.default_backend() == "cpu" else other).apply

  monkeypatch.setattr(networks_module, "_by_platform", by_default_backend)
  for program in "learner", "actor":
    with pytest.raises(AssertionError):
      _assert_no_cpus_way(program, "cuda")


def test_cpus_get_their_own_way():
  convolutions, strided, barriers, _ = _counts(
    export(_programs()["learner"], "cpu")
  )
  assert strided == 0 and barriers > 2 and convolutions < 17


def test_products_are_counted_as_in_the_benchmark():
  """Loops by their length, gradients of strided convolutions without zeros."""
  program = learner_program(TOY, PONG)
  jaxpr = program.function.trace(*program.arguments).jaxpr.jaxpr
  assert product_flops(jaxpr) == learner_flops(TOY)


def test_collectives_are_read_off_the_module():
  module = """
    %a = (f32[2,3]{1,0:T(8,128)}, bf16[4]{0}) all-reduce(%x, %y), channel_id=1
    %b = f32[]{:T(128)} all-reduce-start(%z)
    %c = f32[] all-reduce-done(%b)
    ROOT %d = u8[8]{0} all-gather(%w), dimensions={0}
  """
  assert collectives(module) == {"all-reduce": (2, 36), "all-gather": (1, 8)}


def test_roofline():
  cost = Cost(flops=200.0, traffic_bytes=30.0, memory_bytes=1, collectives={})
  bound = roofline(cost, Chip(100.0, 10.0, 1.0))
  assert (bound.updates_per_second, bound.by) == (1 / 3, "memory")
  bound = roofline(cost, Chip(10.0, 10.0, 1.0))
  assert (bound.updates_per_second, bound.by) == (1 / 20, "compute")


def test_steps_that_an_update_needs():
  # 64 items of 79 transitions, 0.8 trained rows a step.
  assert steps_per_update(PRESETS["paper"]()) == 64 * 79 / 0.8


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v5e:4", "v9:2x2", "v5e:axb"])
def test_names_that_are_no_slices(name):
  with pytest.raises(ConfigError, match="expected a generation and its chips"):
    chip_of(name)


def test_a_batch_that_the_chips_cannot_split():
  with pytest.raises(ConfigError, match="16 devices can split evenly, got 2"):
    learner_program(TOY, PONG, [None] * 16)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], "--topology v5e:4x4"),
    (["--topology", "v5e"], "got 'v5e'"),
    (["--preset", "huge", "--export", "cuda"], "--preset: expected one of"),
    (["--export", "cuda", "--steps-per-core", "0"], "expected > 0"),
  ],
)
def test_bad_command_lines(arguments, message, capsys, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert main(arguments) == 2
  assert message in capsys.readouterr().err


def test_without_libtpu_the_extra_is_named(capsys, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: None if name == "libtpu" else found(name, *rest),
  )
  assert main(["--topology", "v5e:2x2", "--preset", "smoke"]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "pip install '.[tpu]'" in error


def test_the_command_lowers(capsys, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert main(["--preset", "smoke", "--export", "tpu", "--batch", "8"]) == 0
  rows = capsys.readouterr().out.splitlines()[2:]
  cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
  assert [row[:4] for row in cells] == [
    ["learner", "tpu", "8", "float32"],
    ["actor", "tpu", "16", "float32"],
  ]


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the extra 'tpu'",
)
def test_the_command_compiles_for_a_slice():
  done = subprocess.run(
    [sys.executable, "-m", "experiments.compile", "--preset", "smoke"]
    + ["--topology", "v5e:1x1", "v5e:2x2"],
    capture_output=True,
    text=True,
    timeout=280,
  )
  assert done.returncode == 0, done.stderr
  one, four = done.stdout.splitlines()[2:4]
  assert "| v5e:1x1 | 1 | 16 | float32 |" in one and "nothing" in one
  assert "| v5e:2x2 | 4 | 16 | float32 |" in four
  assert re.search(r"\d all-reduce", four)
