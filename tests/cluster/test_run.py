"""Runs in processes of their own, on this machine."""

import io
import json
import os
import pathlib
import re
import signal
import time

import pytest

from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.config import ConfigError
from r2d2_jax.presets import smoke

pytest.importorskip("ray", reason="runs on many processes need Ray")
pytest.importorskip("reverb", reason="and a Reverb server")
# A run in five processes: a minute of work, minutes on a busy machine.
pytestmark = [pytest.mark.ray, pytest.mark.reverb, pytest.mark.timeout(900)]

CONFIG = smoke().updated(
  {
    "replay.backend": "reverb",
    "evaluation.num_episodes": 0,
    "log.period_seconds": 0.5,
    "log.tensorboard": False,
  }
)


@pytest.fixture(autouse=True)
def this_machine_alone(monkeypatch):
  monkeypatch.delenv("RAY_ADDRESS", raising=False)


def processes(run_dir: pathlib.Path) -> list[tuple[str, int, int]]:
  """Role and number, deaths so far, pid; in the order of their starts."""
  lines = (run_dir / "logs" / "processes.csv").read_text().splitlines()
  parts = [line.split(",") for line in lines]
  return [(f"{p[1]} {p[2]}", int(p[3]), int(p[5])) for p in parts]


def is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_run_goes_on_when_an_actor_host_is_killed(tmp_path):
  from r2d2_jax.cluster.run import train_on_cluster
  from r2d2_jax.system.storage.agents import load_agent
  from r2d2_jax.system.storage.checkpoints import list_checkpoints
  from r2d2_jax.system.storage.rundir import checkpoints_dir

  killed, dq = [], []

  def kill_once(row):
    dq.append(row["dq_last"])
    if row["updates"] > 0 and not killed:
      killed.extend(
        pid for name, _, pid in processes(tmp_path) if name == "actor 1"
      )
      os.kill(killed[0], signal.SIGKILL)

  config = CONFIG.updated({"run.total_steps": 20_000})
  result = train_on_cluster(
    config,
    ClusterConfig(actors=2, evaluators=0),
    run_dir=tmp_path,
    on_row=kill_once,
  )
  # Two hosts may each have some lanes too many in their last call.
  assert 20_000 <= result.steps < 20_000 + 16
  assert not result.interrupted
  assert result.replay_ratio == pytest.approx(1.0, abs=0.05)
  # NaN before any item, and while it compiles.
  assert any(0 <= x < 10 for x in dq)
  started = processes(tmp_path)
  assert [name for name, deaths, _ in started if deaths] == ["actor 1"]
  assert sorted(name for name, deaths, _ in started if not deaths) == [
    "actor 0",
    "actor 1",
    "learner 0",
    "replay 0",
  ]
  deadline = time.monotonic() + 30.0
  while left := [name for name, _, pid in started if is_alive(pid)]:
    assert time.monotonic() < deadline, left
    time.sleep(0.1)
  # The other commands read it as any run.
  saved = list_checkpoints(checkpoints_dir(tmp_path))[-1]
  assert saved.num_updates == int(result.state.num_updates) > 0
  assert (saved.path / "replay" / "shard-0" / "meta.json").exists()
  load_agent(tmp_path)


def test_an_address_without_a_cluster_is_one_message(tmp_path):
  from r2d2_jax.cluster.run import train_on_cluster

  with pytest.raises(ConfigError, match="cluster.address: expected a Ray"):
    train_on_cluster(
      CONFIG, ClusterConfig(address="127.0.0.1:1"), run_dir=tmp_path
    )


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_everything(tmp_path):
  from rich.console import Console

  from r2d2_jax.cluster.run import train_on_cluster

  config = CONFIG.updated({"run.total_steps": 8_000})
  before = train_on_cluster(
    config.updated({"checkpoint.max_to_keep": 1}),
    ClusterConfig(actors=2, replay_shards=2, evaluators=0),
    run_dir=tmp_path,
  )
  saved = [
    json.loads(path.read_text())["counts"]["size"]
    for path in tmp_path.glob("checkpoints/*/replay/shard-*/meta.json")
  ]
  assert len(saved) == 2
  said, rows = io.StringIO(), []
  after = train_on_cluster(
    config.updated({"run.total_steps": 16_000}),
    ClusterConfig(actors=4, learner_hosts=2, evaluators=0),
    run_dir=tmp_path,
    console=Console(file=said, width=200),
    on_row=rows.append,
  )
  text = said.getvalue()
  assert "the replay was saved in 2 shard(s): its items are dealt out to 1" in (
    text
  )
  items = re.search(r"(\d+) items in the replay", text)
  assert items and int(items[1]) == sum(saved) > 500
  assert "filled anew" not in text
  assert after.steps >= 16_000 > before.steps
  assert int(after.state.num_updates) > int(before.state.num_updates)
  assert rows[0]["steps"] >= before.steps
  assert after.replay_ratio == pytest.approx(1.0, abs=0.05)
