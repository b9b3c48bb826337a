"""One process of a run: who it is, how it died, what it has raised."""

import collections
from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

from ray.exceptions import RayError, RayTaskError

from r2d2_jax.cluster.places import Place
from r2d2_jax.cluster.roles import Greeting, versions
from r2d2_jax.config import ConfigError


class HostDied(Exception):
  """A process is gone, or silent for too long; says which, and where."""

  def __init__(self, member: "Member", why: str):
    super().__init__(f"{member.words}: {why}")
    self.member = member


class Member:
  """One process, in its present life."""

  def __init__(self, place: Place):
    self.place = place
    self.handle: Any = None
    self.incarnation = 0
    self.greeting: Greeting | None = None
    self.is_ready = False
    self.deaths: collections.deque[float] = collections.deque()

  @property
  def name(self) -> str:
    """'actor 3'."""
    return f"{self.place.role} {self.place.index}"

  @property
  def words(self) -> str:
    """Who, where, and the file that says more."""
    if self.greeting is None:
      return f"{self.name} (not started yet)"
    log = self.greeting.log or "Ray's own, /tmp/ray/session_latest/logs there"
    return (
      f"{self.name} (node {self.greeting.node}, pid {self.greeting.pid}, log"
      f" {log})"
    )


class Call(NamedTuple):
  """A call on its way."""

  member: Member
  incarnation: int
  what: str
  deadline: float
  done: Callable[..., None]
  rest: Any  # reference to a second result; None where there is none


def check_greeting(member: Member, run_dir: pathlib.Path) -> None:
  """Refuses a process that cannot work with the others.

  Raises:
    ConfigError: another version of something, or one that has to write into the
      run's directory and does not see it.
  """
  greeting = member.greeting
  assert greeting is not None
  wrong = [
    f"{name} {greeting.versions.get(name)} instead of {version}"
    for name, version in versions().items()
    if greeting.versions.get(name) != version
  ]
  if wrong:
    raise ConfigError(
      f"cluster: expected the same versions on all nodes, got"
      f" {', '.join(wrong)} on node {greeting.node}; give it the same"
      " environment"
    )
  if member.place.role in ("replay", "run") and not greeting.sees_run_dir:
    raise ConfigError(
      f"run.run_dir: expected a directory that all nodes share, but node"
      f" {greeting.node} does not see {run_dir}; give one on a shared"
      " file system"
    )


def is_of_another(error: RayTaskError, *, is_group: bool) -> bool:
  """Whether what it raised tells of the death of another process.

  What it was given was lost with its owner; or a collective has failed, by
  which the members of a learner group notice that one of them is gone."""
  if is_group and type(error.cause).__name__ in (
    "JaxRuntimeError",
    "XlaRuntimeError",
  ):
    return True
  return isinstance(error.cause, RayError)


def told(error: RayTaskError, member: Member) -> BaseException:
  """What a process has raised, as its own kind where that says it all."""
  cause = error.cause
  if cause is None:
    return error
  if isinstance(cause, Exception) and not str(cause):
    return error
  # The traceback of over there, for crash.txt.
  cause.add_note(f"raised by {member.words}\n{error}")
  return cause
