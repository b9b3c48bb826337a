"""Makes a video of a game: the screen, and beside it what the agent thinks of it.

    python -m experiments.record runs/Pong-laptop-... --out game.mp4

The suffix, .mp4 or .gif, decides the format. docs/recording.md has more.
"""

import dataclasses
import pathlib
import signal
import sys
from typing import Annotated

import tyro

from r2d2_jax.config import ConfigError, validate


def record_run(
    run_dir: Annotated[pathlib.Path, tyro.conf.Positional],
    /,
    out: pathlib.Path = pathlib.Path("game.mp4"),
    checkpoint: str = "latest",
    epsilon: float = 0.001,
    seed: int = 1_000_003,
    game: int = 1,
    max_steps: int = 0,
    fps: float = 0.0,
    overwrite: bool = False,
) -> None:
  """Plays one whole game with a run's agent and writes it as a video.

  Played as evaluation plays: no-op starts and frame cap are those of the run's
  settings. Ctrl-C ends the game early; the video up to there is kept.

  Args:
    run_dir: directory that training printed.
    out: file to write; .mp4 or .gif.
    checkpoint: "latest", "best" in evaluation, or a number of updates.
    epsilon: chance of a random action at each step; 0 is greedy.
    seed: of the game and the random actions; the default is evaluation's.
    game: which of the seed's games; those before it are played, not shown.
    max_steps: agent steps after which the game is cut; 0 for none.
    fps: pictures (agent steps) per second; 0 for 60 / frame skip, Atari's own
      pace, or 5 where no frames are skipped.
    overwrite: replace a file of that name.
  """
  # pylint: disable=g-import-not-at-top
  from rich.console import Console

  from r2d2_jax.system.interrupts import deferred_interrupts
  from r2d2_jax.system.recording import check_format, default_fps, record
  from r2d2_jax.system.saved import load_agent

  _check_place(out, overwrite)
  _check_numbers(seed=seed, game=game, max_steps=max_steps)
  if fps:
    check_format(out, fps)
  agent = load_agent(run_dir, which=checkpoint)
  validate(dataclasses.replace(
      agent.config,
      run=dataclasses.replace(agent.config.run, eval_epsilon=epsilon),
  ))
  check_format(out, fps or default_fps(agent))
  console = Console(highlight=False)
  console.print(
      f"{agent.config.env.task}: update {agent.num_updates}, step {agent.steps}"
  )
  shown = stopping = False

  def on_picture(moment) -> None:
    nonlocal shown
    shown = True
    status.update(f"step {moment.step}, score {moment.score:g}")

  def ask_to_stop() -> None:
    nonlocal stopping
    if not shown:  # nothing to keep yet
      raise KeyboardInterrupt
    stopping = True

  with console.status("starting") as status, deferred_interrupts(ask_to_stop):
    recording = record(
        agent,
        out,
        epsilon=epsilon,
        seed=seed,
        game=game,
        max_steps=max_steps,
        fps=fps,
        should_stop=lambda: stopping,
        on_picture=on_picture,
    )
  console.print(
      f"{recording.ending}: step {recording.steps}, score {recording.score:g}"
  )
  console.print(f"wrote {out}: {recording.pictures} pictures")
  if recording.interrupted:
    raise KeyboardInterrupt


def _check_place(out: pathlib.Path, overwrite: bool) -> None:
  if not out.parent.is_dir():
    raise ConfigError(
        f"out: expected a directory that exists, got {out.parent}; create it"
    )
  if out.exists() and not overwrite:
    raise ConfigError(
        f"out: {out} exists; give another name, or --overwrite"
    )
  if out.is_dir():
    raise ConfigError(f"out: expected the name of a file, got directory {out}")


def _check_numbers(*, seed: int, game: int, max_steps: int) -> None:
  for name, value, least in (
      ("seed", seed, 0), ("game", game, 1), ("max_steps", max_steps, 0)
  ):  # fmt: skip
    if value < least:
      raise ConfigError(f"{name}: expected at least {least}, got {value}")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  # A cluster's way of saying Ctrl-C; and background jobs start with SIGINT ignored.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    tyro.cli(record_run, args=arguments, prog="python -m experiments.record")
  except KeyboardInterrupt:
    return 130
  # ValueError, ImportError: what the world says of the run's settings;
  # RuntimeError: a checkpoint that cannot be read.
  except (ValueError, ImportError, OSError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
