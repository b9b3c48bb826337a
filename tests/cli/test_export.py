"""Exported agents: whole, small, never written into; those of pretrained/."""

import json
import pathlib
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.cli import evaluate, export, train
from r2d2_jax.config import ConfigError, UserError
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.presets import PRESETS, smoke
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.arrays import load_arrays, save_arrays
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  save_checkpoint,
)
from r2d2_jax.system.storage.rundir import (
  checkpoints_dir,
  claimed_run_dir,
  write_config,
)

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = smoke().updated(
  {
    "network.torso_channels": (4,),
    "network.core_units": 4,
    "network.head_units": 4,
    "run.run_dir": "somewhere/secret",
  }
)


@pytest.fixture(scope="module", name="run_dir")
def _run_dir(tmp_path_factory):
  run_dir = tmp_path_factory.mktemp("export") / "run"
  run_dir.mkdir()
  write_config(run_dir, CONFIG)
  agent = make_r2d2_agent(RecallWorld(1, seed=0).spec, CONFIG)
  state = jax.device_get(agent.init(jax.random.key(3)))
  save_checkpoint(
      checkpoints_dir(run_dir), state._replace(num_updates=np.int32(7)),
      {"steps": 70}, max_to_keep=1,
  )  # fmt: skip
  return run_dir


@pytest.fixture(name="exported")
def _exported(run_dir, tmp_path):
  out = tmp_path / "deep" / "agent"
  assert export.main([str(run_dir), str(out), "--episodes", "0"]) == 0
  return out


def _contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_exported_agent_is_the_runs(run_dir, exported):
  of_run, agent = load_agent(run_dir), load_agent(exported)
  assert (agent.num_updates, agent.steps) == (7, 70)
  assert agent.spec == of_run.spec
  jax.tree.map(np.testing.assert_array_equal, agent.params, of_run.params)
  assert sorted(_contents(exported)) == [
    "README.md", "config.json", "exported.json", "params.npz"
  ]  # fmt: skip
  assert "secret" not in (exported / "config.json").read_text()


def test_evaluation_plays_it_and_writes_nothing(exported, run_dir, capsys):
  before = _contents(exported)
  exported.chmod(0o555)
  arguments = ["--episodes", "3", "--lanes", "3"]
  assert evaluate.main([str(exported), *arguments]) == 0
  of_export = capsys.readouterr()
  assert "recall: update 7, step 70" in of_export.out
  assert "warning" not in of_export.err
  assert evaluate.main([str(run_dir), *arguments]) == 0
  (score,) = [
      line for line in of_export.out.splitlines() if "evaluation:" in line
  ]  # fmt: skip
  assert score in capsys.readouterr().out
  assert _contents(exported) == before


def test_no_run_begins_in_it(exported):
  before = _contents(exported)
  with pytest.raises(ConfigError, match="holds an exported agent"):
    with claimed_run_dir(exported, CONFIG):
      pass
  assert _contents(exported) == before


def test_other_checkpoints_are_not_there(exported):
  assert load_agent(exported, which="7").num_updates == 7
  with pytest.raises(ConfigError, match="expected 'latest'.*got 'best'"):
    load_agent(exported, which="best")


def test_a_folder_with_something_in_it_stays_as_it_is(
  run_dir, exported, capsys
):
  before = _contents(exported)
  assert export.main([str(run_dir), str(exported)]) == 2
  assert "expected a new or empty folder" in capsys.readouterr().err
  assert _contents(exported) == before


def _other_width(folder):
  arrays = load_arrays(folder / "params.npz")
  name = next(iter(arrays))
  save_arrays(folder / "params.npz", arrays | {name: arrays[name][:-1]})


def _infinite(folder):
  arrays = load_arrays(folder / "params.npz")
  name = next(iter(arrays))
  save_arrays(
    folder / "params.npz", arrays | {name: np.full_like(arrays[name], np.inf)}
  )


def _record(**changes):
  def damage(folder):
    path = folder / "exported.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return damage


@pytest.mark.parametrize(
  "damage, words",
  [
    (_other_width, r"params.npz: .*expect float32 \[4\], got float32 \[3\]"),
    (_infinite, "is not finite"),
    (lambda folder: (folder / "params.npz").write_bytes(b"PK"), "params.npz"),
    (lambda folder: (folder / "params.npz").unlink(), "params.npz: .*No such"),
    (
      lambda folder: (folder / "exported.json").write_text("{"),
      "exported.json",
    ),
    (_record(format=9), "expected format 1, got 9"),
    (_record(num_actions=-1), "expected whole numbers, got -1"),
    (_record(obs_shape="ab"), "expected whole numbers, got 'a'"),
    (_record(obs_dtype="nothing"), "exported.json"),
  ],
)
def test_damage_is_one_error(exported, damage, words):
  damage(exported)
  with pytest.raises(CheckpointError, match=words) as caught:
    load_agent(exported)
  assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
  "config",
  [
    *(make() for make in PRESETS.values()),
    smoke().updated(
      {
        "env.task": "Catch-v0",
        "network.torso_channels": (4, 8),
        "run.lockstep": True,
        "checkpoint.save_replay": False,
        "agent.learning_rate": 2e-4,
      }
    ),
  ],
)
def test_the_card_has_the_command_that_trains_with_these_settings(config):
  command = export.training_command(config)
  words = shlex.split(command.replace("\\\n", ""))
  assert words[:3] == ["python", "-m", "experiments.train"]
  parsed = train.parse_command_line(words[3:])
  assert parsed.updated({"run.run_dir": ""}) == config


def test_the_interval_is_that_of_the_mean():
  returns = np.array([1.0] * 90 + [0.0] * 10)
  # Of p = 0.9 of 100: 0.9 +- 1.96 sqrt(0.9 * 0.1 / 100): [0.841, 0.959].
  assert export.score_in_words(returns) == (
    "mean 0.9, 95 % interval [0.84, 0.96]"
  )
  assert export.score_in_words(np.ones(7)) == "1 in each of them"


@pytest.mark.parametrize("task", ["recall", "Catch-v0"])
def test_the_agents_of_the_repository_are_small_and_play(task):
  folder = ROOT / "pretrained" / task.removesuffix("-v0").lower()
  contents = _contents(folder)
  assert sum(map(len, contents.values())) < 1_000_000
  # No EnvPool here: what the world looks like is in the folder.
  agent = load_agent(folder)
  assert agent.config.env.task == task
  assert training_command_in(folder) == export.training_command(agent.config)
  obs = np.zeros((2, *agent.spec.obs_shape), agent.spec.obs_dtype)
  action, q, _ = agent.step(agent.initial_state(2), obs, 0.0, True)
  assert action.shape == (2,) and q.shape == (2, agent.spec.num_actions)


def training_command_in(folder):
  card = (folder / "README.md").read_text()
  return card.partition("```\n")[2].partition("\n```")[0]


def test_an_agent_of_another_task_needs_no_envpool():
  code = (
    "import sys; sys.modules['envpool'] = None\n"
    "from r2d2_jax import load_agent\n"
    "print(load_agent('pretrained/catch').spec.obs_shape)\n"
  )
  result = subprocess.run(
      [sys.executable, "-c", code],
      cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.stdout == "(10, 5)\n", result.stderr
