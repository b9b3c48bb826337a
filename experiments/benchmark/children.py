"""Child processes: one for each leg, and steppers that wait for orders.

A leg in a process of its own starts with clean thread pools and memory. A
stepper stays alive between rounds, asleep, so that two of them can take turns
on the same cores: their pools never compete.

A stepper's program calls `serve`, which needs nothing but the standard library.
"""

from collections.abc import Callable
import concurrent.futures
import json
import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def in_child(function: Callable[..., Any], *args: Any) -> Any:
  """Calls a module's function in a fresh process; what it raises is raised."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    return pool.submit(function, *args).result()


def serve(call: Callable[[], None], **info: Any) -> None:
  """The child's side: for every n on stdin, the seconds of n calls on stdout.

  Args:
    call: one unit of work, finished when it returns.
    **info: plain values for the parent, sent first.
  """
  print(json.dumps(info), flush=True)
  for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
      start = time.perf_counter()
      call()
      seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)


class Stepper:
  """The parent's side of `serve`; a context manager.

  Attributes:
    info: what the child sent first.
  """

  def __init__(self, python: str, module: str, *arguments: str):
    """Starts `python -m module arguments` and waits until it can step.

    Raises:
      RuntimeError: the child ended; with the last lines that it printed.
    """
    self._name = f"{python} -m {module}"
    self._errors = tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      [python, "-m", module, *arguments],
      cwd=ROOT,
      text=True,
      stderr=self._errors,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    self.info = self._answer()

  def seconds(self, calls: int) -> list[float]:
    """Lets the child step, and returns the seconds of each call."""
    self._process.stdin.write(f"{calls}\n")
    self._process.stdin.flush()
    return self._answer()

  def _answer(self) -> Any:
    line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    code = self._process.wait()
    self._errors.seek(0)
    tail = "".join(self._errors.readlines()[-5:])
    raise RuntimeError(f"{self._name} ended with code {code}: {tail}")

  def __enter__(self) -> "Stepper":
    return self

  def __exit__(self, *exception: object) -> None:
    # With its stdin closed the child's loop is over.
    self._process.stdin.close()
    try:
      self._process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._errors.close()


def in_turns(
  sides: list[Stepper], *, rounds: int, calls: int
) -> list[list[list[float]]]:
  """Side -> round -> seconds of each call: first one side, then the other."""
  for side in sides:  # the first call after the warm-up still allocates
    side.seconds(1)
  seconds: list[list[list[float]]] = [[] for _ in sides]
  for _ in range(rounds):
    for side, of_side in zip(sides, seconds, strict=True):
      of_side.append(side.seconds(calls))
  return seconds
