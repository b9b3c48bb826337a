"""The study of POPGym's tasks, as far as it goes without POPGym."""

import pathlib

import pytest

from experiments import popgym
from experiments.studies.study import make_runs
from r2d2_jax.config import validate
from tests.help import help_of


@pytest.mark.parametrize(
  "size, steps", [("small", 1_500_000), ("paper", 15_000_000)]
)
def test_three_tasks_with_and_without_memory(size, steps):
  runs = make_runs(popgym.study(size), out=pathlib.Path("out"))
  assert len(runs) == 3 * 2 * 3
  assert {run.task for run in runs} == {
    f"gymnasium:popgym:popgym-{name}-v0"
    for name in ("RepeatPreviousEasy", "CountRecallEasy", "AutoencodeEasy")
  }
  for run in runs:
    validate(run.config)
    assert run.config.run.total_steps == steps
    memory = run.config.network.core
    assert memory == {"r2d2": "lstm", "feedforward": "feedforward"}[run.arm]
  # Nothing else differs.
  for first, second in zip(runs[::2], runs[1::2], strict=True):
    network = {
      "network.core": "lstm",
      "network.core_memory_rows": first.config.network.core_memory_rows,
      "run.run_dir": first.config.run.run_dir,
    }
    assert second.config.updated(network) == first.config


def test_without_popgym_it_says_what_to_install(tmp_path, capsys):
  try:
    import popgym as installed  # noqa: F401
  except ImportError:
    arguments = ["--out", str(tmp_path), "--tasks", "RepeatPreviousEasy"]
    assert popgym.main(arguments) == 2
    assert "popgym" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
  else:
    pytest.skip("it is installed")


def test_help_is_quick_and_imports_no_jax():
  assert "--tasks" in help_of(popgym.__name__, "matplotlib", "numpy")
