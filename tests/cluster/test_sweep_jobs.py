"""Which runs a sweep has, and what it refuses; without Ray."""

import pathlib
import sys

import pytest

from r2d2_jax.cli import main as console
from r2d2_jax.cluster.sweep import command
from r2d2_jax.cluster.sweep.jobs import make_jobs, tasks_of
from r2d2_jax.presets import smoke


def test_all_games_once_whatever_else_is_named():
  games = tasks_of(["atari57", "Pong", "ms_pacman"], [])
  assert len(games) == 57
  assert games[0] == "alien"
  assert tasks_of(["MsPacman", "pong-v5"], ["Catch-v0", "PONG"]) == [
    "ms_pacman",
    "pong",
    "Catch-v0",
  ]


def test_all_tasks_with_a_seed_come_before_the_next_seed(tmp_path):
  config = smoke().updated({"run.seed": 5})
  jobs = make_jobs(config, ["recall", "Catch-v0"], seeds=2, sweep_dir=tmp_path)
  assert [(j.index, j.task, j.seed) for j in jobs] == [
    (0, "recall", 5),
    (1, "Catch-v0", 5),
    (2, "recall", 6),
    (3, "Catch-v0", 6),
  ]
  assert jobs[3].run_dir == tmp_path / "Catch-v0-seed6"
  # Another seed moves nobody.
  more = make_jobs(config, ["recall", "Catch-v0"], seeds=3, sweep_dir=tmp_path)
  assert more[:4] == jobs


def test_tasks_whose_names_become_one_have_two_directories(tmp_path):
  tasks = ["gymnasium:a/b", "gymnasium:a:b"]
  jobs = make_jobs(smoke(), tasks, seeds=1, sweep_dir=tmp_path)
  assert len({job.run_dir for job in jobs}) == 2


def test_the_list_names_each_run(capsys):
  arguments = "--games pong --tasks recall --seeds 2 --preset smoke --list"
  assert command.main(arguments.split()) == 0
  assert capsys.readouterr().out.splitlines() == [
    "0 pong 0 runs/sweep-smoke/pong-seed0",
    "1 recall 0 runs/sweep-smoke/recall-seed0",
    "2 pong 1 runs/sweep-smoke/pong-seed1",
    "3 recall 1 runs/sweep-smoke/recall-seed1",
  ]


def test_settings_reach_every_run():
  arguments = "--tasks recall --preset smoke --agent.n-step 7 --run.seed 3"
  (job,), settings = command.parse_command_line(arguments.split())
  assert job.config.agent.n_step == 7
  assert (job.seed, job.run_dir) == (
    3,
    pathlib.Path("runs/sweep-smoke/recall-seed3"),
  )
  assert settings.gpus == -1


@pytest.mark.parametrize(
  "arguments, message",
  [
    ("", "expected games or tasks, got none"),
    ("--preset nothing", "--preset: expected one of"),
    (
      "--games pongg",
      "--games: expected atari57 or some of its games, got 'pongg': did you"
      " mean pong?",
    ),
    ("--games recall", "--games: expected atari57 or some of its games"),
    ("--tasks recal", "unknown task 'recal': did you mean recall"),
    ("--tasks recall --seeds 0", "--seeds: expected a number between 1"),
    ("--tasks recall --cpus 0", "--cpus: expected more than 0"),
    ("--tasks recall --gpus 1.5", "--gpus: expected a whole number, or a part"),
    ("--tasks recall --only 1", "--only: expected a number from 0 to 0"),
    (
      "--tasks recall --env.task Boxing",
      "env.task: expected --games or --tasks",
    ),
    ("--tasks recall --run.run-dir x", "run.run_dir: expected --sweep-dir"),
    ("--tasks recall --agent.n-step 0", "agent.n_step: expected"),
  ],
)
def test_bad_input_is_one_message(arguments, message, capsys):
  if "recal " in f"{arguments} ":
    pytest.importorskip("envpool", reason="names its tasks")
  assert command.main(arguments.split()) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: {message}")
  assert error.count("\n") == 1


def test_without_ray_it_says_what_to_do(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "ray", None)
  assert command.main(["--tasks", "recall", "--preset", "smoke"]) == 2
  assert "pip install 'r2d2_jax[cluster]'" in capsys.readouterr().err


def test_one_run_of_the_list_needs_no_ray(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  launched = []
  monkeypatch.setattr(command, "launch", lambda config: launched.append(config))
  arguments = "--tasks recall Catch-v0 --seeds 2 --preset smoke --only 2"
  assert command.main(arguments.split()) == 0
  assert [(c.env.task, c.run.seed) for c in launched] == [("recall", 1)]


def test_the_console_command_has_it(capsys):
  assert console.main("sweep --tasks recall --list".split()) == 0
  assert capsys.readouterr().out.startswith("0 recall 0 ")
