"""One game of an agent as a video: played, drawn, written as it goes."""

from collections.abc import Callable, Generator, Iterator
import contextlib
import dataclasses
import math
import os
import pathlib
import subprocess
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from r2d2_jax.agent.acting import compile_actor
from r2d2_jax.agent.agent import Agent
from r2d2_jax.agent.targets import unrescaled
from r2d2_jax.config import (
  AgentConfig,
  Config,
  ConfigError,
  FileError,
  MissingPackageError,
)
from r2d2_jax.envs.action_names import action_names
from r2d2_jax.envs.make import MakeWorld
from r2d2_jax.envs.make import make_world as make_usual_world
from r2d2_jax.envs.rows import check_rows
from r2d2_jax.envs.screen import screen
from r2d2_jax.parts import split_parts
from r2d2_jax.system.storage.agents import SavedAgent
from r2d2_jax.types import Params
from r2d2_jax.video.picture import Moment, Painter

# A GIF's delays are hundredths of a second, and players slow down below two.
MAX_GIF_FPS = 50

_ENCODER_OPTIONS = {
  # yuv420p: what every player shows.
  ".mp4": ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"],
  # A palette for each picture: one for all would need all of them first.
  ".gif": [
    "-filter_complex",
    "split[a][b];[a]palettegen=stats_mode=single[p];"
    "[b][p]paletteuse=new=1:dither=none",
  ],
}


class Recording(NamedTuple):
  """What was recorded."""

  pictures: int  # one for each row of the game: steps + 1
  steps: int  # agent steps
  score: float  # raw undiscounted return up to the last picture
  ending: str  # "game over", "cut by the frame cap", ...
  interrupted: bool  # should_stop ended it, not the game


def play_game(
  params: Params,
  *,
  agent: Agent,
  config: Config,
  seed: int,
  game: int = 1,
  max_steps: int = 0,
  make_world: MakeWorld = make_usual_world,
) -> Generator[Moment, None, None]:
  """Plays one whole game as evaluation does, and shows each of its rows.

  In one lane, in a world and a state of its own, with `evaluation.epsilon`; the
  loss of a life never ends it. Game g of a seed is the g-th that lane 0 of an
  evaluation of that seed plays, up to rounding where that has more lanes.

  Args:
    params: of the network that plays.
    agent: whose they are.
    config: the run's settings; env, agent and evaluation.epsilon are read.
    seed: of the world and of the random actions.
    game: which of the seed's games, from 1; those before it are not shown.
    max_steps: agent steps after which it is cut; 0 for none.
    make_world: as `envs.make.make_world`.

  Yields:
    The rows from the first to the last, in which nothing is chosen any more:
    one more than the game has steps.

  Raises:
    BadRowsError: the world gave rows that cannot be used, see `check_rows`.
  """
  world = make_world(
    dataclasses.replace(
      config.env, num_envs=1, batch_size=0, life_loss="ignore"
    ),
    seed=seed,
  )
  try:
    actor = compile_actor(agent.actor_step)
    values = jax.jit(lambda q: unrescaled(q, config=config.agent))
    state = agent.initial_actor_state(jax.random.key(seed), 1)
    epsilon = np.full(1, config.evaluation.epsilon, np.float32)
    world.reset()
    current, step, score = 0, 0, 0.0
    while True:
      timestep = world.recv()
      check_rows(timestep, spec=world.spec, task=config.env.task)
      if timestep.is_first_t[0]:
        current, step, score = current + 1, 0, 0.0
      else:
        step, score = step + 1, score + float(timestep.r_t[0])
      ending = ""
      for report in world.pop_episodes():
        score = report.episode_return
        ending = "cut by the frame cap" if report.truncated else "game over"
      if not ending and step == max_steps > 0:
        ending = f"stopped after {max_steps} steps"
      state, output = actor(params, state, timestep, epsilon)
      if current == game:
        q = np.asarray(values(output.q_t))[0]
        if timestep.action_mask_t is not None:
          q = np.where(timestep.action_mask_t[0], q, -np.inf)
        yield Moment(
          step=step,
          score=score,
          obs=split_parts(timestep.obs_t, world.spec)[0][0],
          screen=screen(world),
          q=q,
          greedy=int(np.argmax(output.q_t[0])),
          a=None if ending else int(output.a_t[0]),
          ending=ending,
        )
        if ending:
          return
      world.send(np.asarray(output.a_t), timestep.env_id)
  finally:
    world.close()


def record(
  agent: SavedAgent,
  out: pathlib.Path,
  *,
  epsilon: float,
  seed: int,
  game: int = 1,
  max_steps: int = 0,
  fps: float = 0.0,
  should_stop: Callable[[], bool] = lambda: False,
  on_picture: Callable[[Moment], None] = lambda moment: None,
) -> Recording:
  """Plays a game and writes it into `out`, replacing what is there.

  The pictures go to the encoder one by one; the file gets its name when it is
  whole. A game that is stopped early leaves the pictures up to there.

  Args:
    agent: from `load_agent`.
    out: the file, .mp4 or .gif.
    epsilon: chance of a random action.
    seed: as for `play_game`.
    game: as for `play_game`.
    max_steps: as for `play_game`.
    fps: pictures per second; 0 for the pace of the game (`default_fps`).
    should_stop: asked after each picture; True ends the recording.
    on_picture: called after each picture.

  Raises:
    ConfigError: `out` ends in neither .mp4 nor .gif, or fps does not suit it.
    MissingPackageError: imageio-ffmpeg or Pillow is not installed.
    FileError: the file cannot be written.
  """
  fps = fps or default_fps(agent)
  check_format(out, fps)
  config = agent.config.updated({"evaluation.epsilon": epsilon})
  painter = Painter(
    title=config.env.task,
    subtitle=f"{agent.num_updates} updates, epsilon {epsilon:g}",
    unit=value_unit(config.agent),
    action_names=action_names(config.env.task, agent.spec.num_actions),
  )
  pictures = 0
  with contextlib.ExitStack() as stack:
    moments = stack.enter_context(
      contextlib.closing(
        play_game(
          agent.params,
          agent=agent.agent,
          config=config,
          seed=seed,
          game=game,
          max_steps=max_steps,
        )
      )
    )
    moment = next(moments)
    picture = painter.draw(moment)
    write = stack.enter_context(open_video(out, picture.size, fps=fps))
    while True:
      write(picture.tobytes())
      pictures += 1
      on_picture(moment)
      if moment.ending or should_stop():
        break
      moment = next(moments)
      picture = painter.draw(moment)
  return Recording(
    pictures=pictures,
    steps=moment.step,
    score=moment.score,
    ending=moment.ending or "interrupted",
    interrupted=not moment.ending,
  )


def value_unit(config: AgentConfig) -> str:
  """What `Moment.q` is, in words for the picture."""
  if config.has_policy:
    return "log pi, the policy's log-probabilities"
  reward = "clipped reward" if config.reward_clip else "reward"
  if config.value_rescaling:
    return f"Q = h^-1(network's output), unit: {reward}"
  return f"Q = network's output, unit: {reward}"


def default_fps(agent: SavedAgent) -> float:
  """60 / frame skip, Atari's own pace, where frames are skipped; else 5."""
  return 60 / agent.spec.frame_skip if agent.spec.frame_skip > 1 else 5.0


def check_format(out: pathlib.Path, fps: float) -> None:
  """Refuses what `open_video` cannot write.

  Raises:
    ConfigError: another suffix, or pictures per second out of range.
  """
  if out.suffix.lower() not in _ENCODER_OPTIONS:
    raise ConfigError(
      f"out: expected a name ending in .mp4 or .gif, got {str(out)!r}"
    )
  limit = MAX_GIF_FPS if out.suffix.lower() == ".gif" else 240
  if not (math.isfinite(fps) and 0 < fps <= limit):
    raise ConfigError(
      f"fps: expected more than 0 and at most {limit} for {out.suffix},"
      f" got {fps:g}"
    )


@contextlib.contextmanager
def open_video(
  out: pathlib.Path, size: tuple[int, int], *, fps: float
) -> Iterator[Callable[[bytes], None]]:
  """Opens an mp4 or gif for writing; gives the function that takes a picture.

  The file is written under another name beside `out` and renamed at the end;
  after an error nothing is left of it.

  Args:
    out: .mp4 or .gif.
    size: width and height, multiples of 16, which every player can show.
    fps: pictures per second.

  Raises:
    MissingPackageError: imageio-ffmpeg is not installed.
    FileError: the encoder failed: no room, no such directory.
  """
  try:
    import imageio_ffmpeg
  except ImportError as error:
    raise MissingPackageError(
      "recording needs imageio-ffmpeg: pip install imageio-ffmpeg"
    ) from error
  suffix = out.suffix.lower()
  partial = out.with_name(f".{out.stem}.partial{suffix}").absolute()
  command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
  command += ["-f", "rawvideo", "-pix_fmt", "rgb24"]
  command += ["-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", "-"]
  command += [*_ENCODER_OPTIONS[suffix], str(partial)]
  with tempfile.TemporaryFile() as complaints:
    try:
      # In a process group of its own: Ctrl-C must not reach the encoder, which
      # would leave before it has had the last picture.
      encoder = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        process_group=0,
      )

      pictures = encoder.stdin
      assert pictures is not None  # a pipe, as was asked for

      def fail(error: OSError | None = None) -> None:
        encoder.wait()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").splitlines()
        raise FileError(
          f"{out} cannot be written: {(lines or ['the encoder died'])[-1]}"
        ) from error

      def write(picture: bytes) -> None:
        try:
          pictures.write(picture)
        except BrokenPipeError as error:
          fail(error)

      try:
        yield write
      except BaseException:
        encoder.kill()
        raise
      finally:
        # What is still in the pipe's buffer may break it too.
        with contextlib.suppress(BrokenPipeError):
          pictures.close()
        encoder.wait()
      if encoder.returncode:
        fail()
      os.replace(partial, out)
    finally:
      partial.unlink(missing_ok=True)
