"""The command's settings, and what it refuses."""

import json

import pytest

from r2d2_jax.cluster.command import main, parse_command_line
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import settings_of
from r2d2_jax.config import to_dict
from r2d2_jax.presets import smoke


def test_settings_of_run_and_cluster():
  config, cluster = parse_command_line(
    ["--preset", "smoke", "--cluster.actors", "3", "--run.seed=4"]
    + ["--cluster.lanes-per-actor", "5", "--cluster.evaluators", "0"]
  )
  assert config.env.num_envs == 15
  assert config.run.seed == 4
  assert config.replay.backend == "reverb"
  assert config.run.run_dir.startswith("runs/recall-cluster-seed4-")
  assert (cluster.actors, cluster.evaluators) == (3, 0)


def test_a_run_is_repeated_from_its_files(tmp_path):
  before = smoke().updated(
    {"run.seed": 7, "run.run_dir": str(tmp_path), "replay.backend": "reverb"}
  )
  cluster = ClusterConfig(actors=2, replay_shards=2)
  (tmp_path / "config.json").write_text(json.dumps(to_dict(before)))
  (tmp_path / "cluster.json").write_text(json.dumps(settings_of(cluster)))
  config, again = parse_command_line(
    ["--config", str(tmp_path / "config.json"), "--run.run-dir", "elsewhere"]
  )
  assert config == before.updated({"run.run_dir": "elsewhere"})
  assert again == cluster


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--preset", "nothing"], "--preset: expected one of"),
    (["--preset"], "--preset: expected one of paper"),
    (["--config", "/no/such/file"], "--config: expected the config.json"),
    (["--config=a", "--preset=smoke"], "--config: expected it or --preset"),
    (
      ["--preset=smoke", "--replay.backend=local"],
      "replay.backend: expected 'reverb' on a cluster",
    ),
    (["--preset=smoke", "--cluster.actors=0"], "cluster.actors: expected"),
    (
      ["--preset=smoke", "--cluster.actors=3"],
      "cluster.actors: expected a divisor",
    ),
    (
      ["--preset=smoke", "--limits.memory-gib=0.1", "--plan"],
      "cluster: expected processes of at most",
    ),
  ],
)
def test_bad_input_is_one_message(arguments, message, capsys, monkeypatch):
  monkeypatch.delenv("RAY_ADDRESS", raising=False)
  assert main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: {message}")
  assert error.count("\n") == 1
