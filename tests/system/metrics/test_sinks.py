"""Event files read back by TensorBoard's own code; W&B by a stand-in."""

import sys
import types

import numpy as np
import pytest

from r2d2_jax.config import ConfigError
from r2d2_jax.presets import laptop
from r2d2_jax.system.metrics.sinks import TensorBoardSink, WandbSink, make_sinks
from tests.system.metrics.example_row import example_row, first_row

# TensorBoard then reads files with its own code: importing TensorFlow takes
# long.
sys.modules.setdefault(
  "tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf")
)

_HISTOGRAMS = {
  "lag_updates": np.array([3, 3, 7, 99]),
  "td_abs_by_row": np.array([0.5, 0.0, 0.25], np.float32),
  "samples_by_lane": np.array([0, 4, 0, 2]),
}


def read(directory):
  """What TensorBoard finds in a directory."""
  module = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
  )
  accumulator = module.EventAccumulator(
    str(directory),
    size_guidance={module.SCALARS: 0, module.HISTOGRAMS: 0},
  )
  return accumulator.Reload()


def steps_of(directory, tag="learner/loss"):
  return [event.step for event in read(directory).Scalars(tag)]


def a_config(settings):
  return laptop().updated(settings)


# TensorBoard.


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path):
  sink = TensorBoardSink(tmp_path, steps=0)
  sink.write(first_row(), {})
  sink.write(example_row(steps=100, loss=0.25), _HISTOGRAMS)
  sink.write(example_row(steps=200, loss=0.125), {})
  # Nothing was closed: as if the process were killed now.
  found = read(tmp_path)
  assert [(e.step, e.value) for e in found.Scalars("learner/loss")] == [
    (100, 0.25),
    (200, 0.125),
  ]
  assert [e.step for e in found.Scalars("train/updates")] == [0, 100, 200]


def test_names_begin_with_their_group(tmp_path):
  policy = {"value_mean": 0.5, "policy_entropy": 1.0, "rho_clipped": 0.3}
  TensorBoardSink(tmp_path, steps=0).write(
    example_row(eval_return=1.0, **policy), _HISTOGRAMS
  )
  tags = read(tmp_path).Tags()
  names = {tag.split("/")[1] for tag in tags["scalars"]}
  assert names == set(example_row()) - {"bottleneck"}  # a word, not a number
  groups = {
    "return_mean": "train",
    "frames_per_second": "train",
    "grad_norm": "learner",
    "reuse_mean": "replay",
    "dq_last": "health",
    "share_step": "legs",
  }
  for name, group in groups.items():
    assert f"{group}/{name}" in tags["scalars"]
  assert set(tags["histograms"]) == {
    "health/lag_updates",
    "learner/td_abs_by_row",
    "replay/samples_by_lane",
  }


def test_what_is_nan_has_no_point(tmp_path):
  TensorBoardSink(tmp_path, steps=0).write(example_row(), {})
  assert "train/eval_return" not in read(tmp_path).Tags()["scalars"]


def shown(tmp_path, name, values):
  """Left edge, right edge and height of each bar that TensorBoard draws."""
  data_compat = pytest.importorskip("tensorboard.data_compat")
  loader = pytest.importorskip(
    "tensorboard.backend.event_processing.event_file_loader"
  )
  TensorBoardSink(tmp_path, steps=0).write(example_row(), {name: values})
  (path,) = tmp_path.iterdir()
  for event in loader.LegacyEventFileLoader(str(path)).Load():
    for value in event.summary.value:
      if value.tag.endswith(name):
        tensor = data_compat.migrate_value(value).tensor
        return np.frombuffer(tensor.tensor_content, np.float32).reshape(-1, 3)
  raise AssertionError(f"no {name}")


def test_lags_are_counted(tmp_path):
  bars = shown(tmp_path, "lag_updates", np.array([3, 3, 7, 99]))
  # 50 bars from 0 to 100; what is empty at both ends is left out.
  assert bars[:, 2].sum() == 4
  assert bars[0].tolist() == [2.0, 4.0, 2.0]
  assert bars[-1].tolist() == [98.0, 100.0, 1.0]


def test_heights_stand_at_their_position(tmp_path):
  bars = shown(tmp_path, "td_abs_by_row", np.array([0, 0.5, 0, 0.25, 0]))
  assert bars.tolist() == [[1, 2, 0.5], [2, 3, 0.0], [3, 4, 0.25]]


def test_more_lanes_than_bars_are_drawn_in_groups(tmp_path):
  bars = shown(tmp_path, "samples_by_lane", np.ones(1025, int))
  assert len(bars) == 342
  assert bars[0].tolist() == [0, 3, 3] and bars[-1].tolist() == [1023, 1025, 2]


def test_histograms_of_nothing_are_left_out(tmp_path):
  TensorBoardSink(tmp_path, steps=0).write(
    example_row(),
    {"lag_updates": np.zeros(0, int), "samples_by_lane": np.zeros(4, int)},
  )
  assert not read(tmp_path).Tags()["histograms"]


def test_a_resumed_run_hides_what_came_after_its_checkpoint(tmp_path):
  before = TensorBoardSink(tmp_path, steps=0)
  for steps in (100, 200, 300):
    before.write(example_row(steps=steps), {})
  after = TensorBoardSink(tmp_path, steps=200)
  after.write(example_row(steps=250), {})
  assert steps_of(tmp_path) == [100, 200, 250]


def test_a_run_that_begins_anew_hides_everything(tmp_path):
  TensorBoardSink(tmp_path, steps=0).write(first_row(), {})
  TensorBoardSink(tmp_path, steps=0).write(example_row(steps=50), {})
  assert steps_of(tmp_path, "train/updates") == [50]


def test_half_a_row_is_cut_off_by_the_next(tmp_path):
  sink = TensorBoardSink(tmp_path, steps=0)
  sink.write(example_row(steps=100), {})
  (path,) = tmp_path.iterdir()
  with path.open("ab") as f:
    f.write(b"half a record")  # the disk was full
  sink.write(example_row(steps=200), {})
  assert steps_of(tmp_path) == [100, 200]


# Weights & Biases.


class FakeRun:
  """Records what it is given."""

  def __init__(self, arguments):
    self.arguments = arguments
    self.step = 0
    self.logged = []
    self.is_finished = False

  def log(self, values, step):
    self.logged.append((step, values))
    self.step = step

  def finish(self):
    self.is_finished = True


@pytest.fixture(name="wandb")
def fixture_wandb(monkeypatch):
  module = types.ModuleType("wandb")
  module.runs = []

  def init(**arguments):
    module.runs.append(FakeRun(arguments))
    return module.runs[-1]

  module.init = init
  module.Histogram = lambda np_histogram: np_histogram
  monkeypatch.setitem(sys.modules, "wandb", module)
  return module


def test_wandb_gets_rows_and_histograms(wandb, tmp_path):
  sink = WandbSink("p", tmp_path, {"agent": {"n_step": 5}})
  sink.write(example_row(steps=100, loss=0.25), _HISTOGRAMS)
  sink.close()
  (run,) = wandb.runs
  assert run.arguments["project"] == "p"
  assert run.arguments["config"] == {"agent": {"n_step": 5}}
  assert run.arguments["dir"] == str(tmp_path)
  ((step, values),) = run.logged
  assert step == 100 and values["learner/loss"] == 0.25
  assert "train/eval_return" not in values  # NaN
  assert "train/bottleneck" not in values  # a word
  heights, edges = values["learner/td_abs_by_row"]
  assert heights.tolist() == [0.5, 0.0, 0.25] and edges.tolist() == [0, 1, 2, 3]
  assert values["health/lag_updates"][0].sum() == 4
  assert run.is_finished


def test_wandb_goes_on_in_the_same_run(wandb, tmp_path):
  WandbSink("p", tmp_path, {})
  WandbSink("p", tmp_path, {})
  other = tmp_path / "other"
  other.mkdir()
  WandbSink("p", other, {})
  first, second, elsewhere = (run.arguments for run in wandb.runs)
  assert first["id"] == second["id"] != elsewhere["id"]
  assert first["resume"] == "allow"


def test_wandb_is_not_given_what_it_would_refuse(wandb, tmp_path):
  sink = WandbSink("p", tmp_path, {})
  wandb.runs[0].step = 201  # the last row before the interruption was at 200
  for steps in (150, 200, 250, 250):
    sink.write(example_row(steps=steps), {})
  assert [step for step, _ in wandb.runs[0].logged] == [250, 250]


def test_without_the_package_nothing_starts(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(
    ConfigError, match="pip install wandb.*, or leave log.wandb"
  ):
    make_sinks(
      a_config({"log.wandb_project": "p"}), tmp_path, steps=0, say=print
    )
  assert not list(tmp_path.iterdir())


def test_a_login_that_fails_says_what_to_do(wandb, tmp_path):
  def init(**arguments):
    raise RuntimeError("api_key not configured\n  a hint")

  wandb.init = init
  with pytest.raises(ConfigError, match="api_key not configured; log in with"):
    WandbSink("p", tmp_path, {})


# Both.


def test_the_settings_choose(wandb, tmp_path):
  say = pytest.fail
  off = a_config({"log.tensorboard": False})
  assert not make_sinks(off, tmp_path, steps=0, say=say)
  sinks = make_sinks(
    a_config({"log.wandb_project": "p"}), tmp_path, steps=0, say=say
  )
  assert len(sinks) == 2
  for sink in sinks:
    sink.write(example_row(), _HISTOGRAMS)
    sink.close()
  assert steps_of(tmp_path / "tensorboard") == [example_row()["steps"]]
  assert wandb.runs[0].is_finished
  assert wandb.runs[0].arguments["config"]["env"]["task"] == "Pong"


def test_without_tensorboardx_a_run_says_so_and_goes_on(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  said = []
  assert not make_sinks(a_config({}), tmp_path, steps=0, say=said.append)
  assert len(said) == 1 and "pip install tensorboardX" in said[0]


def test_a_sink_that_fails_says_so_once_and_goes_on(tmp_path):
  (tmp_path / "tensorboard").touch()  # a file where the directory should be
  said = []
  (sink,) = make_sinks(a_config({}), tmp_path, steps=0, say=said.append)
  for steps in (100, 200):
    sink.write(example_row(steps=steps), _HISTOGRAMS)
  assert len(said) == 1 and "TensorBoard misses something" in said[0]
  (tmp_path / "tensorboard").unlink()
  sink.write(example_row(steps=300), {})
  sink.close()
  assert len(said) == 1
  assert steps_of(tmp_path / "tensorboard") == [300]


def test_a_network_that_fails_says_so_once_and_goes_on(wandb, tmp_path):
  said = []
  (sink,) = make_sinks(
    a_config({"log.tensorboard": False, "log.wandb_project": "p"}),
    tmp_path,
    steps=0,
    say=said.append,
  )

  def fail(*arguments, **named):
    raise ConnectionError("no route to host")

  wandb.runs[0].log = wandb.runs[0].finish = fail
  sink.write(example_row(), {})
  sink.write(example_row(), {})
  sink.close()
  assert len(said) == 1 and "no route to host" in said[0]
