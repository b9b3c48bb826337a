"""What a run can be given: environments, an agent, a listener, a stop."""

import json
import threading

import pytest

from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.cli.evaluate import main as evaluate_command
from r2d2_jax.config import ConfigError
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.train import RunError, train
from tests.stamped import StampedWorld

CONFIG = smoke().updated(
  {
    "env.num_envs": 4,
    "network.torso_channels": (4,),
    "network.core_units": 4,
    "network.head_units": 4,
    "agent.batch_size": 2,
    "replay.min_sequences": 4,
    "replay.capacity_sequences": 50,
    "run.total_steps": 300,
    "run.lockstep": True,
    "evaluation.num_episodes": 2,
    "evaluation.num_lanes": 2,
    "log.tensorboard": False,
    "log.period_updates": 3,
  }
)


def make_stamped(config, *, seed):
  """Environments that the package does not have."""
  del seed
  return StampedWorld([[5, 9]] * config.num_envs)


def test_on_row_is_given_the_rows_of_the_log(tmp_path):
  rows = []
  train(CONFIG, run_dir=tmp_path / "run", on_row=rows.append)
  log = read_log(tmp_path / "run" / "log.csv")
  assert [row["steps"] for row in rows] == log["steps"] and len(rows) > 2
  assert set(rows[0]) == set(log) | {"bottleneck"}


def test_an_error_of_the_listener_ends_the_run_with_its_traceback(tmp_path):
  def listen(row):
    raise KeyError(row["updates"])

  with pytest.raises(RunError, match="KeyError"):
    train(CONFIG, run_dir=tmp_path / "run", on_row=listen)
  assert "in listen" in (tmp_path / "run" / "crash.txt").read_text()


def test_a_stop_event_saves_in_a_thread_that_hears_no_signals(tmp_path):
  stop, results = threading.Event(), []
  config = CONFIG.updated({"run.total_steps": 10**9})
  thread = threading.Thread(
    target=lambda: results.append(
      train(
        config,
        run_dir=tmp_path / "run",
        stop=stop,
        on_row=lambda row: stop.set(),
      )
    )
  )
  thread.start()
  thread.join(120)
  (result,) = results
  assert result.interrupted and result.evaluation is None
  (saved,) = list_checkpoints(tmp_path / "run" / "checkpoints")
  assert saved.steps == result.steps < 10**6


def test_environments_of_ones_own_are_found_again_by_their_name(
  tmp_path, capsys
):
  run_dir = tmp_path / "run"
  result = train(CONFIG, run_dir=run_dir, make_world=make_stamped)
  assert {e.episode_steps for e in result.evaluation.episodes} == {5}
  settings = json.loads((run_dir / "config.json").read_text())
  assert settings["env"]["make_world"] == f"{__name__}:make_stamped"
  assert load_agent(run_dir).spec == StampedWorld([[1]]).spec
  assert (
    evaluate_command([str(run_dir), "--episodes", "3", "--lanes", "1"]) == 0
  )
  assert "over 3 games" in capsys.readouterr().out
  # Going on needs no argument either.
  longer = CONFIG.updated(
    {"run.total_steps": 400, "env.make_world": f"{__name__}:make_stamped"}
  )
  assert train(longer, run_dir=run_dir).steps >= 400


def test_a_function_without_an_import_path_is_given_again(tmp_path):
  run_dir = tmp_path / "run"
  make_agent = lambda spec, config: make_r2d2_agent(spec, config)
  train(CONFIG, run_dir=run_dir, make_agent=make_agent)
  with pytest.raises(ConfigError, match="agent.make_agent: .*no import path"):
    load_agent(run_dir)
  saved = load_agent(run_dir, make_agent=make_agent)
  assert saved.steps >= 300


def test_a_name_that_leads_nowhere_is_refused_before_anything_starts(tmp_path):
  config = CONFIG.updated({"env.make_world": "no_such_module_of_mine:make"})
  with pytest.raises(ConfigError, match="env.make_world: .*no_such_module"):
    train(config, run_dir=tmp_path / "run")
  assert not (tmp_path / "run").exists()
