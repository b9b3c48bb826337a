"""Breaks runs on purpose and checks what is left: `make drills`.

    python -m experiments.drills                      all, the soak for 5 minutes
    python -m experiments.drills kill-lockstep nan
    python -m experiments.drills soak-reverb --minutes 60
"""

import functools
import pathlib
import sys
import tempfile
import time
from typing import Annotated, Callable

from rich.console import Console
import tyro

from experiments.drills import faults, kills, refusals, soak
from experiments.drills.drill import DrillFailed

DRILLS: dict[str, Callable[..., str | None]] = {
    "kill-lockstep": kills.kill_in_lockstep,
    "kill-lockstep-saving": functools.partial(
        kills.kill_in_lockstep, sabotage="kill-save", at=3
    ),
    "kill-lockstep-envpool": functools.partial(
        kills.kill_in_lockstep, task="Catch-v0"
    ),
    "kill-threads-reverb": kills.kill_threads,
    "kill-threads-local": functools.partial(kills.kill_threads, backend="local"),
    "full-disk": refusals.full_disk,
    "directories": refusals.directories_that_cannot_be_used,
    "nan": faults.not_a_number,
    "environment": faults.environment_that_raises,
    "dead-server": faults.dead_server,
    "soak-local": functools.partial(soak.soak, backend="local"),
    "soak-reverb": functools.partial(soak.soak, backend="reverb"),
}


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    minutes: float = 5.0,
    keep: pathlib.Path | None = None,
) -> int:
  """Breaks runs on purpose: kills, full disks, NaN, dead servers, long runs.

  Args:
    names: which drills; none means all.
    minutes: how long each soak lasts.
    keep: directory in which everything stays; otherwise it is removed.
  """
  console = Console()
  if unknown := set(names) - set(DRILLS):
    print(
        f"error: no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}",
        file=sys.stderr,
    )
    return 2
  failed = 0
  with tempfile.TemporaryDirectory() as temporary:
    directory = keep or pathlib.Path(temporary)
    for name in names or DRILLS:
      drill, start = DRILLS[name], time.monotonic()
      options = {"minutes": minutes} if name.startswith("soak") else {}
      place = directory / name
      place.mkdir(parents=True, exist_ok=True)
      try:
        said = drill(place, **options) or ""
        verdict = "passed"
      except (DrillFailed, AssertionError) as error:
        said, verdict, failed = str(error), "FAILED", failed + 1
      seconds = time.monotonic() - start
      console.print(
          f"{name:22} {verdict} in {seconds:.0f} s {said}",
          highlight=False,
          markup=False,
          soft_wrap=True,
      )
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(tyro.cli(main, prog="python -m experiments.drills"))
