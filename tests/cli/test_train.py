"""The command line of training: help, refusals, and a run from end to end."""

import dataclasses
import datetime
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from r2d2_jax.cli import train as command
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.presets import smoke
from r2d2_jax.system import train as training
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.rundir import write_config
from tests.help import help_of

ROOT = pathlib.Path(__file__).parents[2]


def test_help_shows_every_setting_and_imports_no_jax():
  shown = help_of("experiments.train", "tensorflow")
  for section in dataclasses.fields(Config):
    for field in dataclasses.fields(getattr(Config(), section.name)):
      flag = f"--{section.name}.{field.name}".replace("_", "-")
      assert flag in shown, flag


def test_every_setting_is_explained():
  source = (ROOT / "r2d2_jax" / "config" / "sections.py").read_text()
  for section in dataclasses.fields(Config):
    for field in dataclasses.fields(getattr(Config(), section.name)):
      assert re.search(
        rf'^  {field.name}: .*\n  """\S', source, re.MULTILINE
      ), f"{section.name}.{field.name} has no docstring"


def test_a_plan_starts_nothing_and_refuses_what_cannot_fit(tmp_path, capsys):
  run_dir = tmp_path / "run"
  smoke = ["--plan", "--preset", "smoke", "--run.run-dir", str(run_dir)]
  assert command.main(smoke) == 0
  out = capsys.readouterr().out
  assert "of 2,000 items by the end" in out and "to the first update" in out
  assert command.main([*smoke, "--limits.memory-gib", "0.1"]) == 2
  assert "0.1 GiB" in (error := capsys.readouterr().err) or "102 MiB" in error
  assert not run_dir.exists()


@pytest.mark.parametrize(
  "arguments, expected",
  [
    (["--preset", "desktop"], "expected one of paper, submission"),
    (["--preset"], "expected one of paper, submission"),
    (["--agent.n-step", "-3"], "agent.n_step: expected at least 1, got -3"),
    (["--replay.min-sequences", "1"], "at least agent.batch_size"),
    (["--run.lockstep"], "'local' with run.lockstep"),
  ],
)
def test_wrong_values_are_refused_before_anything_starts(
  arguments, expected, capsys
):
  assert command.main(arguments) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith("error: ") and expected in captured.err
  assert captured.out == ""


@pytest.mark.parametrize(
  "arguments",
  [["--agent.n-step", "x"], ["--agent.nsteps", "3"], ["--env.life-loss", "no"]],
)
def test_malformed_arguments_exit_with_2(arguments):
  with pytest.raises(SystemExit) as exit_:
    command.main(arguments)
  assert exit_.value.code == 2


def test_any_field_is_set_over_the_preset():
  config = command.parse_command_line(
    [
      "--agent.n-step",
      "7",
      "--preset=smoke",
      "--network.torso-channels",
      "8",
      "9",
      "--env.fire-on-reset",
      "--run.run-dir",
      "here",
    ]
  )
  assert config.agent.n_step == 7
  assert config.network.torso_channels == (8, 9)
  assert config.env.fire_on_reset and config.env.task == "recall"
  assert config.run.run_dir == "here"


def test_a_directory_that_is_not_given_has_the_seed_in_its_name(monkeypatch):
  name = command.parse_command_line(["--run.seed=7"]).run.run_dir
  assert re.fullmatch(r"runs/Pong-laptop-seed7-\d{8}-\d{6}", name)


def test_one_that_is_taken_gets_a_number(tmp_path, monkeypatch, capsys):
  """As where two runs start in the same second."""
  monkeypatch.chdir(tmp_path)
  seen = []

  def train(config, *, run_dir, console):
    del console
    assert str(run_dir) == config.run.run_dir and run_dir.is_dir()
    seen.append(config.run.run_dir)
    (run_dir / ".lock").touch()
    raise ConfigError("enough")

  class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
      return cls(2026, 11, 26, 14, 18, 32, tzinfo=tz)

  monkeypatch.setattr(training, "train", train)
  monkeypatch.setattr(command.datetime, "datetime", Clock)
  for _ in range(2):
    assert command.main(["--preset", "smoke", "--limits.memory-gib=4"]) == 2
  name = "runs/recall-smoke-seed0-20261126-141832"
  assert seen == [name, f"{name}-2"]
  assert f"run directory: {name}-2" in capsys.readouterr().out


def test_the_home_directory_is_meant_after_an_equals_sign_too(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  for arguments in (["--run.run-dir=~/x"], ["--run.run-dir", "~/x"]):
    assert command.parse_command_line(arguments).run.run_dir == "/home/me/x"
  assert (
    command.parse_command_line(["--run.run-dir=a~/x"]).run.run_dir == "a~/x"
  )


def test_an_unknown_game_is_an_error_with_a_suggestion(tmp_path, capsys):
  pytest.importorskip("envpool")
  code = command.main(
    [
      "--preset",
      "smoke",
      "--env.task",
      "Pongg",
      "--run.run-dir",
      str(tmp_path / "run"),
    ]
  )
  assert code == 2
  assert "Pong" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_what_may_be_a_runs_is_left_alone(tmp_path, capsys):
  (tmp_path / "log.csv").write_text("mine")
  code = command.main(["--preset", "smoke", "--run.run-dir", str(tmp_path)])
  assert code == 2
  assert "has log.csv but no config.json" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_ends_in_seconds(signal_, tmp_path):
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "experiments.train",
      "--preset",
      "smoke",
      "--run.total-steps",
      "100000000",
      "--run.run-dir",
      str(tmp_path / "run"),
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  lines = []
  for line in process.stdout:
    lines.append(line)
    if re.search(r"[1-9]\d*\.\d+ updates/s \| ratio", line):
      break
  process.send_signal(signal_)
  start = time.monotonic()
  rest, _ = process.communicate(timeout=60)
  assert process.returncode == 130, "".join(lines) + rest
  assert "interrupted; saved in" in rest
  assert "Traceback" not in rest
  assert time.monotonic() - start < 30  # a hang, not a timing
  saved = list_checkpoints(tmp_path / "run" / "checkpoints")
  assert saved and saved[-1].num_updates > 0


@pytest.mark.parametrize(
  "flag, name, new",
  [
    ("--run.no-tensorboard", "run.tensorboard", "log.tensorboard"),
    ("--run.eval-lanes=3", "run.eval_lanes", "evaluation.num_lanes"),
  ],
)
def test_a_setting_that_has_another_name_now(flag, name, new, capsys):
  assert command.main(["--preset", "smoke", flag]) == 2
  text = capsys.readouterr().err
  assert f"{name}: this setting is called {new} now" in text


def test_the_settings_of_an_earlier_run(tmp_path, monkeypatch):
  """--config repeats a run; its directory is not taken over."""
  earlier = command.parse_command_line(
    ["--preset", "smoke", "--agent.n-step", "2", "--run.run-dir", "there"]
  )
  write_config(tmp_path, earlier)
  file = str(tmp_path / "config.json")
  again = command.parse_command_line(["--config", file, "--run.seed=9"])
  assert again.run.run_dir.startswith("runs/recall-again-seed9-")
  assert again == earlier.updated(
    {"run.seed": 9, "run.run_dir": again.run.run_dir}
  )


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--config", "none.json"], "expected the config.json of a run, got none"),
    (["--config="], "expected the config.json of a run, got ."),
    (
      ["--config", "config.json", "--preset", "smoke"],
      "--config: expected it or --preset, got both",
    ),
  ],
)
def test_what_is_no_earlier_run_is_refused(
  arguments, told, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  write_config(tmp_path, smoke())
  assert command.main(arguments) == 2
  assert told in capsys.readouterr().err
