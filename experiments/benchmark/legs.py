"""The legs by name, and what the command line settles for all of them."""

import importlib
from typing import Literal, NamedTuple
import warnings

from experiments.benchmark.results import LegResult

Leg = Literal[
  "learner",
  "acting",
  "turns",
  "replay",
  "host",
  "end_to_end",
  "family",
  "start_up",
  "growth",
  "cluster",
]
Device = Literal["cpu", "gpu"]
# Those of a plain call: the cluster's starts Ray, and trains for 18 minutes.
USUAL_LEGS: tuple[Leg, ...] = tuple(x for x in Leg.__args__ if x != "cluster")


class Settings(NamedTuple):
  """Handed to every leg's `measure`."""

  toy: bool  # smallest sizes: shows that the legs run, measures nothing
  torch_python: str  # interpreter that has torch
  device: Device = "cpu"  # "gpu": `learner` and `acting` have other cases


def measure_leg(name: Leg, settings: Settings) -> LegResult:
  """Runs a leg; imports what it needs."""
  # Known to whoever starts it, and said once for each of dozens of servers.
  warnings.filterwarnings("ignore", message="Reverb listens")
  leg = importlib.import_module(f"experiments.benchmark.{name}")
  return leg.measure(settings)
