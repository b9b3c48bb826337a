"""The benchmark runs, at toy size; what it computes besides; no timings."""

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
import rich.console

from experiments.benchmark import __main__ as command
from experiments.benchmark import children, machine, quiet, report, results
from experiments.benchmark import compare as comparing
from experiments.benchmark.devices import find_device, peak_flops
from experiments.benchmark.learner import has_torch
from experiments.benchmark.legs import Settings, measure_leg
from experiments.benchmark.parts import allowed_steps
from experiments.benchmark.quiet import wait_until_quiet
from experiments.benchmark.workload import (
  learner_flops,
  random_batch,
  reference_config,
)
from r2d2_jax.config import ConfigError
from r2d2_jax.system.storage import origin
from tests.help import help_of

ROOT = pathlib.Path(__file__).parents[2]

# Without PyTorch in this environment, its counterpart is tested only where
# TORCH_PYTHON names an interpreter that has it.
TORCH_PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)


def assert_well_formed(result):
  for table in result.tables:
    assert table.rows, table.title
    for row in table.rows:
      assert len(row) == len(table.columns), table.title
      assert all(results.cell(x) for x in row), row


def test_spread_is_median_and_quartiles():
  spread = results.spread([4.0, 1.0, 3.0, 2.0, 5.0])
  assert spread[:3] == (3.0, 2.0, 4.0)
  assert spread.values == (4.0, 1.0, 3.0, 2.0, 5.0)
  assert str(spread) == "3 [2, 4]"


def test_ratio_is_of_medians_with_the_rounds_own_quartiles():
  # Medians 4 and 2; rounds 1, 2, 3: quartiles 1.5 and 2.5.
  ratio = results.ratio([2.0, 4.0, 12.0], [2.0, 2.0, 4.0])
  assert ratio[:3] == (2.0, 1.5, 2.5)


def test_aims():
  assert results.at_least("x", results.spread([1.0]), 1.0).met
  assert not results.at_least("x", results.spread([0.9]), 1.0).met
  assert not results.less_than("x", results.spread([2.0]), 2.0).met


def test_scaled_keeps_what_was_measured_in_step():
  rates = results.spread([1.0, 2.0, 4.0])._replace(median=3.0)
  assert results.scaled(rates, 0.5) == (1.5, 0.75, 1.5, (0.5, 1.0, 2.0))


def test_what_parts_allow():
  # 1/10 + 1/20 + 1/(4 x 5) = 0.1 + 0.05 + 0.05 seconds a step.
  rates = {"updates": 5.0, "world_steps": 10.0, "inference_steps": 20.0}
  assert allowed_steps(
    **rates, steps_per_update=4.0, on_host=True
  ) == pytest.approx(5.0)
  # The accelerator alone could do 10 a second, as the world.
  assert allowed_steps(
    **rates, steps_per_update=4.0, on_host=False
  ) == pytest.approx(10.0)
  assert allowed_steps(
    **rates, steps_per_update=1.0, on_host=False
  ) == pytest.approx(4.0)


class _Machine:
  """A clock, and cores that are busy as a list says."""

  def __init__(self, *busy):
    self.busy, self.seconds, self.said = list(busy), 0.0, []

  def look(self):
    self.seconds += 1
    return self.busy.pop(0) if len(self.busy) > 1 else self.busy[0]

  def wait(self, minutes):
    return wait_until_quiet(
      minutes,
      say=self.said.append,
      busy_cores=self.look,
      now=lambda: self.seconds,
    )


def test_a_quiet_machine_is_looked_at_once():
  quiet = _Machine(0.1)
  assert quiet.wait(10.0) == 0.1
  assert quiet.seconds == 1 and quiet.said == []


def test_a_busy_machine_is_a_warning():
  busy = _Machine(1.5)
  assert busy.wait(0.0) == 1.5
  (line,) = busy.said
  assert line.startswith("warning: others keep 1.5 cores busy")


def test_quiet_is_three_looks_in_a_row():
  machine = _Machine(2.0, 0.1, 0.1, 0.9, 0.1, 0.0, 0.05)
  assert machine.wait(1.0) == 0.05
  assert machine.seconds == 7
  assert machine.said == [
    "others keep 2.0 cores busy: waiting for quiet, at most 1 minutes"
  ]


def test_waiting_ends():
  machine = _Machine(2.0)
  assert machine.wait(0.5) == 2.0
  assert machine.seconds == 30
  assert machine.said[-1].startswith("warning: others keep 2.0 cores busy")


def test_busy_cores_counts_the_work_of_others():
  with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
    try:
      busy = machine.busy_cores(1.0)
    finally:
      other.kill()
  assert 0.05 < busy <= os.cpu_count() + 0.1


def _benchmark(*, speed, cost, date, cores=2, legs=("growth",)):
  """A benchmark.json of one comparison and one table, read back."""
  result = results.LegResult(
    [results.at_least("speed", results.spread(speed), 1.0)],
    [
      results.Table(
        "t",
        ("batch", "lanes", "us", "n"),
        [("small", 16, results.spread(cost), 3)],
      )
    ],
    [],
  )
  about = origin.describe() | {"date": date, "cores": cores, "toy": False}
  return about, {name: {"result": result} for name in legs}


def test_compares_with_an_earlier_run(tmp_path):
  measured = {"seconds": 1.0, "busy_cores": 0.0}
  about = {"command": "c", "load_average": 0.0}
  files = []
  for date, speed, cost in (
    ("monday", [1.0, 2.0, 3.0], [10.0, 11.0, 12.0]),
    ("tuesday", [2.2, 3.0, 2.1], [5.0, 6.0, 7.0]),
  ):
    head, legs = _benchmark(
      speed=speed, cost=cost, date=date, cores=2 if date == "monday" else 4
    )
    directory = tmp_path / date
    directory.mkdir()
    report.write(
      directory, head | about, {k: v | measured for k, v in legs.items()}
    )
    files.append(comparing.read_benchmark(directory / "benchmark.json"))
  (table,) = comparing.compare(*files)
  assert table.title == "growth: now / monday"
  # Quartiles 1.5 and 2.5 then, 2.15 and 2.6 now: they meet. 10.5 and 11.5
  # then, 5.5 and 6.5 now: apart. Ratios 2.2/2 [2.15/2.5, 2.6/1.5], 6/11
  # [5.5/11.5, 6.5/10.5].
  assert table.rows == [
    ("speed", "2", "2.2", "1.1 [0.86, 1.73]", "no"),
    ("small, 16: us", "11", "6", "0.545 [0.478, 0.619]", "down"),
  ]
  (up,) = comparing.compare(*files[::-1])
  assert up.rows[1][-1] == "up"
  assert comparing.differences(*files) == ["cores: 2 then, 4 now"]
  report.write_compared(tmp_path / "tuesday", [table], ["cores: 2 then"])
  text = (tmp_path / "tuesday" / "benchmark.md").read_text()
  assert "| small, 16: us | 11 | 6 | 0.545 [0.478, 0.619] | down |" in text


@pytest.mark.parametrize(
  "kind, dtype, expected",
  [
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 80GB HBM3", "float32", 494e12),
    ("NVIDIA H100 PCIe", "bfloat16", 756e12),
    ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12),
    ("NVIDIA L4", "float32", 60e12),
    ("NVIDIA L40S", "float32", None),
    ("cpu", "float32", None),
  ],
)
def test_published_peaks(kind, dtype, expected):
  assert peak_flops(kind, dtype) == expected


def test_a_device_that_is_not_here_is_refused(monkeypatch, tmp_path, capsys):
  assert find_device("cpu") == "cpu"
  with pytest.raises(ConfigError, match="--device gpu: .* JAX finds cpu here"):
    find_device("gpu")
  monkeypatch.setattr(children, "in_child", lambda f, *args: f(*args))
  output = tmp_path / "output"
  assert command.main(["--device", "gpu", "--output", str(output)]) == 2
  assert "install the extra 'gpu'" in capsys.readouterr().err
  assert not output.exists()


def test_two_rounds_say_nothing_of_noise():
  old, new = (
    {
      "about": {},
      "legs": {
        "growth": {
          "result": {
            "comparisons": [
              {"name": "x", "value": results.spread(values)._asdict()}
            ],
            "tables": [],
          }
        },
        "acting": {"error": "broke down"},
      },
    }
    for values in ([1.0, 1.0], [2.0, 2.0])
  )
  (table,) = comparing.compare(old, new)
  assert table.rows == [("x", "1", "2", "2 [2, 2]", "-")]


@pytest.mark.parametrize(
  "text", ["", "[]", "{}", '{"about": {}, "legs": {"a": {"result": {}}}}']
)
def test_what_is_no_benchmark_is_refused(text, tmp_path, capsys):
  path = tmp_path / "old.json"
  path.write_text(text)
  output = tmp_path / "output"
  assert command.main(["--compare", str(path), "--output", str(output)]) == 2
  assert "expected the benchmark.json" in capsys.readouterr().err
  assert not output.exists()


def test_ray_is_started_only_when_asked_for(tmp_path, monkeypatch):
  measured = []

  def note(function, name, settings):
    measured.append(name)
    raise RuntimeError("measures nothing")

  monkeypatch.setattr(children, "in_child", note)
  assert command.main(["--output", str(tmp_path)]) == 1
  assert measured == [
    "learner", "acting", "turns", "replay", "host", "end_to_end", "family",
    "start_up", "growth",
  ]  # fmt: skip
  measured.clear()
  command.main(["--legs", "cluster", "--output", str(tmp_path)])
  assert measured == ["cluster"]


def test_reference_work():
  # Convolutions 3 276 800 + 2 654 208 + 1 806 336 products per row, linear
  # 1 605 632, LSTM (512 + 7 + 512) 2048 = 2 111 488, heads 527 872: 11 982 336.
  # Small: 2 nets x 480 rows forward, twice as much backward over 320 rows, less
  # the first convolution's input gradient.
  small = 2 * (960 * 11_982_336 + 320 * (2 * 11_982_336 - 3_276_800))
  assert learner_flops(reference_config("small")) == small
  assert small == pytest.approx(36.2e9, rel=2e-3)
  big = learner_flops(reference_config("big"))
  assert big == pytest.approx(579.9e9, rel=2e-3)


def test_reference_batch_is_all_work():
  config = reference_config("toy")
  sequence = random_batch(config).sequence
  assert sequence.inputs.obs_t.shape == (2, 12, 84, 84)
  assert sequence.valid_t.all() and not sequence.inputs.is_first_t.any()


def test_help_is_quick_to_import():
  shown = help_of("experiments.benchmark.__main__", "tensorflow")
  for word in (
    "--legs",
    "--toy",
    "--output",
    "--torch-python",
    "--wait-quiet",
    "--device",
    "--compare",
    "end_to_end",
  ):
    assert word in shown


def test_wrong_arguments_are_refused(tmp_path, capsys):
  with pytest.raises(SystemExit) as exit_:
    command.main(["--legs", "flying"])
  assert exit_.value.code == 2
  (tmp_path / "file").touch()
  capsys.readouterr()
  assert command.main(["--output", str(tmp_path / "file" / "x")]) == 2
  assert capsys.readouterr().err.startswith("error: --output: cannot write")


def test_a_leg_that_breaks_leaves_the_others(tmp_path, monkeypatch, capsys):
  result = results.LegResult(
    [results.at_least("fast", results.spread([1.0, 2.0]), 1.0)],
    [results.Table("t", ("a", "b"), [("x", results.spread([3.0]))], "n")],
    ["something: not there"],
  )

  def in_child(function, name, settings):
    del function, settings
    if name == "acting":
      raise RuntimeError("no world")
    return result

  monkeypatch.setattr(children, "in_child", in_child)
  code = command.main(
    ["--toy", "--legs", "acting", "growth", "--output", str(tmp_path)]
  )
  assert code == 1
  assert "error: leg acting: no world" in capsys.readouterr().err
  written = json.loads((tmp_path / "benchmark.json").read_text())
  assert written["legs"]["acting"] == {"error": "RuntimeError: no world"}
  growth = written["legs"]["growth"]["result"]
  assert growth["comparisons"][0]["met"] is True
  assert growth["comparisons"][0]["value"]["values"] == [1.0, 2.0]
  assert growth["tables"][0]["rows"] == [
    [
      "x",
      {"median": 3.0, "quartile_1": 3.0, "quartile_3": 3.0, "values": [3.0]},
    ]
  ]
  about = written["about"]
  assert about["cores"] >= 1 and about["memory_gib"] > 0 and about["date"]
  assert about["versions"]["jax"] and "load_average" in about
  text = (tmp_path / "benchmark.md").read_text()
  assert "| fast | 1.5 [1.25, 1.75] | at least 1 | yes |" in text
  assert "| x | 3 [3, 3] |" in text
  assert "Failed: RuntimeError: no world" in text
  assert "Left out: something: not there" in text


def test_the_command_compares_and_waits(tmp_path, monkeypatch, capsys):
  speeds = iter([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
  waited = []

  def in_child(function, *args):
    del function, args
    value = results.spread(next(speeds))
    return results.LegResult([results.at_least("speed", value, 1.0)], [], [])

  def wait(minutes, *, say):
    del say
    waited.append(minutes)
    return 0.123

  monkeypatch.setattr(children, "in_child", in_child)
  monkeypatch.setattr(quiet, "wait_until_quiet", wait)
  legs = ["--legs", "growth", "--output"]
  assert command.main([*legs, str(tmp_path / "a")]) == 0
  old = tmp_path / "a" / "benchmark.json"
  written = json.loads(old.read_text())
  assert written["legs"]["growth"]["busy_cores"] == 0.12
  assert written["about"]["device"] == "cpu"
  capsys.readouterr()
  new = [*legs, str(tmp_path / "b"), "--compare", str(old)]
  assert command.main([*new, "--wait-quiet", "2.5"]) == 0
  assert waited == [0.0, 2.5]
  shown = capsys.readouterr().out
  assert "growth: now / 2" in shown
  assert "2.5 [1.8, 3.67] up" in " ".join(shown.split())
  text = (tmp_path / "b" / "benchmark.md").read_text()
  assert "| speed | 2 | 5 | 2.5 [1.8, 3.67] | up |" in text


def test_tables_are_as_wide_as_they_need_to_be():
  """Through a pipe a console has 80 columns, and cut them to two letters."""
  columns = tuple(f"a rather long head of column {i}" for i in range(12))
  row = (
    "impala (burn-in 40)",
    *[results.spread([123456.75 + i]) for i in range(11)],
  )
  result = results.LegResult(
    [], [results.Table("t", columns, [row])], ["x" * 99]
  )
  text = io.StringIO()
  report.show(rich.console.Console(file=text, width=80), result)
  lines = text.getvalue().splitlines()
  for name in columns:
    assert any(name in line for line in lines)
  assert sum("123,458 [123,458, 123,458]" in line for line in lines) == 1
  assert f"left out: {'x' * 99}" in lines


def test_the_command_compares_the_learner_with_torch(tmp_path):
  result = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.benchmark",
      "--toy",
      "--legs",
      "learner",
      "--torch-python",
      TORCH_PYTHON,
      "--output",
      str(tmp_path),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  leg = json.loads((tmp_path / "benchmark.json").read_text())["legs"]["learner"]
  (table,) = leg["result"]["tables"]
  (row,) = table["rows"]
  row = dict(zip(table["columns"], row, strict=True))
  assert row["here, ms"]["median"] > 0
  if has_torch(TORCH_PYTHON):
    assert not leg["result"]["skipped"]
    # Same parameters, same batch, same loss: the same work.
    assert float(row["first loss, PyTorch"]) == pytest.approx(
      float(row["first loss, here"]), rel=1e-4
    )
  else:
    assert "requirements-bench.txt" in leg["result"]["skipped"][0]
    assert row["PyTorch, ms"] == "-"


def test_a_child_that_ends_is_an_error_with_its_last_words():
  with pytest.raises(RuntimeError, match="No module named no_such_module"):
    children.Stepper(sys.executable, "no_such_module")


@pytest.mark.envpool
@pytest.mark.reverb
@pytest.mark.parametrize(
  "leg",
  [
    "acting",
    "turns",
    "host",
    pytest.param("replay", marks=pytest.mark.slow),
    pytest.param("end_to_end", marks=pytest.mark.slow),
    pytest.param("family", marks=pytest.mark.slow),
    "growth",
  ],
)
@pytest.mark.filterwarnings("ignore:Reverb listens")
def test_leg_runs(leg):
  pytest.importorskip("envpool")
  pytest.importorskip("reverb")
  result = measure_leg(leg, Settings(True, TORCH_PYTHON))
  assert_well_formed(result)
  assert not result.skipped


@pytest.mark.slow
@pytest.mark.envpool
@pytest.mark.reverb
@pytest.mark.parametrize("leg", ["learner", "acting"])
def test_the_legs_of_an_accelerator_run_without_one(leg):
  """All but the card: its cases at toy sizes, both sides on the processor."""
  pytest.importorskip("envpool")
  pytest.importorskip("reverb")
  result = measure_leg(leg, Settings(True, TORCH_PYTHON, "gpu"))
  assert_well_formed(result)
  table = result.tables[0]
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
  if not has_torch(TORCH_PYTHON):
    assert "requirements-bench.txt" in result.skipped[0]
    return
  name = "first loss" if leg == "learner" else "first mean value"
  for row, tolerance in zip(rows, (1e-4, 2e-2), strict=True):
    assert float(row[f"{name}, PyTorch"]) == pytest.approx(
      float(row[f"{name}, here"]), rel=tolerance
    )


@pytest.mark.slow
def test_start_up_runs():
  result = measure_leg("start_up", Settings(True, TORCH_PYTHON))
  assert_well_formed(result)
  rows = result.tables[-1].rows
  assert [row[:2] for row in rows] == [
    ("smoke", "nothing kept"),
    ("smoke", "first start"),
    ("smoke", "second start"),
  ]
  for _, _, action, update in rows:
    assert 0 < action.median < update.median
