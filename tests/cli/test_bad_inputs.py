"""Wrong command lines, settings and files: one clear message, exit code 2.

Nothing is created or changed on the way, and nothing is ever trained or played:
where a run would begin, the tests fail.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import signal
import tempfile
from typing import Literal, get_args, get_origin

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
import pytest

from r2d2_jax.cli import evaluate, plot, record, scoreboard, train
from r2d2_jax.config import (
  Config,
  ConfigError,
  from_dict,
  to_dict,
  validate,
)
from r2d2_jax.presets import PRESETS, smoke
from r2d2_jax.system import train as training
from r2d2_jax.system.storage import agents as saved
from r2d2_jax.system.storage.rundir import read_config, write_config
from r2d2_jax.video import recording

_MANY = settings(max_examples=120)
_FIELDS = {
  f"{section.name}.{field.name}": field.type
  for section in dataclasses.fields(Config)
  for field in dataclasses.fields(section.type)
}
_HELP = {"-h", "--help"}


@pytest.fixture(autouse=True, scope="module")
def _nothing_starts():
  """Fails where a run, a game or a video would begin."""

  def fail(*args, **kwargs):
    pytest.fail("it was let through")

  handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "build", fail)
    patch.setattr(recording, "record", fail)
    patch.setattr(saved, "restore_learner", fail)
    patch.setenv("COLUMNS", "80")  # tyro's boxes
    yield
  for number, handler in handlers.items():
    signal.signal(number, handler)


def _tree(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes()
    if path.is_file()
    else b""
    for path in directory.rglob("*")
  }


def _refusal(main, arguments: list[str], directory: pathlib.Path) -> str:
  """What a command says to arguments that are wrong; checks how it says it.

  Args:
    main: of the command.
    arguments: of the command line.
    directory: the working directory; must stay as it is.

  Returns:
    stderr, without the frames and line breaks of tyro's boxes.
  """
  before = _tree(directory)
  # As Python opens them.
  out = io.TextIOWrapper(io.BytesIO(), "utf-8")
  err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.chdir(directory))
    stack.enter_context(contextlib.redirect_stdout(out))
    stack.enter_context(contextlib.redirect_stderr(err))
    try:
      code = main(arguments)
    except SystemExit as exit_:
      code = exit_.code
  out.flush(), err.flush()
  said = err.buffer.getvalue().decode()
  assert code == 2, (arguments, code, out.buffer.getvalue(), said)
  assert "Traceback" not in said
  if said.startswith("error: "):
    assert said.count("error: ") == 1
    assert len(said) < 1500 + sum(map(len, arguments))
  else:
    assert said.count("╭") == said.count("╰") == 1, said
    assert len(said.splitlines()) < 60, said
  assert _tree(directory) == before
  return "".join(line.strip("│╭╰╮╯─ ") for line in said.splitlines())


@contextlib.contextmanager
def _empty_directory():
  with tempfile.TemporaryDirectory() as directory:
    yield pathlib.Path(directory)


def _names(flag_or_field: str, said: str) -> bool:
  """Whether a message names a setting, as a flag or as a field."""
  plain = lambda text: text.replace("-", "_").replace(" ", "")
  return plain(flag_or_field) in plain(said)


# Command lines of training.


def _wrong_words(type_) -> list[str]:
  """Values that no setting of this type takes."""
  if get_origin(type_) is Literal:
    return ["", "x", get_args(type_)[0].upper(), "0", "None"]
  return {
      int: ["", "x", "1.5", "nan", "inf", "1e3", "0x10", "-1", "9" * 17,
            "9" * 5000, "½", "None", "1 000"],
      float: ["", "x", "nan", "inf", "-inf", "-1", "1e31", "1e999", "1,5",
              "9" * 400, "None"],
      bool: ["maybe", "2", ""],
      str: ["\n", "a\0b", "\ud800", "\x1b[31m"],
      tuple[int, ...]: ["", "x", "0", "-1", "1.5", "nan", "9" * 17, "8,8"],
  }[type_]  # fmt: skip


@st.composite
def _wrong_settings(draw) -> tuple[str, list[str]]:
  """A field, and arguments that set it to what it does not take."""
  field = draw(st.sampled_from(sorted(_FIELDS)))
  type_ = _FIELDS[field]
  words = st.sampled_from(_wrong_words(type_))
  if type_ is not str:
    # A letter that begins no number, true or false.
    words |= st.text(max_size=20).map(lambda text: f"q{text}")
  word = draw(words)
  flag = f"--{field.replace('_', '-')}"
  # 'x' alone would be left over, 'x' after = belongs to the flag.
  if type_ is bool or draw(st.booleans()):
    return field, [f"{flag}={word}"]
  return field, [flag, word]


@_MANY
@given(wrong=_wrong_settings(), preset=st.sampled_from(sorted(PRESETS)))
# What was let through, or ended in a traceback, before.
@example(
  wrong=("run.max_minutes", ["--run.max-minutes", "nan"]), preset="paper"
)
@example(wrong=("env.num_envs", ["--env.num-envs", "9" * 17]), preset="paper")
@example(wrong=("run.seed", ["--run.seed", "9" * 400]), preset="paper")
@example(wrong=("run.max_minutes", ["--run.max-minutes=1e308"]), preset="paper")
@example(wrong=("run.run_dir", ["--run.run-dir", "a\0b"]), preset="smoke")
@example(wrong=("env.task", ["--env.task", "\ud800"]), preset="smoke")
@example(wrong=("env.num_threads", ["--env.num-threads=9999"]), preset="smoke")
@example(
  wrong=("network.torso_channels", ["--network.torso-channels", "8"]),
  preset="laptop",
)
def test_a_wrong_setting_is_named(wrong, preset):
  field, arguments = wrong
  with _empty_directory() as directory:
    said = _refusal(train.main, ["--preset", preset, *arguments], directory)
  # Of what follows a switch after =, tyro names the value alone.
  switch = _FIELDS[field] is bool
  assert _names(field, said) or switch and "Unrecognized options" in said, said


@_MANY
@given(
  flag=st.text(max_size=20).map(lambda text: f"--{text}"),
  place=st.integers(0, 2),
)
@example(flag="--agent.nsteps", place=1)
@example(flag="--agent", place=1)
@example(flag="--no-run.lock", place=2)
def test_an_unknown_flag_is_named(flag, place):
  assume(flag not in _HELP and not flag.startswith("--preset"))
  assume(flag != "--")  # ends the flags, by convention
  arguments = ["--preset=smoke", "--agent.n-step=3"]
  arguments.insert(place, flag)
  with _empty_directory() as directory:
    said = _refusal(train.main, arguments, directory)
  # A frame may break long names, and strip what is blank.
  renamed = "this setting is called" in said  # it is named without its dashes
  assert (
    renamed
    or _names("".join(flag.split())[:10], said)
    or not flag.isprintable()
  ), said


@pytest.mark.parametrize(
  "field",
  sorted(
    set(_FIELDS)
    - {
      field
      for field, type_ in _FIELDS.items()
      if type_ is bool or get_origin(type_) is tuple
    }
  ),
)
def test_a_missing_value_is_named(field, tmp_path):
  said = _refusal(train.main, [f"--{field.replace('_', '-')}"], tmp_path)
  assert _names(field, said)


@_MANY
@given(name=st.text(max_size=20))
@example(name="")
@example(name="Paper")
def test_an_unknown_preset_is_refused_with_those_there_are(name):
  assume(name not in PRESETS)
  with _empty_directory() as directory:
    said = _refusal(train.main, ["--preset", name], directory)
  assert "--preset: expected one of paper, submission" in said


def _contradictions() -> st.SearchStrategy[tuple[str, list[str]]]:
  """The setting that is named, and settings that cannot be together."""
  return st.one_of(
    st.builds(
      lambda n, more: (
        "env.batch_size",
        [f"--env.num-envs={n}", f"--env.batch-size={n + more}"],
      ),
      st.integers(1, 999),
      st.integers(1, 999),
    ),
    st.builds(
      lambda n, more: (
        "env.num_threads",
        [f"--env.num-envs={n}", f"--env.num-threads={n + more}"],
      ),
      st.integers(1, 999),
      st.integers(1, 999),
    ),
    st.builds(
      lambda n, more: (
        "agent.overlap",
        [f"--agent.trace-length={n}", f"--agent.overlap={n + more}"],
      ),
      st.integers(1, 999),
      st.integers(0, 999),
    ),
    st.builds(
      lambda n, less: (
        "replay.min_sequences",
        [f"--agent.batch-size={n + less}", f"--replay.min-sequences={n}"],
      ),
      st.integers(1, 999),
      st.integers(1, 999),
    ),
    st.builds(
      lambda n, less: (
        "replay.capacity_sequences",
        [
          f"--replay.capacity-sequences={n}",
          f"--replay.min-sequences={n + less}",
        ],
      ),
      st.integers(1, 999),
      st.integers(1, 999),
    ),
    st.builds(
      lambda n: (
        "run.learner_devices",
        [f"--agent.batch-size={n}", f"--run.learner-devices={n + 1}"],
      ),
      st.integers(1, 99),
    ),
    st.builds(
      lambda n, less: (
        "env.max_episode_frames",
        [f"--env.frame-skip={n + less}", f"--env.max-episode-frames={n}"],
      ),
      st.integers(1, 99),
      st.integers(1, 99),
    ),
    st.builds(
      lambda n: (
        "env.batch_size",
        [
          "--run.lockstep",
          "--replay.backend=local",
          "--env.num-envs=99",
          f"--env.batch-size={n}",
        ],
      ),
      st.integers(1, 98),
    ),
    st.just(("replay.backend", ["--run.lockstep", "--replay.backend=reverb"])),
    st.builds(
      lambda n: (
        "agent.burn_in",
        [
          f"--agent.burn-in={2 * n + 1}",
          "--agent.trace-length=80",
          "--agent.overlap=40",
        ],
      ),
      st.integers(0, 99).filter(lambda n: (2 * n + 1) % 5),
    ),
    st.builds(
      lambda torso, n: (
        "network.torso_channels",
        [f"--network.torso={torso}", "--network.torso-channels", *["8"] * n],
      ),
      st.sampled_from(("nature", "impala")),
      st.sampled_from((1, 2, 4, 5)),
    ),
  )


@_MANY
@given(wrong=_contradictions(), preset=st.sampled_from(("paper", "laptop")))
def test_settings_that_exclude_each_other_are_named(wrong, preset):
  field, arguments = wrong
  with _empty_directory() as directory:
    said = _refusal(train.main, ["--preset", preset, *arguments], directory)
  assert field in said


# What only the world, the network or the machine can refuse.


@pytest.mark.envpool
@_MANY
@given(
  name=st.text(max_size=30)
  | st.sampled_from(
    [
      "Pongg",
      "../../Pong",
      "/etc/passwd",
      "$(id)",
      "[/b]",
      "Pong-v4",
      "A" * 3000,
      "None",
      "recall2",
      "-v5",
    ]
  )
)
@example(name="..")
def test_an_unknown_game_is_refused(name):
  pytest.importorskip("envpool")
  from r2d2_jax.envs.envpool_world import find_task
  from r2d2_jax.envs.tasks import plain_name

  assume(plain_name(name) != "recall")
  with contextlib.suppress(ValueError):
    find_task(name)
    assume(False)
  with _empty_directory() as directory:
    said = _refusal(
      train.main, ["--preset=laptop", f"--env.task={name}"], directory
    )
  assert "task" in said


@pytest.mark.parametrize(
  "arguments, words",
  [
    (
      ["--network.torso=nature", "--network.torso-channels", "8", "8", "8"],
      "torso 'nature' expects images",
    ),
    (["--network.torso=grid"], "torso 'grid' expects MiniGrid"),
    (["--env.life-loss=reset"], "life_loss='ignore'"),
    (["--run.learner-devices=16"], "run.learner_devices: expected at most"),
    (
      [
        "--replay.capacity-sequences=2000000000",
        "--run.total-steps=9" + 12 * "0",
      ],
      "replay.capacity_sequences 2000000000",
    ),
    (["--network.core-units=2000000000"], "network.core_units 2000000000"),
    (["--env.num-envs=2000000000"], "env.num_envs 2000000000"),
  ],
)
def test_what_the_world_or_the_machine_refuses(arguments, words, tmp_path):
  for plan in ([], ["--plan"]):
    said = _refusal(train.main, ["--preset=smoke", *plan, *arguments], tmp_path)
    assert words in said


# Paths.


@pytest.fixture(scope="module", name="places")
def _places(tmp_path_factory) -> pathlib.Path:
  """Directories that hold no run, or a damaged one; all in one."""
  top = tmp_path_factory.mktemp("places")
  (top / "file").write_text("mine")
  (top / "empty").mkdir()
  (top / "foreign").mkdir()
  (top / "foreign" / "log.csv").write_text("mine")

  def run(name: str) -> pathlib.Path:
    (top / name).mkdir()
    write_config(top / name, smoke())
    return top / name

  run("bare")  # no checkpoint, no log
  # All but a checkpoint, and of a game that has published scores.
  config = smoke()
  (top / "whole").mkdir()
  write_config(top / "whole", config.updated({"env.task": "Pong"}))
  (top / "whole" / "log.csv").write_text(
    "steps,frames,return_exploit,bottleneck\n1,1,1,step\n2,2,2,step\n"
  )
  (top / "whole" / "evaluation.csv").write_text(
    "updates,game,return,frames,truncated\n5,0,21,4,0\n"
  )
  for name, text in {
    "config_empty": b"",
    "config_text": b"hello",
    "config_binary": bytes(range(256)),
    "config_list": b"[]",
    "config_null": b"null",
    "config_deep": b"[" * 100_000,
    "config_wrong_type": b'{"env": {"num_envs": "64"}}',
    "config_out_of_range": b'{"network": {"core_units": -3}}',
    "config_nan": b'{"agent": {"discount": NaN}}',
    "config_unknown": b'{"agent": {"n_steps": 5}}',
    "config_section": b'{"agent": null}',
  }.items():
    (run(name) / "config.json").write_bytes(text)
  (top / "config_is_directory" / "config.json").mkdir(parents=True)
  (top / "config_is_pipe").mkdir()
  os.mkfifo(top / "config_is_pipe" / "config.json")
  (top / "link_to_nowhere").symlink_to(top / "absent")

  header = b"minutes,steps,frames,updates,return_exploit\n"
  for name, text in {
    "log_binary": b"\xff\xfe" * 99,
    "log_text": b"\n".join([b"hello"] * 9),
    "log_carriage_return": header + b"1,2\r3,4,5,6\n",
    "log_long_field": b"x" * 200_000,
    "log_words": header + b"a,b,c,d,e\n",
    "log_infinite": header + b"1,inf,inf,1,inf\n",
    "log_empty": b"",
  }.items():
    (run(name) / "log.csv").write_bytes(text)
  header = b"updates,game,return,frames,truncated\n"
  for name, text in {
    "evaluation_binary": b"\xff\xfe" * 99,
    "evaluation_columns": b"a,b\n1,2\n",
    "evaluation_words": header + b"5,0,x,4,0\n",
    "evaluation_infinite": header + b"inf,0,1,4,0\n",
    "evaluation_no_start": header + b"5,3,1,4,0\n",
    "evaluation_long_field": b"x" * 200_000,
  }.items():
    (run(name) / "evaluation.csv").write_bytes(text)
  return top


_NO_RUNS = [
  "absent",
  "absent/deeper",
  "file",
  "file/deeper",
  "empty",
  "foreign",
]
_CONFIGS = [
  "config_empty",
  "config_text",
  "config_binary",
  "config_list",
  "config_null",
  "config_deep",
  "config_wrong_type",
  "config_out_of_range",
  "config_nan",
  "config_unknown",
  "config_section",
  "config_is_directory",
  "config_is_pipe",
]
_LOGS = [
  "bare",
  "log_binary",
  "log_text",
  "log_carriage_return",
  "log_long_field",
  "log_words",
  "log_infinite",
  "log_empty",
]
_EVALUATIONS = [
  "evaluation_binary",
  "evaluation_columns",
  "evaluation_words",
  "evaluation_infinite",
  "evaluation_no_start",
  "evaluation_long_field",
]


@pytest.mark.parametrize(
  "place",
  ["file", "file/deeper", "foreign", "link_to_nowhere", "x" * 300, *_CONFIGS],
)
def test_training_leaves_a_directory_that_is_no_runs(place, places):
  said = _refusal(
    train.main, ["--preset=smoke", f"--run.run-dir={place}"], places
  )
  assert place in said
  if not place.startswith("config"):
    assert "run.run_dir: " in said


@pytest.mark.parametrize("place", _NO_RUNS + _CONFIGS + _EVALUATIONS + ["bare"])
@pytest.mark.parametrize(
  "main",
  [
    evaluate.main,
    record.main,
    scoreboard.main,
    plot.main,
  ],
  ids=["evaluate", "record", "scoreboard", "plot"],
)
def test_a_directory_without_a_whole_run_is_named(main, place, places):
  said = _refusal(main, [place], places)
  # What is damaged is named; a command that does not look at it misses the
  # rest.
  assert place in said or "no log has numbers" in said


@pytest.mark.parametrize("place", _LOGS)
def test_a_log_that_cannot_be_drawn(place, places):
  said = _refusal(plot.main, [place], places)
  assert place in said or "no log has numbers in column" in said


# Command lines of the other commands, for a run that lacks nothing but a
# checkpoint: of that they speak only where the flag is about it.
_WRONG_FLAGS = {
    evaluate.main: {
        "--episodes": ["0", "-1", "x", "1.5", "nan", "", "9" * 12],
        "--epsilon": ["-0.1", "1.1", "nan", "inf", "x", "", "-inf"],
        "--lanes": ["0", "-1", "x", "4097", "9" * 30, ""],
        "--seed": ["-1", "2147483648", "9" * 400, "x", "1e3", ""],
        "--checkpoint": ["", "newest", "-1", "7", "½", "..", "latest "],
    },
    record.main: {
        "--out": ["x.avi", "x", "", ".", "absent/x.mp4", "file/x.mp4", ".mp4",
                  "empty", "x" * 300 + ".mp4"],
        "--epsilon": ["-0.1", "1.1", "nan", "inf", "x", ""],
        "--seed": ["-1", "2147483648", "9" * 400, "x"],
        "--game": ["0", "-1", "x", "9" * 30],
        "--max-steps": ["-1", "x", "1.5", "9" * 30],
        "--fps": ["-1", "nan", "inf", "1e9", "x"],
        "--checkpoint": ["", "newest", "-1", "7"],
    },
    scoreboard.main: {
        "--csv": ["", ".", "absent/x.csv", "empty", "file/x.csv"],
        "--plots": ["file", "file/deeper"],
    },
    plot.main: {
        "--out": ["", ".", "x.avi", "x", "absent/x.png", "empty", ".png"],
        "--column": ["reward", "bottleneck", "return exploit", "\n"],
        "--x": ["", "step", "return_exploit", "0"],
    },
}  # fmt: skip


@st.composite
def _wrong_flags(draw):
  main = draw(st.sampled_from(sorted(_WRONG_FLAGS, key=lambda m: m.__module__)))
  flags = _WRONG_FLAGS[main]
  flag = draw(st.sampled_from(sorted(flags)))
  if draw(st.integers(0, 9)) == 0:
    unknown = draw(st.text(alphabet="abcxyz-", min_size=4, max_size=20))
    return main, f"--{unknown}", [f"--{unknown}", "1"]
  value = draw(st.sampled_from(flags[flag]))
  if draw(st.booleans()):
    return main, flag, [f"{flag}={value}"]
  return main, flag, [flag, value]


@_MANY
@given(wrong=_wrong_flags())
@example(wrong=(record.main, "--seed", ["--seed", "9" * 30]))  # OverflowError
@example(wrong=(evaluate.main, "--lanes", ["--lanes", "9" * 30]))
@example(wrong=(plot.main, "--out", ["--out", ""]))  # made .png
@example(wrong=(plot.main, "--out", ["--out", "empty"]))  # made empty.png
def test_a_wrong_flag_is_named(wrong, places):
  main, flag, arguments = wrong
  said = _refusal(main, ["whole", *arguments], places)
  assert _names(flag.lstrip("-")[:10], said), said


@pytest.mark.parametrize("main", [evaluate.main, scoreboard.main, plot.main])
def test_no_run_at_all(main, tmp_path):
  assert "expected" in _refusal(main, [], tmp_path)


# Settings that come as JSON.

_WRONG_JSON = {
    int: ["64", 1.5, 64.0, True, None, [64], {}, float("nan"), -1, 10**17,
          10**4000],
    float: ["0.5", True, None, [0.5], {}, float("nan"), float("inf"), -1, -0.5,
            1e31, 10**400],
    bool: ["true", 0, 1, None, [], 1.0],
    str: [1, None, True, ["Pong"], {}, "a\0b", "a\nb", "\ud800"],
    tuple[int, ...]: ["8 8 8", 8, None, {}, [], [8, "8", 8], [8, 8.0, 8],
                      [8, True, 8], [8, None, 8], [8, [8], 8], [0, 8, 8],
                      [8, 8, -1], [10**17, 8, 8]],
}  # fmt: skip


def _wrong_json(type_) -> list:
  if get_origin(type_) is Literal:
    return ["", "x", get_args(type_)[0].upper(), None, 0, True, [], {}]
  return _WRONG_JSON[type_]


@st.composite
def _wrong_configs(draw):
  field = draw(st.sampled_from(sorted(_FIELDS)))
  return field, draw(st.sampled_from(_wrong_json(_FIELDS[field])))


@settings(max_examples=300)
@given(wrong=_wrong_configs())
@example(wrong=("env.num_envs", "64"))
@example(wrong=("env.num_envs", 64.0))
@example(wrong=("agent.learning_rate", 10**400))  # OverflowError in validate
@example(wrong=("run.run_dir", "a\0b"))
@example(wrong=("run.lockstep", 1))
@example(wrong=("env.life_loss", "Ignore"))
def test_a_wrong_value_in_json_is_named(wrong):
  field, value = wrong
  section, name = field.split(".")
  values = to_dict(smoke())
  values[section][name] = value
  with pytest.raises(ConfigError) as error:
    validate(from_dict(values))
  assert f"{field}: expected" in str(error.value)
  assert len(str(error.value)) < 600
  with _empty_directory() as directory:
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="config.json") as error:
      read_config(directory)
  assert field in str(error.value)


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=9,
)


@_MANY
@given(values=_JSON)
@example(values=[])
@example(values={"env": None})
@example(values={"env": []})
@example(values={"env": {"": 1}})
@example(values={"": {}})
def test_json_that_is_no_configuration_is_refused(values):
  assume(values != {})  # all defaults
  with pytest.raises(ConfigError):
    from_dict(values)
  with _empty_directory() as directory:
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="config.json"):
      read_config(directory)


@_MANY
@given(content=st.binary())
def test_bytes_that_are_no_json_are_refused(content):
  with _empty_directory() as directory:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="config.json"):
      read_config(directory)


def test_numbers_without_a_fraction_may_be_written_as_such():
  values = to_dict(smoke())
  values["replay"]["replay_ratio"] = 2
  values["run"]["max_minutes"] = 0
  config = from_dict(values)
  validate(config)
  assert (config.replay.replay_ratio, config.run.max_minutes) == (2.0, 0.0)
