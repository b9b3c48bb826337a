"""Makes a video of a game: the screen, and beside it what the agent thinks.

    python -m experiments.record runs/Pong-laptop-... --out game.mp4

The suffix, .mp4 or .gif, decides the format. docs/recording.md has more.
"""

import contextlib
import pathlib
import sys
from typing import Annotated

import tyro

from r2d2_jax.cli.command import (
  check_new_file,
  check_number,
  program,
  run_command,
)
from r2d2_jax.config import ConfigError
from r2d2_jax.system.run.interrupts import heard_signals


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
    run_dir: directory that training printed, or of an exported agent;
      hub:owner/name is one on the Hugging Face Hub.
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
  from rich.console import Console

  from r2d2_jax.system.compile_cache import keep_compiled
  from r2d2_jax.system.storage.agents import load_agent
  from r2d2_jax.video.recording import check_format, default_fps, record

  check_new_file("--out", out, ".mp4", ".gif")
  if out.exists() and not overwrite:
    raise ConfigError(f"--out: {out} exists; give another name, or --overwrite")
  check_number("--epsilon", epsilon, 0, 1)
  check_number("--seed", seed, 0)
  check_number("--game", game, 1)
  check_number("--max-steps", max_steps, 0)
  if fps:
    check_format(out, fps)
  agent = load_agent(run_dir, which=checkpoint)
  keep_compiled(agent.config.run.compile_cache_gib)
  check_format(out, fps or default_fps(agent))
  console = Console(highlight=False, markup=False)
  shown = False
  console.print(
    f"{agent.config.env.task}: update {agent.num_updates}, step {agent.steps}"
  )

  def on_picture(moment) -> None:
    nonlocal shown
    if not shown:  # before it there is nothing to keep
      shown = True
      stack.enter_context(stop.deferred())
    status.update(f"step {moment.step}, score {moment.score:g}")

  with (
    console.status("starting") as status,
    heard_signals() as stop,
    contextlib.ExitStack() as stack,
  ):
    recording = record(
      agent,
      out,
      epsilon=epsilon,
      seed=seed,
      game=game,
      max_steps=max_steps,
      fps=fps,
      should_stop=lambda: stop.asked,
      on_picture=on_picture,
    )
  console.print(
    f"{recording.ending}: step {recording.steps}, score {recording.score:g}"
  )
  console.print(f"wrote {out}: {recording.pictures} pictures")
  if recording.interrupted:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(record_run, prog=program("record"), arguments=arguments)


if __name__ == "__main__":
  sys.exit(main())
