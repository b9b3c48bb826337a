"""Studies: what their arms change, and what is left of them when they stop."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import (
  ablations,
  archive,
  deviations,
  family,
  flicker,
  parameter_lag,
  start_state,
)
from experiments.drills.drill import KILLED
from experiments.drills.drill import command as drill_command
from experiments.studies import command, results, runner
from experiments.studies.bases import EPISODE_ROWS, base_config, is_atari
from experiments.studies.command import Options, run_study
from experiments.studies.study import Arm, Study, arm_of, changed, make_runs
from r2d2_jax.agent.learning import make_optimizer
from r2d2_jax.analysis.comparison import differing_settings, settings_of
from r2d2_jax.cli.command import exit_code
from r2d2_jax.config import ConfigError, from_dict, to_dict, validate
from r2d2_jax.envs.make import world_spec
from r2d2_jax.envs.recall import DELAYS
from r2d2_jax.family import FAMILY, MEMBERS
from r2d2_jax.system.planning.plan import check_plan, make_plan
from r2d2_jax.system.planning.words import plan_warnings
from r2d2_jax.system.storage.checkpoints import list_checkpoints
from r2d2_jax.system.storage.csv_log import RunLog
from r2d2_jax.system.storage.rundir import checkpoints_dir, write_config
from tests.help import help_of

ROOT = pathlib.Path(__file__).parents[2]
MODULES = (start_state, ablations, parameter_lag, flicker, family, deviations)
SIZES = ("small", "paper")
EVERY = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)


@pytest.fixture(autouse=True)
def _signals_as_they_were():
  handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  yield
  for number, handler in handlers.items():
    signal.signal(number, handler)


# What is declared.


def _runs(module, size, **options):
  return make_runs(
    module.study(size), out=pathlib.Path("out"), seeds=1, **options
  )


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_arms_differ_in_what_they_declare(module, size):
  study = module.study(size)
  for run in _runs(module, size):
    (arm,) = (arm for arm in study.arms if arm.name == run.arm)
    base = study.base(run.task)
    flat = [
      settings_of(config) | {"run.total_steps": config.run.total_steps}
      for config in (base, run.config)
    ]
    differing = set(differing_settings(flat))
    assert differing <= set(arm.settings), run.title
    if module in (start_state, ablations):
      assert differing == set(arm.settings), run.title
    else:  # an arm may ask for what the task has already
      assert differing or arm.name in ("64", "r2d2"), run.title


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_every_arm_can_work(module, size):
  runs = _runs(module, size)
  for run in runs:
    validate(run.config)
    assert run.config.evaluation.num_episodes > 0
    assert (run.config.run.run_dir, run.config.env.task) == (
      f"out/{run.task}/{run.arm}/seed0",
      run.task,
    )
  assert len({run.directory for run in runs}) == len(runs)


@EVERY
@pytest.mark.envpool
def test_small_fits_into_8_gib(module):
  pytest.importorskip("envpool")
  # Of the family's small tasks one is as large as the other.
  tasks = ("recall", "MsPacman") if module is family else ()
  for run in _runs(module, "small", tasks=tasks):
    plan = make_plan(
      run.config, world_spec(run.config.env), host_limit_bytes=8 * 2**30
    )
    check_plan(plan)
    warnings = plan_warnings(plan)
    if is_atari(run.config):  # no game of which is as short as that
      warnings = [w for w in warnings if "episodes of about 10 rows" not in w]
    assert not warnings, run.title


@EVERY
def test_small_studies_are_repeatable(module):
  tasks = ("recall", "MiniGrid-MemoryS7-v0", "MsPacman")
  for run in _runs(module, "small", tasks=tasks):
    assert run.config.run.lockstep and run.config.log.period_updates
    checkpoint = run.config.checkpoint
    # Saved whole and by count, or not at all.
    assert checkpoint.save_replay == (run.task != "MsPacman")
    assert bool(checkpoint.period_updates) == checkpoint.save_replay


def test_start_state_trains_the_same_rows_in_all_arms():
  for task in start_state.TASKS["small"]:
    runs = _runs(start_state, "small", tasks=(task,))
    assert len(runs) == 4
    for name in ("trace_length", "overlap", "batch_size"):
      assert len({getattr(run.config.agent, name) for run in runs}) == 1
    assert {
      (run.config.agent.start_state, run.config.agent.burn_in > 0)
      for run in runs
    } == {("zero", False), ("zero", True), ("stored", False), ("stored", True)}
    assert all(run.config.replay.row_states for run in runs)


def test_actors_at_their_own_pace_leave_the_number_of_updates():
  updates = {}
  for run in _runs(parameter_lag, "small", tasks=("MiniGrid-MemoryS7-v0",)):
    config = run.config
    updates[run.arm] = config.run.total_steps * config.replay.replay_ratio
    assert config.env.num_envs == int(run.arm.removeprefix("own_pace_"))
  assert set(updates.values()) == {updates["64"]}
  # So it is where the command line says how many steps.
  runs = _runs(parameter_lag, "small", total_steps=1000)
  assert {r.config.run.total_steps for r in runs} == {250, 1000, 4000}


def test_life_loss_is_for_games_with_lives():
  arms = lambda task: {
    run.arm for run in _runs(ablations, "small", tasks=(task,))
  }
  lives = {"life_roll", "life_reset"}
  assert arms("ms_pacman") - arms("recall") == lives | {"gamma_0.997"}
  assert arms("MsPacman") == {arm.name for arm in ablations.ARMS} - {
    "gamma_0.99"
  }


def test_a_mean_over_time_is_the_sum_with_another_epsilon_and_clip():
  """Adam's step and the clip do not know the scale, but for these two."""
  base, mean, full = _runs(deviations, "small", tasks=("recall",))
  rows = base.config.agent.trace_length - 1
  for name in ("adam_epsilon", "max_grad_norm"):
    values = [getattr(r.config.agent, name) for r in (base, mean)]
    assert values[1] == rows * values[0]
  assert base.config.agent.adam_epsilon == 1e-3  # the paper's
  # The identity, on gradients small and large.
  for scale in (1e-4, 1.0, 100.0):
    gradient = scale * np.random.default_rng(0).normal(size=50)
    gradient = gradient.astype(np.float32)
    steps = []
    for run, g in ((mean, gradient), (base, gradient / rows)):
      optimizer = make_optimizer(run.config.agent)
      steps.append(optimizer.update(g, optimizer.init(g))[0])
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
  assert full.config.agent.lookahead_rows == full.config.agent.n_step - 1


def test_sequential_updates_hold_whole_episodes():
  runs = _runs(flicker, "small", tasks=("recall", "Catch-v0", "Pong"))
  whole = {r.task: r.config for r in runs if r.arm == "drqn_sequential_flicker"}
  assert set(whole) == {"recall", "Catch-v0"}
  for task, config in whole.items():
    assert config.agent.trace_length >= EPISODE_ROWS[task]
  # Cue, distractors, hush, query, the last row.
  assert EPISODE_ROWS["recall"] == 1 + DELAYS["recall"][1] + 3


@pytest.mark.parametrize("task", ["Catch-v0", "recall"])
def test_small_arms_of_the_family_are_its_presets(task):
  """What a run of the study is, `--preset NAME-small --env.task TASK` is."""
  runs = {r.arm: r.config for r in _runs(family, "small", tasks=(task,))}
  assert tuple(runs) == family.ROAD
  for name, config in runs.items():
    preset = changed(FAMILY[f"{name}-small"](), {"env.task": task})
    for section in ("env", "network", "agent", "replay"):
      assert getattr(config, section) == getattr(preset, section), name


def test_published_arms_of_the_family_are_its_presets_but_for_frames_and_cap():
  for run in _runs(family, "paper", tasks=("Pong",), arms=family.ROAD):
    preset = changed(
      FAMILY[run.arm](),
      {"env.task": "Pong", "env.max_episode_frames": 108_000},
    )
    for section in ("env", "network", "agent", "replay"):
      assert getattr(run.config, section) == getattr(preset, section), run.arm


@pytest.mark.parametrize("size", SIZES)
def test_the_family_has_the_same_frames_and_the_same_games_at_the_end(size):
  tasks: dict[str, set] = {}
  for run in _runs(family, size):
    config = run.config
    tasks.setdefault(run.task, set()).add(
      (config.run.total_steps, config.env.frame_skip, config.evaluation)
    )
  assert all(len(same) == 1 for same in tasks.values())


def test_the_road_has_every_member_once_as_the_talk_tells_it():
  assert sorted(family.ROAD) == sorted(MEMBERS)
  talk = [
    "dqn", "double-dqn", "dueling", "n-step", "prioritized",
    "drqn-sequential", "drqn-random", "ape-x", "r2d2-feedforward", "r2d2",
  ]  # fmt: skip
  assert [name for name in family.ROAD if name in talk] == talk


def test_arms_of_the_family_suit_the_length_of_episodes():
  arms = lambda size, task: {r.arm for r in _runs(family, size, tasks=(task,))}
  assert arms("small", "recall") == set(MEMBERS)
  # No item holds an episode: nothing to train whole, but returns to complete.
  longer = set(MEMBERS) - {"drqn-sequential"} | {"r2d2-lookahead"}
  assert arms("small", "stateless-cartpole") == longer
  assert arms("paper", "Pong") == set(MEMBERS) | {"r2d2-lookahead"}
  for size in SIZES:
    (run,) = _runs(family, size, tasks=("Pong",), arms=("r2d2-lookahead",))
    assert run.config.agent.lookahead_rows == run.config.agent.n_step - 1 > 0


def test_an_image_has_its_torso_and_drqn_one_frame_of_it():
  runs = {r.arm: r.config for r in _runs(family, "small", tasks=("Pong",))}
  base = base_config("Pong", "small").network
  for name, config in runs.items():
    assert config.network.torso_channels == base.torso_channels
    assert config.network.frame_stack == (
      1 if name.startswith("drqn") else base.frame_stack
    )


@pytest.mark.envpool
def test_catch_is_as_long_as_thought():
  pytest.importorskip("envpool")
  from r2d2_jax.envs.make import make_world

  world = make_world(base_config("Catch-v0", "small").env, seed=0)
  world.reset()
  while not (episodes := world.pop_episodes()):
    timestep = world.recv()
    world.send(np.zeros(len(timestep.env_id), np.int32), timestep.env_id)
  world.close()
  rows = {episode.episode_steps + 1 for episode in episodes}
  assert rows == {EPISODE_ROWS["Catch-v0"]}


def test_random_updates_begin_in_any_row_and_train_as_many():
  for task in ("Catch-v0", "MiniGrid-MemoryS7-v0", "Pong"):
    runs = {r.arm: r.config for r in _runs(flicker, "small", tasks=(task,))}
    agent, base = runs["drqn_random_flicker"].agent, runs["r2d2"].agent
    assert agent.trace_length - agent.overlap == 1
    rows = [a.batch_size * (a.trace_length - 1) for a in (agent, base)]
    assert rows[0] == pytest.approx(rows[1], rel=0.1)


def test_the_first_seed_of_all_arms_comes_first():
  runs = make_runs(
    start_state.study("small"),
    out=pathlib.Path("out"),
    seeds=2,
    tasks=("recall", "Pong"),
    arms=("stored", "zero"),
  )
  assert [(r.seed, r.task, r.arm) for r in runs] == [
    (seed, task, arm)
    for seed in (0, 1)
    for task in ("recall", "Pong")
    for arm in ("zero", "stored")
  ]
  assert all(run.config.run.seed == run.seed for run in runs)


def test_one_seed_of_atari_three_of_the_others_if_nothing_is_said():
  seeds = lambda **options: [
    (run.seed, run.task)
    for run in make_runs(
      flicker.study("small"),
      out=pathlib.Path("out"),
      arms=("r2d2",),
      tasks=("Pong", "recall"),
      **options,
    )
  ]
  assert seeds() == [(0, "Pong"), (0, "recall"), (1, "recall"), (2, "recall")]
  assert seeds(seeds=2) == [
    (0, "Pong"),
    (0, "recall"),
    (1, "Pong"),
    (1, "recall"),
  ]


def test_gammas_that_are_not_the_tasks_own():
  for task, gammas in (
    ("recall", {"gamma_0.99"}),
    ("MsPacman", {"gamma_0.997"}),
    ("MiniGrid-MemoryS7-v0", {"gamma_0.997", "gamma_0.99"}),
  ):
    runs = {r.arm: r.config for r in _runs(ablations, "small", tasks=(task,))}
    assert {arm for arm in runs if arm.startswith("gamma")} == gammas
    assert f"gamma_{runs['agent'].agent.discount}" not in gammas


def test_the_arm_of_a_directory():
  for run in _runs(flicker, "small"):
    assert arm_of(run.directory, run.config) == run.arm
    assert arm_of(run.directory.parent / "seed7", run.config) == ""
  assert arm_of(pathlib.Path("seed0"), run.config) == ""


def test_arms_that_are_not_there():
  with pytest.raises(ConfigError, match="expected some of zero, .*got zreo"):
    _runs(start_state, "small", arms=("zreo",))
  with pytest.raises(ConfigError, match="suit recall, got life_roll"):
    _runs(ablations, "small", tasks=("recall",), arms=("life_roll",))


@EVERY
def test_help_is_quick_and_imports_no_jax(module):
  shown = help_of(module.__name__, "matplotlib", "numpy")
  for word in ("--size", "--seeds", "--report-only", "--out", "--arms"):
    assert word in shown


# Runs, in processes that only look like training.

_FAKE = """
import json, sys
sys.path.insert(0, {root!r})
from tests.experiments.test_study import pretend
pretend(json.loads(sys.argv[1]), crash={crash})
"""


def pretend(settings: dict, *, crash: bool) -> None:
  """What a run leaves behind, without training."""
  config = from_dict(settings)
  directory = pathlib.Path(config.run.run_dir)
  directory.mkdir(parents=True, exist_ok=True)
  write_config(directory, config)
  write_log(directory, config, until=0.5 if crash else 1.0)
  print("something went wrong" if crash else "done", flush=True)
  sys.exit(3 if crash else 0)


def write_log(directory, config, *, until=1.0, level=1.0) -> None:
  """Rows up to a share of the run; with an evaluation if that is all of it."""
  log = RunLog(directory / "log.csv")
  steps = np.linspace(0, config.run.total_steps, 21)[1:]
  for i, step in enumerate(steps[: round(until * 20)]):
    row = {
      "minutes": step / 1000,
      "steps": int(step),
      "frames": int(4 * step),
      "updates": 10 * (i + 1),
      "eval_return": float("nan"),
    } | dict.fromkeys(results.LATE_COLUMNS, level * (i + 1))
    log.write(row | {"dq_first": float("nan") if i == 19 else 0.1 * level})
  if until == 1.0:
    # As training does: the last moment again, with what was evaluated.
    log.write(row | {"eval_return": level, "dq_first": 5.0})
    games = RunLog(directory / "evaluation.csv")
    for game in range(config.evaluation.num_episodes):
      games.write(
        {
          "updates": 200,
          "game": game,
          "return": level * game,
          "frames": 4,
          "truncated": 0,
        }
      )


def tiny_study(steps: int = 2000) -> Study:
  """Two arms of recall."""
  base = changed(
    base_config("recall", "small"),
    {
      "replay.row_states": True,
      "run.total_steps": steps,
      "log.period_updates": 2,
      "checkpoint.period_updates": 5,
      "evaluation.num_episodes": 4,
      "replay.min_sequences": 16,
      "replay.replay_ratio": 4.0,
    },
  )
  return Study(
    name="tiny",
    base=lambda task: changed(base, {"env.task": task}),
    tasks=("recall",),
    arms=(Arm("zero", {"agent.start_state": "zero"}), Arm("stored")),
    seeds=lambda task: 3,
    columns=("eval_mean", "dq_first"),
  )


def _start_fake(crash_arm: str = ""):
  def start(run, cores):
    del cores
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    code = _FAKE.format(root=str(ROOT), crash=run.arm == crash_arm)
    with run.output.open("ab") as output:
      return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(to_dict(run.config))],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
      )

  return start


def _run_fake(tmp_path, monkeypatch, *, crash_arm="", **options) -> int:
  monkeypatch.setattr(runner, "start", _start_fake(crash_arm))
  monkeypatch.setattr(runner, "_POLL_SECONDS", 0.05)
  drawn = []
  plot = lambda records, path: drawn.append((len(records), path))
  options = Options(out=tmp_path / "out", **({"seeds": 1} | options))
  code = exit_code(lambda: run_study(tiny_study(), options, plot))
  assert not drawn or drawn[-1][1] == tmp_path / "out" / "tiny.png"
  return code


def _table(path):
  with path.open(newline="") as f:
    return list(csv.DictReader(f))


def test_a_crash_is_reported_and_the_others_go_on(
  tmp_path, monkeypatch, capsys
):
  assert _run_fake(tmp_path, monkeypatch, crash_arm="zero", seeds=2) == 1
  said = capsys.readouterr().out
  assert "failed: recall zero seed 0, exit code 3" in said
  assert "something went wrong" in said and "2 runs failed" in said
  rows = _table(tmp_path / "out" / "results.csv")
  assert [(r["arm"], r["seed"], r["finished"]) for r in rows] == [
    ("zero", "0", "0"),
    ("zero", "1", "0"),
    ("stored", "0", "1"),
    ("stored", "1", "1"),
  ]
  assert rows[0]["eval_mean"] == "nan" and rows[0]["steps"] == "1000"
  (summary,) = _table(tmp_path / "out" / "summary.csv")
  assert (summary["arm"], summary["seeds"]) == ("stored", "2")


def test_finished_runs_are_skipped_and_more_seeds_added(
  tmp_path, monkeypatch, capsys
):
  assert _run_fake(tmp_path, monkeypatch) == 0
  log = tmp_path / "out" / "recall" / "zero" / "seed0" / "log.csv"
  before = log.read_bytes()
  capsys.readouterr()
  assert _run_fake(tmp_path, monkeypatch, seeds=2) == 0
  said = capsys.readouterr().out
  assert "4 runs, 2 of them finished" in said
  assert said.count("finished recall") == 2
  assert log.read_bytes() == before


def test_two_jobs_at_a_time(tmp_path, monkeypatch):
  assert _run_fake(tmp_path, monkeypatch, seeds=2, jobs=2) == 0
  rows = _table(tmp_path / "out" / "results.csv")
  assert [r["finished"] for r in rows] == ["1"] * 4


def test_runs_of_other_settings_are_refused(tmp_path, monkeypatch, capsys):
  assert _run_fake(tmp_path, monkeypatch) == 0
  assert _run_fake(tmp_path, monkeypatch, steps=1000) == 2
  assert "another run.total_steps" in capsys.readouterr().err
  directory = tmp_path / "out" / "recall" / "stored" / "seed0"
  write_config(
    directory,
    changed(
      make_runs(tiny_study(), out=tmp_path / "out", seeds=1)[1].config,
      {"agent.n_step": 5},
    ),
  )
  assert _run_fake(tmp_path, monkeypatch) == 2
  assert "another agent.n_step;" in capsys.readouterr().err


@pytest.mark.envpool
def test_tasks_that_are_not_there_are_refused_at_once(tmp_path, capsys):
  pytest.importorskip("envpool")
  main = start_state.main
  assert main(["--tasks", "Pongg", "--out", str(tmp_path / "out")]) == 2
  assert "unknown task 'Pongg'" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_a_study_that_ends_takes_its_runs_along(tmp_path, monkeypatch):
  sleeper = "import os, sys\nwhile os.read(0, 1): pass\n"
  started = []

  def start(run, cores):
    del run, cores
    started.append(
      subprocess.Popen([sys.executable, "-c", sleeper], stdin=subprocess.PIPE)
    )
    return started[-1]

  def show(going):
    if len(going) == 2:
      raise KeyboardInterrupt

  monkeypatch.setattr(runner, "start", start)
  runs = make_runs(tiny_study(), out=tmp_path, seeds=1)
  with pytest.raises(KeyboardInterrupt):
    runner.carry_out(runs, jobs=2, show=show, ended=lambda *_: None)
  assert [process.returncode for process in started] == [0, 0]


def test_places(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
  lockstep = lambda jobs: runner.places(jobs, lockstep=True)
  threads = lambda jobs: runner.places(jobs, lockstep=False)
  assert lockstep(0) == lockstep(4) == [(0,), (1,), (2,), (5,)]
  assert threads(0) == threads(1) == [(0, 1, 2, 5)]
  assert threads(2) == [(0, 2), (1, 5)] and threads(3) == [(0, 5), (1,), (2,)]
  # More runs than processors share them.
  assert lockstep(6) == threads(6) == [(0,), (1,), (2,), (5,), (0,), (1,)]
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
  assert len(lockstep(0)) == 16


@pytest.mark.parametrize("lockstep", [True, False])
def test_the_environment_of_a_run(tmp_path, monkeypatch, lockstep):
  seen = {}
  monkeypatch.setattr(
    subprocess, "Popen", lambda command, env, **_: seen.update(env)
  )
  for name in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  (run,) = make_runs(tiny_study(), out=tmp_path, seeds=1, arms=("zero",))
  run = run._replace(config=changed(run.config, {"run.lockstep": lockstep}))
  runner.start(run, (0,))
  assert seen.get("JAX_PLATFORMS") == ("cpu" if lockstep else None)
  assert seen["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / ".compiled")
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  runner.start(run, (0,))
  assert seen["JAX_PLATFORMS"] == "cuda"


def test_runs_in_lock_step_and_with_threads_take_turns(monkeypatch, tmp_path):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
  monkeypatch.setattr(runner, "_POLL_SECONDS", 0.01)
  started = []

  def start(run, cores):
    started.append((run.arm, cores))
    return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)

  monkeypatch.setattr(runner, "start", start)
  study = dataclasses.replace(
    tiny_study(),
    arms=tuple(
      Arm(name, {"run.lockstep": lockstep})
      for name, lockstep in (
        ("a", True),
        ("b", True),
        ("x", False),
        ("y", False),
        ("c", True),
      )
    ),
  )
  runner.carry_out(
    make_runs(study, out=tmp_path, seeds=1),
    jobs=0,
    show=lambda going: None,
    ended=lambda *_: None,
  )
  assert started == [
    ("a", (0,)),
    ("b", (1,)),
    ("x", (0, 1)),
    ("y", (0, 1)),
    ("c", (0,)),
  ]


# Reports.


def _write_runs(out, study, *, until=1.0, seeds=2):
  runs = make_runs(study, out=out, seeds=seeds)
  for i, run in enumerate(runs):
    run.directory.mkdir(parents=True)
    write_config(run.directory, run.config)
    write_log(run.directory, run.config, until=until, level=1.0 + i)
  return runs


def test_values_of_a_run(tmp_path):
  run = _write_runs(tmp_path, tiny_study())[0]
  (record,) = results.read_records([run])
  assert record.finished
  # The last quarter is rows 15 to 20; the row written twice counts once.
  expected = {
      "steps": 2000, "frames": 8000, "updates": 200, "eval_mean": 1.5,
      "eval_median": 1.5, "eval_games": 4, "return_area": 10.5,
      "return_mean": 17.5, "lag_p50": 17.5, "dq_first": 0.1,
  }  # fmt: skip
  got = {name: record.values[name] for name in expected}
  assert got == pytest.approx(expected)
  assert list(record.values) == list(results.COLUMNS)


def test_a_run_whose_evaluation_was_cut_off_is_not_finished(tmp_path):
  run = _write_runs(tmp_path, tiny_study())[0]
  path = run.directory / "evaluation.csv"
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
  assert not results.is_finished(run)


def test_the_clock_is_not_in_the_tables(tmp_path):
  tables = []
  for pace in (1, 3):
    out = tmp_path / str(pace)
    runs = _write_runs(out, tiny_study())
    records = [
      r._replace(minutes=pace * r.minutes) for r in results.read_records(runs)
    ]
    results.write_tables(records, out)
    tables.append(
      [
        (out / name).read_bytes()
        for name in ("results.csv", "summary.csv", "minutes.csv")
      ]
    )
  assert tables[0][:2] == tables[1][:2]
  assert tables[0][2] != tables[1][2]


@EVERY
@pytest.mark.envpool
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_report_of_what_is_there(module, share, tmp_path, capsys):
  pytest.importorskip("envpool")
  study = module.study("small")
  study = dataclasses.replace(
    study, tasks=("recall", "MiniGrid-MemoryS7-v0"), columns=study.columns
  )
  if share:
    runs = _write_runs(tmp_path, study, until=share)
    # Another has not yet written anything but its settings.
    (runs[-1].directory / "log.csv").unlink()
  options = Options(out=tmp_path, seeds=2, tasks=study.tasks, report_only=True)
  assert run_study(study, options, module.plot) == 0
  said = capsys.readouterr().out
  assert ("no run is finished" in said) == (share < 1)
  assert (tmp_path / "results.csv").exists()
  assert (tmp_path / f"{study.name}.png").exists() == (share > 0)


def _report(out, **options) -> int:
  options = Options(out=out, report_only=True, **({"seeds": 2} | options))
  return exit_code(lambda: run_study(tiny_study(), options, _draw_names))


def _draw_names(records, path):
  path.write_text(" ".join(record.run.title for record in records))


def _reports(out):
  return {
    path.name: path.read_bytes() for path in out.iterdir() if path.is_file()
  }


def test_an_archive_gives_the_same_report(tmp_path, capsys):
  there, packed = tmp_path / "there", tmp_path / "packed"
  _write_runs(there, tiny_study())
  assert _report(there) == 0
  archive.pack(there, packed / archive.FILE_NAME)
  capsys.readouterr()
  assert _report(packed) == 0
  said = capsys.readouterr().out
  assert "stored  2" in said and f"wrote {packed}" in said
  expected = _reports(there)
  assert set(expected) == {
    "results.csv",
    "summary.csv",
    "minutes.csv",
    "tiny.png",
  }
  reports = _reports(packed)
  del reports[archive.FILE_NAME]
  assert reports == expected
  # Nothing was unpacked beside it.
  assert not [path for path in packed.iterdir() if path.is_dir()]
  # Runs of other settings are told by the names that the user knows.
  assert _report(packed, steps=1000) == 2
  assert f"error: {packed / 'recall/zero/seed0'} holds a run with another" in (
    capsys.readouterr().err
  )


def test_an_archive_does_not_go_on_until_it_is_unpacked(
  tmp_path, monkeypatch, capsys
):
  out = tmp_path / "out"
  _write_runs(tmp_path / "there", tiny_study(), seeds=1)
  archive.pack(tmp_path / "there", out / archive.FILE_NAME)
  before = _reports(out)
  assert _run_fake(tmp_path, monkeypatch, seeds=2) == 2
  said = capsys.readouterr().err
  assert "holds an archive of runs, which cannot go on" in said
  assert _reports(out) == before and len(list(out.iterdir())) == 1
  # As the message has it.
  assert said.rstrip().endswith(f"experiments.archive unpack {out} {out}")
  assert archive.main(["unpack", str(out), str(out)]) == 0
  capsys.readouterr()
  assert _run_fake(tmp_path, monkeypatch, seeds=2) == 0
  assert "4 runs, 2 of them finished" in capsys.readouterr().out
  # From now on the directories count, of which there are more.
  assert _report(out) == 0
  assert len(_table(out / "results.csv")) == 4


@EVERY
@pytest.mark.envpool
def test_results_of_the_repository_are_made_of_its_archives(module, tmp_path):
  pytest.importorskip("envpool")
  study = module.study("small")
  known = ROOT / "docs" / "results" / "studies" / study.name
  shutil.copy(known / archive.FILE_NAME, tmp_path)
  options = Options(out=tmp_path, seeds=3, report_only=True)
  assert run_study(study, options, _silent) == 0
  for name in ("results.csv", "summary.csv", "minutes.csv"):
    assert (tmp_path / name).read_bytes() == (known / name).read_bytes(), name


def test_the_family_as_measured():
  """All learn Catch; recall takes memory, of a stored state or whole games."""
  path = ROOT / "docs" / "results" / "studies" / "family" / "summary.csv"
  scores = {
    (row["task"], row["arm"]): float(row["eval_mean"]) for row in _table(path)
  }
  for name in MEMBERS:
    if ("recall", name) not in scores:
      continue
    config = FAMILY[f"{name}-small"]()
    assert scores["Catch-v0", name] >= 0.9, name
    if config.network.core in ("none", "feedforward"):
      assert scores["recall", name] <= 0.3, name
    elif name != "drqn-random":  # its items begin anywhere, from zero
      assert scores["recall", name] >= 0.9, name
  assert len([task for task, _ in scores if task == "recall"]) >= 10


def test_time_left(tmp_path):
  study = tiny_study()
  runs = make_runs(study, out=tmp_path, seeds=1)
  assert np.isnan(runner.minutes_left(runs, 1))
  assert "time left: ?" in command._progress(runs, 0, [], 1)
  runs[0].directory.mkdir(parents=True)
  write_log(runs[0].directory, runs[0].config, until=0.5)
  # 1000 steps took a minute; 3000 are to go.
  assert runner.minutes_left(runs, 1) == pytest.approx(3.0)
  assert runner.minutes_left(runs, 2) == pytest.approx(1.5)
  said = command._progress(runs, 0, runs[:1], 1)
  assert (
    "0/2 runs | recall zero seed 0: 50% after 1.0 min | about 3 min" in said
  )


def test_half_a_row_is_no_row(tmp_path):
  run = make_runs(tiny_study(), out=tmp_path, seeds=1)[0]
  assert results.last_log_row(run) == (0.0, 0.0)
  run.directory.mkdir(parents=True)
  path = run.directory / "log.csv"
  path.write_text("minutes,steps\n")
  assert results.last_log_row(run) == (0.0, 0.0)
  path.write_text("minutes,steps\n1.5,30\n2.5,6")
  assert results.last_log_row(run) == (30.0, 1.5)


# Real ones.


def _silent(records, path):
  del records, path


def _start_killed(at: int):
  """A run that kills itself before an update."""

  def start(run, cores):
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # the child inherits it
    try:
      return subprocess.Popen(
        drill_command(run.config, sabotage="kill-update", at=at),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
      )
    finally:
      os.sched_setaffinity(0, before)

  return start


@pytest.mark.slow
@pytest.mark.parametrize("saves", [True, False])
def test_killed_and_resumed_gives_the_same_table(tmp_path, saves):
  study = tiny_study()
  if not saves:  # as small Atari runs: what was stopped begins anew
    base = study.base("recall")
    study = dataclasses.replace(
      study,
      base=lambda _: changed(
        base,
        {
          "checkpoint.period_updates": 0,
          "checkpoint.save_replay": False,
        },
      ),
    )
  outs = [tmp_path / "straight", tmp_path / "killed"]
  runs = make_runs(study, out=outs[1], seeds=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runner, "start", _start_killed(at=18))
    failures = runner.carry_out(
      runs[:1], jobs=1, show=lambda going: None, ended=lambda *_: None
    )
  assert [failure.returncode for failure in failures] == [KILLED]
  assert 0 < results.last_log_row(runs[0])[0] < 2000
  for out in outs:
    options = Options(out=out, seeds=1)
    assert run_study(study, options, _silent) == 0
  said = runs[0].output.read_text()
  assert ("resuming from" in said and "exactly" in said) == saves
  for name in ("results.csv", "summary.csv"):
    assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
  rows = _table(outs[0] / "results.csv")
  assert float(rows[0]["dq_last"]) > 0 and float(rows[0]["updates"]) > 40


@pytest.mark.slow
def test_a_run_ends_with_its_study_and_can_be_gone_on_with(tmp_path):
  study = tiny_study(steps=10**6)
  run = make_runs(study, out=tmp_path, seeds=1)[0]
  process = runner.start(run, (0,))
  try:
    deadline = time.monotonic() + 120
    while not list_checkpoints(checkpoints_dir(run.directory)):
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.1)
  finally:
    process.stdin.close()
    assert process.wait(60) == KILLED  # lock-step: nothing is lost
  shorter = make_runs(study, out=tmp_path, seeds=1, total_steps=1500)[0]
  process = runner.start(shorter, (0,))
  process.wait(120)
  process.stdin.close()
  assert "resuming from" in run.output.read_text()
