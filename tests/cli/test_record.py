"""The command line of recording: refusals, a file, Ctrl-C."""

import signal

import jax
import pytest

from r2d2_jax.agent.learning import init_learner_state, make_optimizer
from r2d2_jax.agent.networks import make_networks
from r2d2_jax.cli import record as command
from r2d2_jax.envs.recall import RecallWorld
from r2d2_jax.presets import smoke
from r2d2_jax.system.storage.checkpoints import save_checkpoint
from r2d2_jax.system.storage.rundir import checkpoints_dir, write_config
from r2d2_jax.video import recording
from tests.help import help_of

# imageio starts its decoder with a fork, which JAX warns of.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


@pytest.fixture(autouse=True)
def _handlers():
  """The command sets the process's signal handlers."""
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.fixture(scope="module", name="run_dir")
def _run_dir(tmp_path_factory):
  """A run of recall with one checkpoint, before its first update."""
  config = smoke()
  config = config.updated(
    {
      "network.torso_channels": (4,),
      "network.core_units": 4,
      "network.head_units": 4,
    }
  )
  networks = make_networks(RecallWorld(1, seed=0).spec, config=config.network)
  state = jax.jit(
    lambda key: init_learner_state(
      key, networks=networks, optimizer=make_optimizer(config.agent)
    )
  )(jax.random.key(0))
  run_dir = tmp_path_factory.mktemp("run")
  write_config(run_dir, config)
  save_checkpoint(
    checkpoints_dir(run_dir),
    jax.device_get(state),
    {"steps": 8},
    max_to_keep=1,
  )
  return run_dir


def test_help_shows_every_option_and_imports_no_jax():
  shown = help_of("experiments.record", "PIL")
  for flag in (
    "--out",
    "--checkpoint",
    "--epsilon",
    "--seed",
    "--game",
    "--max-steps",
    "--fps",
    "--overwrite",
  ):
    assert flag in shown, flag


def test_a_game_is_written_and_not_overwritten(run_dir, tmp_path, capsys):
  iio = pytest.importorskip("imageio.v3")
  out = tmp_path / "game.gif"
  arguments = [str(run_dir), "--out", str(out), "--seed", "5"]
  assert command.main(arguments) == 0
  captured = capsys.readouterr()
  pictures = len(list(iio.imiter(out)))
  assert captured.err == ""
  # A narrow terminal breaks the lines.
  told = " ".join(captured.out.split())
  assert "recall: update 0, step 8" in told
  assert f"game over: step {pictures - 1}, score" in told
  assert f"{pictures} pictures" in told

  before = out.read_bytes()
  assert command.main(arguments) == 2
  error = capsys.readouterr().err
  assert (
    error == f"error: --out: {out} exists; give another name, or --overwrite\n"
  )
  assert out.read_bytes() == before

  cut = [*arguments, "--overwrite", "--max-steps", "2", "--checkpoint", "0"]
  assert command.main(cut) == 0
  assert len(list(iio.imiter(out))) == 3


@pytest.mark.parametrize(
  "arguments, expected",
  [
    (["--out", "x.avi"], "expected a name ending in .mp4 or .gif"),
    (["--out", "absent/x.mp4"], "a directory that exists, got absent"),
    (["--out", "x.gif", "--fps", "60"], "at most 50"),
    (["--epsilon", "1.5"], "--epsilon: expected a number between 0 and 1"),
    (["--seed", "-1"], "--seed: expected a number between 0 and"),
    (["--game", "0"], "--game: expected a number between 1 and"),
    (["--max-steps", "-2"], "--max-steps: expected a number between 0 and"),
    (["--checkpoint", "7"], "checkpoint: expected one of latest, 0"),
    (["--checkpoint", "best"], "checkpoint: expected one of latest, 0"),
  ],
)
def test_what_cannot_work_is_refused(
  run_dir, arguments, expected, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert command.main([str(run_dir), *arguments]) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith("error: ") and expected in captured.err
  assert captured.err.count("\n") == 1 and captured.out == ""
  assert not list(tmp_path.iterdir())


def test_a_directory_without_a_run_is_refused(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert command.main([str(tmp_path)]) == 2
  assert "holds no run" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_pictures_so_far(
  run_dir, number, tmp_path, monkeypatch, capsys
):
  """The signal comes in the middle of the third picture, which is finished."""
  iio = pytest.importorskip("imageio.v3")
  draw = recording.Painter.draw

  def interrupted_draw(self, moment):
    if moment.step == 2:
      signal.raise_signal(number)
    return draw(self, moment)

  monkeypatch.setattr(recording.Painter, "draw", interrupted_draw)
  out = tmp_path / "game.mp4"
  arguments = [str(run_dir), "--out", str(out), "--seed", "5"]
  assert command.main(arguments) == 130
  assert len(list(iio.imiter(out))) == 3
  told = " ".join(capsys.readouterr().out.split())
  assert "interrupted: step 2" in told and "3 pictures" in told
  assert list(tmp_path.iterdir()) == [out]


def test_an_interrupt_before_the_first_picture_leaves_nothing(
  run_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    recording.Painter,
    "draw",
    lambda self, moment: signal.raise_signal(signal.SIGINT),
  )
  out = tmp_path / "game.mp4"
  assert command.main([str(run_dir), "--out", str(out)]) == 130
  assert not list(tmp_path.iterdir())
