"""Section `cluster` of the settings: how many processes, and their share."""

import dataclasses

from r2d2_jax.config import ConfigError
from r2d2_jax.config.bounds import setting
from r2d2_jax.config.config import shown

# In a run's directory, beside config.json.
CLUSTER_FILE = "cluster.json"
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
  """Many processes: actor hosts, replay shards, learner hosts, an evaluator."""

  actors: int = setting(4, at_least=1)
  """Actor hosts: processes that each step many lanes."""
  lanes_per_actor: int = setting(0, at_least=0)
  """Lanes of each actor host; 0 deals out env.num_envs."""
  replay_shards: int = setting(1, at_least=1)
  """Reverb servers, each holding its part of replay.capacity_sequences. One is
  the paper's layout, and exact."""
  learner_hosts: int = setting(1, at_least=1)
  """Learner processes, each with all accelerators of its node; they split every
  batch and share one update (jax.distributed)."""
  evaluators: int = setting(1, at_least=0, at_most=1)
  """1 evaluates in a process of its own, 0 in the command's own process."""
  address: str = ""
  """'host:port' of a Ray cluster to join, or 'auto' for the one of this node;
  empty takes RAY_ADDRESS, and starts Ray on this machine alone where that is
  not set."""
  actor_cpus: float = setting(1.0, above=0)
  """CPUs that an actor host reserves; its environments get as many threads."""
  replay_cpus: float = setting(1.0, above=0)
  """CPUs that a replay shard reserves."""
  learner_cpus: float = setting(1.0, above=0)
  """CPUs that a learner host reserves."""
  evaluator_cpus: float = setting(1.0, above=0)
  """CPUs that the evaluator reserves."""
  learner_gpus: int = setting(0, at_least=0)
  """GPUs that a learner host reserves and uses; 0 leaves it to JAX."""
  actor_resource: str = ""
  """A custom resource of Ray of which an actor host takes 1, to choose its
  nodes; empty for any node."""
  replay_resource: str = ""
  """The same for replay shards."""
  learner_resource: str = ""
  """The same for learner hosts, such as 'TPU-v5e-head'."""
  lease_seconds: float = setting(0.25, above=0)
  """About how long actors and learner go on before they report."""
  publish_seconds: float = setting(0.25, above=0)
  """Least time between two deliveries of parameters to the actors."""
  start_seconds: float = setting(300.0, above=0)
  """How long a process may take to start, its first compilation included."""
  patience_seconds: float = setting(120.0, above=0)
  """How long a process may take for what usually takes lease_seconds; after
  that it is killed and started again."""
  max_restarts: int = setting(5, at_least=0)
  """How often processes of one role may die within ten minutes; the next death
  ends the run."""
  lane_steps_per_second: float = setting(65.0, above=0)
  """Steps of a lane per second that --plan computes the network's load with
  (the paper's 256 actors: about 65)."""


_WORDS = {int: "a whole number", float: "a number", str: "text"}


def check_values(cluster: ClusterConfig) -> None:
  """Refuses values of another type, or out of their bounds.

  Raises:
    ConfigError: one line for each setting at fault.
  """
  faults = []
  for field in dataclasses.fields(cluster):
    value = getattr(cluster, field.name)
    kinds = (int, float) if field.type is float else (field.type,)
    if type(value) not in kinds:  # to Python a bool is an int
      expected = _WORDS[field.type]
    elif bounds := field.metadata.get("bounds"):
      expected = bounds.fault(value, _MOST)
    else:
      expected = "" if value.isprintable() else "printable characters"
    if expected:
      faults.append(
        f"cluster.{field.name}: expected {expected}, got {shown(value)}"
      )
  if faults:
    raise ConfigError("\n".join(faults))
