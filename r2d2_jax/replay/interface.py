"""What both memories do: the one description of their methods."""

import pathlib
from typing import Protocol

import numpy as np

from r2d2_jax.replay.items import Item
from r2d2_jax.types import ReplaySample


class SampledReplay(Protocol):
  """What the learner needs of a memory."""

  def sample(
    self, batch_size: int, timeout_seconds: float, *, min_size: int = 1
  ) -> ReplaySample:
    """Draws items independently, with replacement.

    While every priority is 0, all items are equally likely. Reverb prefetches:
    its batches were drawn some calls ago. A queue hands out its oldest items,
    which leave it, as soon as it has a batch of them; min_size is not read.

    Args:
      batch_size: B. With Reverb, another one than in the call before throws
        away what was prefetched.
      timeout_seconds: how long to wait.
      min_size: how many items must be held, at least 1; batches that were drawn
        from fewer are thrown away.

    Raises:
      TimeoutError: no batch in that time: the memory is empty or holds less
        than min_size, a limiter holds it back, or the server is dead
        (`check_alive` tells).
      ReplayError: closed, reading failed, or the memory holds what this run did
        not write.
    """
    ...

  def update_priorities(self, keys: np.ndarray, priorities: np.ndarray) -> None:
    """Sets new raw priorities; keys no longer held are dropped silently.

    Args:
      keys: uint64 [B], from `sample`.
      priorities: [B].

    Raises:
      ValueError: wrong number of priorities, or one not finite or negative.
      ReplayError: closed, or the server is dead.
    """
    ...


class Replay(SampledReplay, Protocol):
  """Memory of `capacity_sequences` items: drawn by priority, or a queue.

  P(i) = p_i^exponent / sum_j p_j^exponent; with `replay.order` 'fifo' each item
  is handed out once, in the order of arrival, with probability 1. All methods
  may be called from any thread.
  """

  def insert(self, items: list[Item], priorities: np.ndarray) -> None:
    """Adds items, the oldest leaving where there is no room.

    Returns when the memory has them; a server with a limiter
    (`samples_per_insert`) lets the caller wait until enough was sampled, and a
    queue until there is room.

    Args:
      items: from `SequenceBuilder.add`.
      priorities: [len(items)], raw: the memory applies the exponent.

    Raises:
      ValueError: wrong number of priorities, or one not finite or negative.
      ReplayError: closed, or the server is dead.
    """
    ...

  def size(self) -> int:
    """Items held. Raises ReplayError where the server is dead."""
    ...

  def num_inserted(self) -> int:
    """Items ever inserted. Raises ReplayError where the server is dead."""
    ...

  def check_alive(self, timeout_seconds: float) -> None:
    """The heartbeat: Reverb's own calls don't notice that the server is gone.

    Args:
      timeout_seconds: the longest that this may take.

    Raises:
      ReplayError: closed, or the server did not answer.
    """
    ...

  def save(self, directory: pathlib.Path) -> None:
    """Writes the whole memory and a meta.json that says what it is.

    May take minutes. Other threads go on meanwhile: what is written is the
    memory at one moment after this began. `restore_from` of the constructors
    reads it.

    Args:
      directory: exists and is empty; with Reverb on the file system of
        `scratch`.

    Raises:
      OSError: there is no such directory, or the disk is full.
      ReplayError: closed; the server is dead or another's, it could not write,
        or the memory holds what this run did not write.
    """
    ...

  def close(self) -> None:
    """Frees the memory and wakes whoever waits in `sample`. Twice is fine.

    Takes less than a second. What Reverb does not let go of in that time is
    left to a daemon thread.
    """
    ...
