"""Random numbers that belong to a lane, not to the order of calls.

A world's lanes arrive in any order and any number. Numbers drawn from a shared
generator would then depend on that order; these are a hash of (seed, lane,
counter), so that a lane's stream is the same in every pool and every order.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def lane_uniform(seed: int, *counters: np.ndarray | int) -> np.ndarray:
  """Uniform numbers in [0, 1), one per entry of the counters.

  Args:
    seed: any non-negative integer below 2^63.
    *counters: non-negative integers, scalars or arrays [B], the lane first:
      lane, then what tells one draw of that lane from the next.

  Returns:
    float64 [B]. The same arguments give the same number, always.
  """
  arrays = np.broadcast_arrays(*(np.atleast_1d(c) for c in counters))
  x = _mix(np.full(arrays[0].shape, seed, np.uint64) + _GOLDEN)
  for counter in arrays:  # arrays: numpy's uint64 arithmetic wraps silently
    x = _mix((x ^ counter.astype(np.uint64)) + _GOLDEN)
  return (x >> np.uint64(11)) * 2.0**-53
