"""Exported agents: whole, small, never written into; those of pretrained/."""

import json
import pathlib
import shlex
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from r2d2_jax.agent.agent import make_r2d2_agent
from r2d2_jax.cli import evaluate, export, train
from r2d2_jax.config import ConfigError, MissingPackageError, UserError
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
    (_record(format=9), "expected format 1 to 2, got 9"),
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


# --- The Hub: a stand-in for huggingface_hub ---------------------------------


class _Hub(types.ModuleType):
  """Keeps repositories in a directory, and hands out links as the cache does.

  The arguments are those of huggingface_hub that are used here, no others.
  """

  def __init__(self, root):
    super().__init__("huggingface_hub")
    self.root = root
    self.log = []

  def create_repo(self, repo_id, *, exist_ok=False):
    self.log.append(("create", repo_id, exist_ok))
    (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

  def upload_folder(
    self, *, repo_id, folder_path, commit_message, allow_patterns
  ):
    self.log.append(("upload", repo_id, commit_message))
    for name in allow_patterns:
      data = (pathlib.Path(folder_path) / name).read_bytes()
      (self.root / repo_id / name).write_bytes(data)

  def snapshot_download(self, repo_id, *, revision, allow_patterns):
    self.log.append(("download", repo_id, revision))
    if not (self.root / repo_id).is_dir():
      raise FileNotFoundError(f"404: no repository {repo_id}")
    snapshot = self.root / "cache" / repo_id
    snapshot.mkdir(parents=True, exist_ok=True)
    for path in (self.root / repo_id).iterdir():
      if path.name in allow_patterns and not (snapshot / path.name).exists():
        (snapshot / path.name).symlink_to(path)
    return str(snapshot)


@pytest.fixture(name="hub")
def _hub(tmp_path, monkeypatch):
  hub = _Hub(tmp_path / "hub")
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  return hub


def test_an_agent_goes_to_the_hub_and_comes_back(
  run_dir, hub, tmp_path, capsys
):
  out = tmp_path / "agent"
  arguments = [str(run_dir), str(out), "--episodes", "0"]
  assert export.main([*arguments, "--push-to-hub", "me/recall"]) == 0
  assert "sent to hub:me/recall" in capsys.readouterr().out
  assert hub.log == [
    ("create", "me/recall", True),
    ("upload", "me/recall", "An agent of R2D2"),
  ]
  assert _contents(hub.root / "me/recall") == _contents(out)
  card = (out / "README.md").read_text()
  head, _, body = card.removeprefix("---\n").partition("\n---\n")
  assert "library_name: r2d2_jax" in head and "- 'recall'" in head
  assert body.startswith("# recall, an agent of R2D2")
  assert "experiments.evaluate hub:me/recall" in body
  assert 'load_agent("hub:me/recall")' in body and str(out) not in body
  # what others put beside it stays there
  (hub.root / "me/recall" / "extra.py").write_text("raise SystemExit")

  agent = load_agent("hub:me/recall@v1")
  assert hub.log[-1] == ("download", "me/recall", "v1")
  jax.tree.map(
    np.testing.assert_array_equal, agent.params, load_agent(run_dir).params
  )
  snapshot = hub.root / "cache" / "me/recall"
  assert "extra.py" not in _contents(snapshot)
  arguments = ["--episodes", "2", "--lanes", "2"]
  assert evaluate.main(["hub:me/recall", *arguments]) == 0
  assert hub.log[-1] == ("download", "me/recall", None)
  assert "recall: update 7, step 70" in capsys.readouterr().out
  assert sorted(_contents(snapshot)) == sorted(_contents(out))


def test_what_the_hub_does_not_give_is_one_message(hub, capsys):
  (hub.root / "me/empty").mkdir(parents=True)
  for name, message in (
    ("hub:me/nothing", "hub:me/nothing cannot be fetched: FileNotFoundError"),
    ("hub:me/empty", "hub:me/empty holds no exported agent: expected config"),
    ("hub:me", "expected hub:owner/name or hub:owner/name@revision"),
    ("hub:me/../x", "expected hub:owner/name or"),
  ):
    assert evaluate.main([name]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_what_the_hub_does_not_take_leaves_the_folder(
  run_dir, hub, tmp_path, capsys
):
  def refuse(*args, **kwargs):
    raise OSError("401 Client Error: log in")

  hub.create_repo = refuse
  out = tmp_path / "agent"
  arguments = [str(run_dir), str(out), "--episodes", "0", "--push-to-hub"]
  assert export.main([*arguments, "me/recall"]) == 2
  err = capsys.readouterr().err
  assert "was written, but not sent to me/recall: OSError: 401" in err
  assert f"hf upload me/recall {out} ." in err
  assert load_agent(out).num_updates == 7
  # a bad name is told before anything is done
  out = tmp_path / "other"
  assert export.main([str(run_dir), str(out), "--push-to-hub", "me"]) == 2
  assert "--push-to-hub: expected owner/name" in capsys.readouterr().err
  assert not out.exists()


def test_without_the_library_the_extra_is_named(
  run_dir, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  out = tmp_path / "agent"
  arguments = [str(run_dir), str(out), "--push-to-hub", "me/recall"]
  assert export.main(arguments) == 2
  assert "pip install 'r2d2_jax[hub]'" in capsys.readouterr().err
  assert not out.exists()
  with pytest.raises(MissingPackageError, match="r2d2_jax.hub"):
    load_agent("hub:me/recall")
