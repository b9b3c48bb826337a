"""The examples run as they stand, each in a process of its own."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output_of(name):
  result = subprocess.run(
      [sys.executable, "-m", f"examples.{name}"],
      cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_own_metric():
  found = re.findall(
      r"update (\d+), distance from the target network: (.*)",
      output_of("own_metric"),
  )
  assert [int(update) for update, _ in found] == [5, 10, 15, 20]
  # The target network is copied after the updates 10 and 20: the distance grows
  # from the first row to the second, and begins anew in the third.
  first, second, third, fourth = (float(distance) for _, distance in found)
  assert 0 < first < second and 0 < third < second and third < fourth
