"""Runs the training command until its first update, and notes when.

    python -m experiments.benchmark.first_update MOMENTS.json --preset smoke ...

The command itself is untouched: only its loops are watched. After the first
update it gets the signal of Ctrl-C. The moments are on the monotonic clock,
which all processes share.
"""

import json
import os
import pathlib
import signal
import sys
import time

from r2d2_jax.cli import train as command


def main() -> int:
  """Returns the command's exit code: 130, as after Ctrl-C."""
  path, *arguments = sys.argv[1:]
  # Here and not above: the command too imports it late.
  from r2d2_jax.system.run import build as parts

  moments = {}

  class WatchedActors(parts.ActorLoop):
    def step(self):
      result = super().step()
      moments.setdefault("first_action", time.monotonic())
      return result

  class WatchedLearner(parts.LearnerLoop):
    def step(self, batch):
      super().step(batch)
      if "first_update" not in moments:
        self.state()  # waits until the update is done
        moments["first_update"] = time.monotonic()
        pathlib.Path(path).write_text(json.dumps(moments))
        os.kill(os.getpid(), signal.SIGINT)

  parts.ActorLoop, parts.LearnerLoop = WatchedActors, WatchedLearner
  return command.main(arguments)


if __name__ == "__main__":
  sys.exit(main())
