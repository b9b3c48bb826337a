"""One run of a study, in a process of its own: `python -m ... SETTINGS CORES`.

Memory of JAX and EnvPool goes back when it ends, and a crash ends nothing else.
The run lasts as long as its standard input stays open: however the study ends,
its runs end too.
"""

import json
import os
import signal
import sys
import threading

from r2d2_jax.cli.train import launch
from r2d2_jax.config import from_dict


def _stop_with_the_study(signal_number: int) -> None:
  while os.read(sys.stdin.fileno(), 1):
    pass
  os.kill(os.getpid(), signal_number)


def main() -> int:
  """Trains with the settings (JSON, as config.json) on the given processors."""
  config = from_dict(json.loads(sys.argv[1]))
  # Before JAX and EnvPool count them for their pools of threads.
  os.sched_setaffinity(0, set(map(int, sys.argv[2].split(","))))
  # In lock-step the last checkpoint is gone on from exactly. Asked politely the
  # run would log and save once more, at a moment that is never the same.
  number = signal.SIGKILL if config.run.lockstep else signal.SIGINT
  threading.Thread(
    target=_stop_with_the_study, args=(number,), daemon=True
  ).start()
  return launch(config)


if __name__ == "__main__":
  sys.exit(main())
