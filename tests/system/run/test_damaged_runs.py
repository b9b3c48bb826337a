"""Files of a run that were damaged, moved or left by a life that was lost."""

import errno
import json
import os
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from rich.console import Console

from r2d2_jax.config import Config
from r2d2_jax.presets import smoke
from r2d2_jax.system.run import monitor
from r2d2_jax.system.run.resumed import find_resumed
from r2d2_jax.system.storage.agents import load_agent
from r2d2_jax.system.storage.checkpoints import (
  CheckpointError,
  list_checkpoints,
)
from r2d2_jax.system.storage.csv_log import read_log
from r2d2_jax.system.train import train

_STEPS = 400


def _small(settings=None) -> Config:
  return smoke().updated(
    {
      "env.num_envs": 4,
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
      "agent.batch_size": 2,
      "replay.min_sequences": 4,
      "replay.capacity_sequences": 50,
      "run.total_steps": _STEPS,
      "run.lockstep": True,
      "evaluation.num_episodes": 2,
      "evaluation.period_steps": 200,
      "log.tensorboard": False,
      "log.period_updates": 2,
      **(settings or {}),
    }
  )


_LONGER = _small({"run.total_steps": _STEPS + 80})


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory) -> pathlib.Path:
  run_dir = tmp_path_factory.mktemp("runs") / "run"
  train(_small(), run_dir=run_dir)
  return run_dir


@pytest.fixture(name="run_dir")
def _run_dir(finished, tmp_path) -> pathlib.Path:
  shutil.copytree(finished, tmp_path / "run")
  return tmp_path / "run"


def _newest(run_dir: pathlib.Path) -> pathlib.Path:
  return list_checkpoints(run_dir / "checkpoints")[-1].path


def _files(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in directory.rglob("*")
    if path.is_file()
  }


def _change_record(run_dir: pathlib.Path, **values) -> None:
  """Values by field, 'part__field' for those of a part; ... removes one."""
  path = _newest(run_dir) / "record.json"
  record = json.loads(path.read_text())
  for name, value in values.items():
    *parts, field = name.split("__")
    part = record[parts[0]] if parts else record
    if value is ...:
      del part[field]
    else:
      part[field] = value
  path.write_text(json.dumps(record))


# Damage.


@pytest.mark.parametrize(
  "name, value, words",
  [
    ("starts", "x", "starts: expected a whole number"),
    ("starts", 10**400, "starts: expected a whole number"),
    ("starts", -5, "starts: expected a whole number from 0"),
    ("starts", 1.0, "starts: expected a whole number"),
    ("starts", True, "starts: expected a whole number"),
    ("exact", 1, "exact: expected true or false"),
    ("ratio", [], "ratio: expected values by name"),
    ("ratio__env_steps", "x", "ratio.env_steps: expected a whole number"),
    ("ratio__trained_rows", -1, "ratio.trained_rows: expected a whole number"),
    ("ratio__start_steps", "x", "ratio.start_steps: expected null or a whole"),
    ("ratio__start_steps", ..., "it lacks ratio.start_steps"),
    ("config", [], "config: expected settings by section"),
    ("config", {"env": 3}, "config: expected settings by section"),
    ("report", {}, "it lacks report.minutes"),
    ("report", ..., "it lacks report"),
    ("report__minutes", float("inf"), "report.minutes: expected a finite"),
    ("report__minutes", -1, "report.minutes: expected a finite"),
    ("report__returns", "many", "report.returns: expected a list of numbers"),
    ("report__returns", [1.0, "x"], "report.returns: expected a list of numb"),
    (
      "report__exploit_returns",
      [[]],
      "report.exploit_returns: expected a list",
    ),
    ("report__eval_return", None, "report.eval_return: expected a number"),
    ("steps", 10**400, "steps: expected"),
    ("steps", "x", "steps: expected"),
    ("log_rows", "x", "log_rows: expected a whole number"),
    ("prng_impl", 3, "prng_impl: expected a name"),
  ],
)
def test_a_damaged_record_is_refused_and_nothing_is_written(
  name, value, words, run_dir
):
  _change_record(run_dir, **{name: value})
  before = _files(run_dir)
  with pytest.raises(CheckpointError, match=f"record.json: {words}") as error:
    train(_LONGER, run_dir=run_dir)
  assert len(str(error.value)) < 800
  assert _files(run_dir) == before


@pytest.mark.parametrize("text", ["[" * 100_000, "", '{"format": 2', "\xff"])
def test_a_record_that_is_no_json(text, run_dir):
  (_newest(run_dir) / "record.json").write_text(text, encoding="latin-1")
  before = _files(run_dir)
  with pytest.raises(CheckpointError, match="cannot read .*record.json"):
    train(_LONGER, run_dir=run_dir)
  assert _files(run_dir) == before


def test_a_shape_beyond_the_memory_is_refused_before_anything_is_written(
  run_dir,
):
  path = _newest(run_dir) / "arrays.npz"
  with zipfile.ZipFile(path, "a") as archive:
    with archive.open("lanes/9.npy", "w") as file:
      np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (2**45,)}
      )
  before = _files(run_dir)
  with pytest.raises(
    CheckpointError, match=r"arrays.npz: .*\[35184372088832\]"
  ):
    train(_LONGER, run_dir=run_dir)
  assert _files(run_dir) == before


@pytest.mark.parametrize(
  "name, damage, words",
  [
    ("item_blocks.npy", lambda x: np.full_like(x, 10**9), "blocks"),
    ("item_blocks.npy", lambda x: np.full_like(x, -1), "blocks"),
  ],
)
def test_numbers_of_blocks_that_are_not_there(name, damage, words, run_dir):
  path = _newest(run_dir) / "replay" / name
  np.save(path, damage(np.load(path, allow_pickle=False)))
  before = _files(run_dir)
  with pytest.raises(CheckpointError, match=f"{name}: .*{words}"):
    train(_LONGER, run_dir=run_dir)
  assert _files(run_dir) == before


@pytest.mark.parametrize(
  "counts",
  [
    {"size": "x"},
    {"size": -1},
    {"size": 10**6},
    {"size": 1},
    {"num_inserted": 1},
    {"num_draws": None},
    {"num_blocks": 2**70},
  ],
)
def test_counts_of_a_replay_that_cannot_be(counts, run_dir):
  path = _newest(run_dir) / "replay" / "meta.json"
  meta = json.loads(path.read_text())
  meta["counts"] |= counts
  path.write_text(json.dumps(meta))
  before = _files(run_dir)
  with pytest.raises(CheckpointError, match="cannot restore the replay from"):
    train(_LONGER, run_dir=run_dir)
  assert _files(run_dir) == before


@pytest.mark.parametrize(
  "name", ["record.json", "arrays.npz", "replay/meta.json"]
)
def test_a_pipe_in_a_checkpoint_is_not_waited_for(name, run_dir):
  path = _newest(run_dir) / name
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(CheckpointError, match=f"{name}"):
    find_resumed(run_dir, _LONGER)


# Other names, other random numbers, other versions.


def test_a_checkpoint_that_was_copied_under_another_name_is_refused(run_dir):
  shutil.copytree(_newest(run_dir), run_dir / "checkpoints" / "999-99999")
  before = _files(run_dir)
  with pytest.raises(CheckpointError, match="steps: expected 99999 as in the"):
    train(_LONGER, run_dir=run_dir)
  with pytest.raises(CheckpointError, match="steps: expected 99999 as in the"):
    load_agent(run_dir)
  assert _files(run_dir) == before


def test_keys_of_another_kind_are_refused_by_the_name_of_the_setting(run_dir):
  assert find_resumed(run_dir, _LONGER).record["prng_impl"] == "threefry2x32"
  _change_record(run_dir, prng_impl="rbg")
  with pytest.raises(
    CheckpointError, match="JAX_DEFAULT_PRNG_IMPL=rbg, JAX now"
  ):
    find_resumed(run_dir, _LONGER)


def test_one_that_was_moved_and_linked_is_resumed_and_left(run_dir, tmp_path):
  path = _newest(run_dir)
  path.rename(tmp_path / "elsewhere")
  path.symlink_to(tmp_path / "elsewhere")
  before = _files(tmp_path / "elsewhere")
  config = _small(
    {
      "run.total_steps": _STEPS + 80,
      "checkpoint.max_to_keep": 1,
      "checkpoint.period_updates": 2,
    }
  )
  train(config, run_dir=run_dir)
  (saved,) = list_checkpoints(run_dir / "checkpoints")
  assert saved.steps >= _STEPS + 80 and not saved.path.is_symlink()
  assert _files(tmp_path / "elsewhere") == before


# What a life that was lost has left.


def _lines(path: pathlib.Path) -> list[str]:
  return path.read_text().splitlines()


def test_rows_and_bests_of_a_lost_life_are_dropped(run_dir):
  checkpoint = list_checkpoints(run_dir / "checkpoints")[-1]
  record = find_resumed(run_dir, _LONGER).record
  log = run_dir / "log.csv"
  kept = _lines(log)[: record["log_rows"] + 1]
  # At the checkpoint's own counts, as one that is killed at once leaves them.
  with log.open("a") as file:
    file.write(f"{_lines(log)[-1]}\n" * 3)
  evaluations = run_dir / "evaluation.csv"
  games = _lines(evaluations)
  assert games[0].startswith("updates,steps,game,return")
  with evaluations.open("a") as file:
    # The same updates, but later; and what was played by hand with the
    # checkpoint.
    file.write(f"{checkpoint.num_updates},{checkpoint.steps + 8},0,1,9,0\n")
    file.write(f"{checkpoint.num_updates},{checkpoint.steps},0,0.5,9,0\n")
  (agent,) = list_checkpoints(run_dir / "best")
  late = f"{agent.num_updates}-{checkpoint.steps + 8}"
  shutil.copytree(agent.path, run_dir / "best" / late)
  train(
    _small({"run.total_steps": _STEPS + 8, "evaluation.num_episodes": 0}),
    run_dir=run_dir,
  )
  assert _lines(log)[: len(kept)] == kept
  steps = read_log(log)["steps"]
  assert steps[len(kept) - 1] > checkpoint.steps
  assert _lines(evaluations) == [
    *games,
    f"{checkpoint.num_updates},{checkpoint.steps},0,0.5,9,0",
  ]
  assert list_checkpoints(run_dir / "best") == [agent]


def test_the_best_after_a_resume_is_the_one_just_written(run_dir):
  """Though the life that was lost evaluated at a later step."""
  best = run_dir / "best"
  shutil.rmtree(best)
  # It cannot be read either, which must not keep the run from writing one.
  (best / "999-1000000").mkdir(parents=True)
  (best / "999-1000000" / "record.json").write_text("{")
  resumed = train(_LONGER, run_dir=run_dir)
  (found,) = list_checkpoints(best)
  assert found.steps == resumed.steps
  assert load_agent(run_dir, which="best").num_updates == found.num_updates


def test_a_run_without_a_checkpoint_starts_with_empty_logs(run_dir):
  shutil.rmtree(run_dir / "checkpoints")
  log, games = _lines(run_dir / "log.csv"), _lines(run_dir / "evaluation.csv")
  assert list((run_dir / "best").iterdir())
  train(
    _small({"run.total_steps": 40, "evaluation.num_episodes": 0}),
    run_dir=run_dir,
  )
  steps = read_log(run_dir / "log.csv")["steps"]
  assert steps and max(steps) <= 44 and not (run_dir / "best").exists()
  assert not (run_dir / "evaluation.csv").exists()
  assert _lines(run_dir / "log.csv.old") == log
  assert _lines(run_dir / "evaluation.csv.old") == games
  assert list((run_dir / "best.old").iterdir())


def test_games_that_cannot_be_written_down_are_a_warning(run_dir, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(monitor, "write_evaluation", fail)
  console = Console(record=True, width=200)
  result = train(_LONGER, run_dir=run_dir, console=console)
  assert len(result.evaluation.returns) == 2
  assert "warning: [Errno 28] No space left on device" in console.export_text()


def test_a_run_of_an_earlier_version_goes_on(run_dir):
  """Its log is widened, which is said before anything is compiled."""
  _change_record(run_dir, log_rows=..., prng_impl=...)
  log = run_dir / "log.csv"
  columns = _lines(log)[0].split(",")
  place = columns.index("loss")
  lines = [line.split(",") for line in _lines(log)]
  cut = [
    [x for i, x in enumerate(line) if i != place] + ["7"] for line in lines
  ]
  cut[0][-1] = "gone"
  log.write_text("".join(",".join(line) + "\n" for line in cut))
  console = Console(record=True, width=200)
  train(_LONGER, run_dir=run_dir, console=console)
  said = console.export_text()
  assert "log.csv gets new columns, NaN so far: loss" in said
  assert said.index("log.csv gets") < said.index("resuming from")
  assert _lines(log)[0].split(",") == [*columns, "gone"]
  found = read_log(log)
  assert np.isnan(found["loss"][0]) and np.isfinite(found["loss"]).any()
  assert found["gone"][0] == 7 and np.isnan(found["gone"][-1])
