"""The command `r2d2-jax`: one word for each command of the package."""

import importlib
import sys

_COMMANDS = {
  "train": "train an agent on one task; go on with a run",
  "cluster": "train in many processes, on one machine or many",
  "sweep": "train on many tasks with many seeds, over a cluster",
  "evaluate": "play whole games with the agents of runs",
  "export": "an agent of a run as a small folder to give away",
  "record": "a game of an agent as a video",
  "plot": "learning curves of runs",
  "scoreboard": "scores of many runs beside the published ones",
}
# Those whose modules lie elsewhere; nothing here imports them.
_MODULES = {
  "cluster": "r2d2_jax.cluster.command",
  "sweep": "r2d2_jax.cluster.sweep.command",
}


def main(arguments: list[str] | None = None) -> int:
  """Runs the command that the first argument names; returns its exit code."""
  arguments = sys.argv[1:] if arguments is None else arguments
  name = arguments[0] if arguments else "--help"
  if name in _COMMANDS:
    module = _MODULES.get(name, f"r2d2_jax.cli.{name}")
    command = importlib.import_module(module)
    return command.main(arguments[1:])
  lines = [f"  {word:12}{what}" for word, what in _COMMANDS.items()]
  usage = "\n".join(
    [
      "usage: r2d2-jax COMMAND ...",
      "",
      *lines,
      "",
      "r2d2-jax COMMAND --help shows a command's options.",
    ]
  )
  if name in ("-h", "--help"):
    print(usage)
    return 0
  print(f"error: unknown command {name!r}\n{usage}", file=sys.stderr)
  return 2


if __name__ == "__main__":
  sys.exit(main())
