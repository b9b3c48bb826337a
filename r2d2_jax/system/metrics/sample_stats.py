"""What the learner was given: how old, how often, from whom."""

import threading

import numpy as np

from r2d2_jax.types import Origin

_NAN = float("nan")


class SampleStats:
  """Adds up the origins of sampled batches, between two rows of the log.

  A restored replay may hold items of lanes that the run no longer has: they count
  for everything but the lanes.
  """

  def __init__(self, num_envs: int):
    """Args: the number of lanes, the most exploring one first."""
    self._num_envs = num_envs
    self._lock = threading.Lock()
    self._clear()

  def add(
      self,
      origin: Origin,
      trained: np.ndarray,
      *,
      num_updates: int,
      steps: int,
  ) -> None:
    """Counts a batch.

    Args:
      origin: of its items and rows.
      trained: bool [B, L], rows that are trained on.
      num_updates: of the learner, before it trains on the batch.
      steps: environment steps of the run so far.
    """
    lag, count = np.unique(
        num_updates - origin.num_updates[trained], return_counts=True
    )
    is_own = (0 <= origin.env_id) & (origin.env_id < self._num_envs)
    lanes = np.bincount(origin.env_id[is_own], minlength=self._num_envs)
    age = steps - origin.step[trained]
    with self._lock:
      for value, n in zip(lag.tolist(), count.tolist()):
        self._lags[value] = self._lags.get(value, 0) + n
      self._lanes += lanes
      self._items += len(origin.env_id)
      self._sums += (age.sum(), age.size, origin.times_sampled.sum())

  def pop(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Columns and histograms since the last call; NaN and none without a batch.

    Returns:
      lag_p10, lag_p50, lag_p90: percentiles of the updates between writing and
      sampling, over trained rows; age_steps_mean: the same in environment steps,
      the mean; reuse_mean: how often the sampled items have been sampled, this
      time included; sampled_eps_1 to 4: share of the lanes' sampled items by quarter
      of the lanes, the most exploring quarter first. Histograms: `lag_updates`,
      all lags; `samples_by_lane`, items by lane.
    """
    with self._lock:
      lags = np.repeat(
          np.array(sorted(self._lags), np.int64),
          [self._lags[v] for v in sorted(self._lags)],
      )
      lanes, items = self._lanes, self._items
      age, rows, reuse = self._sums.tolist()
      self._clear()
    own = lanes.sum()
    quarters = np.zeros(4)
    np.add.at(quarters, 4 * np.arange(self._num_envs) // self._num_envs, lanes)
    percentile = lambda p: (
        float(np.percentile(lags, p, method="nearest")) if rows else _NAN
    )
    return {
        "lag_p10": percentile(10),
        "lag_p50": percentile(50),
        "lag_p90": percentile(90),
        "age_steps_mean": age / rows if rows else _NAN,
        "reuse_mean": reuse / items if items else _NAN,
        **{
            f"sampled_eps_{i + 1}": float(x / own) if own else _NAN
            for i, x in enumerate(quarters)
        },
    }, {"lag_updates": lags, "samples_by_lane": lanes} if items else {}

  def state_dict(self) -> dict[str, np.ndarray]:
    """What was counted since the last `pop`."""
    with self._lock:
      return {
          "lags": np.array(sorted(self._lags.items()), np.int64).reshape(-1, 2),
          "lanes": self._lanes.copy(),
          "items": np.array(self._items),
          "sums": self._sums.copy(),
      }

  def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
    """The inverse of `state_dict`.

    Raises:
      ValueError: it is of other lanes.
    """
    if state["lanes"].shape != (self._num_envs,):
      raise ValueError(
          f"expected counts of {self._num_envs} lanes, got an array of shape"
          f" {state['lanes'].shape}: resume with the lanes of the run"
      )
    with self._lock:
      self._lags = dict(state["lags"].tolist())
      self._lanes = state["lanes"].copy()
      # Checkpoints from when every item was of a lane of the run have no number.
      self._items = int(state.get("items", self._lanes.sum()))
      self._sums = state["sums"].copy()

  def _clear(self) -> None:
    self._lags: dict[int, int] = {}
    self._lanes = np.zeros(self._num_envs, np.int64)
    self._items = 0
    self._sums = np.zeros(3, np.int64)
