"""The processes of a run: started, called, watched, started again."""

from collections.abc import Callable, Sequence
import pathlib
import time
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from r2d2_jax.cluster.actor_host import ActorHost
from r2d2_jax.cluster.learner_host import LearnerHost
from r2d2_jax.cluster.members import (
  Call,
  HostDied,
  Member,
  check_greeting,
  is_of_another,
  told,
)
from r2d2_jax.cluster.places import Place, in_words
from r2d2_jax.cluster.roles import EvaluatorHost, Greeting, ReplayHost
from r2d2_jax.cluster.sweep.host import RunHost
from r2d2_jax.config import first_line
from r2d2_jax.system.run.errors import RunError

_CLASSES = {
  "replay": ReplayHost,
  "actor": ActorHost,
  "learner": LearnerHost,
  "evaluator": EvaluatorHost,
  "run": RunHost,
}
_CONTROL = "control"
# Methods that are called while another one is at work.
_BESIDE = {
  ("actor", "connect"),
  ("actor", "measure_dq"),
  ("replay", "save"),
  ("run", "progress"),
  ("run", "stop"),
}
# Deaths within this time count together.
_DEATHS_SECONDS = 600.0
MARK = ".cluster"
# In the logs' directory: time, role, number, deaths so far, node, pid.
PROCESSES = "processes.csv"


class Fleet:
  """Calls, and what comes back of them; for one thread.

  The wait for a call ends: with its result, with the death of the process, or
  with a deadline, after which the process counts as dead.
  """

  def __init__(
    self,
    places: Sequence[Place],
    run_dir: pathlib.Path,
    *,
    group: Any = None,
    start_seconds: float,
    max_restarts: int,
  ):
    """See the class.

    Args:
      places: of all processes.
      run_dir: where their logs go.
      group: Ray's placement group, with a bundle for each place, in their
        order; None leaves it to Ray where a process comes to be.
      start_seconds: how long a process may take to say who it is.
      max_restarts: deaths of one role within ten minutes, see `count_death`.
    """
    self._run_dir = run_dir
    self._group = group
    self._start_seconds = start_seconds
    self._max_restarts = max_restarts
    self._calls: dict[Any, Call] = {}
    self._dead: list[HostDied] = []
    self._bundles = {(p.role, p.index): i for i, p in enumerate(places)}
    self.members = [Member(p) for p in places]
    (run_dir / "logs").mkdir(exist_ok=True)
    (run_dir / MARK).write_text("seen by all nodes\n")

  def of(self, role: str) -> list[Member]:
    """The members of a role, in order."""
    return [m for m in self.members if m.place.role == role]

  def create(self, member: Member) -> None:
    """Starts a process in the member's place; a new life of it."""
    place = member.place
    member.is_ready = False
    member.greeting = None
    # `connect` comes while `act` waits, `size` while a shard is saved.
    make: Any = ray.remote  # whose types do not know groups
    remote = make(concurrency_groups={_CONTROL: 1})(_CLASSES[place.role])
    resources = dict(place.resources)
    options: dict[str, Any] = {
      "num_cpus": resources.pop("CPU", 0),
      "num_gpus": resources.pop("GPU", 0),
      "resources": resources,
      "max_restarts": 0,
      "max_task_retries": 0,
      "runtime_env": {"env_vars": place.environ},
    }
    if self._group is not None:
      options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
        self._group, self._bundles[place.role, place.index]
      )
    member.handle = remote.options(**options).remote()

  def greet(self, member: Member, done: Callable[[Any], None]) -> None:
    """Asks a new process who it is."""

    def heard(greeting: Greeting) -> None:
      member.greeting = greeting
      check_greeting(member, self._run_dir)
      self._note(member)
      done(greeting)

    self.call(
      member,
      "greet",
      heard,
      self._start_seconds,
      *self._greeting_of(member),
    )

  def ask_greeting(self, member: Member) -> None:
    """The same, and waits; for any thread."""
    member.greeting = self.ask(
      member, "greet", self._start_seconds, *self._greeting_of(member)
    )
    check_greeting(member, self._run_dir)
    self._note(member)

  def _note(self, member: Member) -> None:
    """A line for whoever looks for a process: where it is, and since when."""
    greeting = member.greeting
    assert greeting is not None
    with (self._run_dir / "logs" / PROCESSES).open("a") as file:
      file.write(
        f"{time.strftime('%Y-%m-%d %H:%M:%S')},{member.place.role},"
        f"{member.place.index},{member.incarnation},{greeting.node},"
        f"{greeting.pid}\n"
      )

  def _greeting_of(self, member: Member) -> tuple[str, str, str]:
    name = f"{member.place.role}-{member.place.index}"
    return str(self._run_dir.absolute()), name, MARK

  def call(
    self,
    member: Member,
    what: str,
    done: Callable[..., None],
    seconds: float,
    *args: Any,
    **kwargs: Any,
  ) -> None:
    """Calls a method; its result will be given to `done`, in `poll`."""
    answers = self._method(member, what).remote(*args, **kwargs)
    # What a call returns besides its report stays where it was made.
    answer, rest = answers if isinstance(answers, list) else (answers, None)
    self._calls[answer] = Call(
      member, member.incarnation, what, time.monotonic() + seconds, done, rest
    )

  def poll(self, seconds: float) -> list[HostDied]:
    """Waits for an answer at most so long; hands out those that came.

    Returns:
      Processes that died or are silent, each once, already ended.

    Raises:
      Exception: what a process has raised.
    """
    if not self._calls:
      time.sleep(seconds)
    for answer in self._answered(seconds):
      # An answer's own death may have been noticed by one before it.
      call = self._calls.pop(answer, None)
      if call is None or call.incarnation != call.member.incarnation:
        continue
      try:
        result = ray.get(answer)
      except RayError as error:
        if isinstance(error, RayTaskError) and not is_of_another(
          error, is_group=len(self.of(call.member.place.role)) > 1
        ):
          raise told(error, call.member) from error
        self._lost(call.member, f"it died in {call.what}: {first_line(error)}")
        continue
      if call.rest is None:
        call.done(result)
      else:
        call.done(result, call.rest)
    now = time.monotonic()
    for call in list(self._calls.values()):
      if call.deadline < now and call.member.handle is not None:
        why = f"no answer to {call.what} in time; it was killed"
        if call.what == "greet":
          why = (
            f"it did not start within {self._start_seconds:g} s: expected a"
            " node with room for"
            f" {in_words(call.member.place.resources)}"
          )
        self._lost(call.member, why)
    dead, self._dead = self._dead, []
    return dead

  def _answered(self, seconds: float) -> list[Any]:
    answers = list(self._calls)
    if not answers or not ray.wait(answers, timeout=seconds)[0]:
      return []
    return ray.wait(answers, num_returns=len(answers), timeout=0)[0]

  def _lost(self, member: Member, why: str) -> None:
    # Kept until they are handed out, whatever another answer raises.
    self._dead.append(HostDied(member, why))
    self._bury(member)

  def count_death(self, died: HostDied) -> None:
    """Raises RunError where processes of a role die too often."""
    role, now = died.member.place.role, time.monotonic()
    died.member.deaths.append(now)
    recent = sum(
      now - death < _DEATHS_SECONDS
      for member in self.of(role)
      for death in member.deaths
    )
    if recent > self._max_restarts:
      raise RunError(
        f"{died}; that was death {recent} of role {role} within ten minutes"
        f" (cluster.max_restarts {self._max_restarts})"
      )

  def kill(self, member: Member) -> None:
    """Ends a process, whatever it does."""
    self._bury(member)

  def begin(self, member: Member, what: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a method; returns the reference to its answer. For any thread."""
    if member.handle is None:
      raise HostDied(member, f"it is not there for {what}")
    return self._method(member, what).remote(*args, **kwargs)

  def ask(
    self, member: Member, what: str, seconds: float, *args: Any, **kwargs: Any
  ) -> Any:
    """Calls a method and waits; for any thread.

    Raises:
      HostDied: it died, or did not answer in time.
      Exception: what it has raised.
    """
    try:
      answer = self.begin(member, what, *args, **kwargs)
      return ray.get(answer, timeout=seconds)
    except RayTaskError as error:
      raise told(error, member) from error
    except (RayError, TimeoutError) as error:
      raise HostDied(
        member, f"no answer to {what}: {first_line(error)}"
      ) from error

  def end(self) -> None:
    """Ends all processes."""
    for member in self.members:
      self._bury(member)
    (self._run_dir / MARK).unlink(missing_ok=True)

  @property
  def num_calls(self) -> int:
    """Calls on their way."""
    return len(self._calls)

  def is_called(self, member: Member, what: str) -> bool:
    """Whether such a call is on its way."""
    return any(
      call.member is member and call.what == what
      for call in self._calls.values()
    )

  def _method(self, member: Member, what: str) -> Any:
    method = getattr(member.handle, what)
    if (member.place.role, what) in _BESIDE:
      return method.options(concurrency_group=_CONTROL)
    return method.options(num_returns=2) if what == "train" else method

  def _bury(self, member: Member) -> None:
    if member.handle is not None:
      try:
        ray.kill(member.handle)
      except Exception:  # it is dead already, or Ray is
        pass
    member.handle = None
    member.is_ready = False
    member.incarnation += 1
    for answer, call in list(self._calls.items()):
      if call.member is member:
        del self._calls[answer]
