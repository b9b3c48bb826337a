"""Breaks runs on purpose and checks what is left: `make drills`.

python -m experiments.drills                      all, the soak for 5 minutes
python -m experiments.drills kill-lockstep nan
python -m experiments.drills kill-threads-reverb --tries 100
python -m experiments.drills soak-reverb --minutes 60
"""

from collections.abc import Callable
import functools
import inspect
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Annotated

from rich.console import Console
import tyro

from experiments.drills import (
  clusters,
  disks,
  faults,
  kills,
  refusals,
  resumes,
  signals,
  soak,
)
from experiments.drills.drill import DrillFailed, let_trainings_hear

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
  "signals-start": signals.at_start_up,
  "signals-save": signals.in_the_last_save,
  "signals-evaluation": signals.in_the_evaluation,
  "resumes": resumes.other_settings,
  "full-disk": disks.full_disk,
  "full-disk-reverb": disks.full_disk_under_reverb,
  "directories": refusals.directories_that_cannot_be_used,
  "links": refusals.links,
  "damage": refusals.damaged_files,
  "nan": faults.not_a_number,
  "environment": faults.environment_that_raises,
  "dead-server": faults.dead_server,
  "cluster": clusters.cluster,
  "soak-local": functools.partial(soak.soak, backend="local"),
  "soak-reverb": functools.partial(soak.soak, backend="reverb"),
}


def main(
  names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
  /,
  minutes: float = 5.0,
  tries: int | None = None,
  at_a_time: int = 2,
  keep: pathlib.Path | None = None,
) -> int:
  """Breaks runs on purpose: kills, signals, full disks, damage, long runs.

  Args:
    names: which drills; none means all.
    minutes: how long each soak lasts.
    tries: kills, signals at each moment, damages of each file (5 ways); a few
      where it is not given.
    at_a_time: how many of those run beside each other.
    keep: directory in which everything stays; otherwise it is removed.
  """
  console = Console()
  if unknown := set(names) - set(DRILLS):
    print(
      f"error: no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}",
      file=sys.stderr,
    )
    return 2
  let_trainings_hear()
  failed = 0
  with tempfile.TemporaryDirectory() as temporary:
    directory = keep or pathlib.Path(temporary)
    # Hundreds of processes compile the same programs: once is enough.
    os.environ.setdefault(
      "JAX_COMPILATION_CACHE_DIR", str(directory.absolute() / "compiled")
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    for name in names or DRILLS:
      drill, start = DRILLS[name], time.monotonic()
      given = {"minutes": minutes, "at_a_time": at_a_time}
      given |= {} if tries is None else {"tries": tries}
      known = inspect.signature(drill).parameters
      options = {key: value for key, value in given.items() if key in known}
      place = directory / name
      place.mkdir(parents=True, exist_ok=True)
      try:
        said = drill(place, **options) or ""
        verdict = "passed"
      except (DrillFailed, AssertionError, subprocess.TimeoutExpired) as error:
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
