"""What the learner was given: how old, how often, from whom."""

import collections

import numpy as np

from r2d2_jax.types import Origin

_NAN = float("nan")


class SampleStats:
  """Adds up the origins of sampled batches, between two rows of the log.

  A restored replay may hold items of lanes that the run no longer has: they
  count for everything but the lanes.

  One thread may add while another one pops: whoever has taken the counts out of
  the deque is the only one to touch them.
  """

  def __init__(self, num_envs: int):
    """Args: the number of lanes, the most exploring one first."""
    self._num_envs = num_envs
    self._counts: collections.deque[_Counts] = collections.deque()

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
    counts = self._take()
    for value, n in zip(lag.tolist(), count.tolist(), strict=True):
      counts.lags[value] = counts.lags.get(value, 0) + n
    counts.lanes += lanes
    counts.items += len(origin.env_id)
    counts.sums += (age.sum(), age.size, origin.times_sampled.sum())
    self._counts.append(counts)

  def pop(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Columns and histograms since the last call; NaN and none without a batch.

    Returns:
      lag_p10, lag_p50, lag_p90: percentiles of the updates between writing and
      sampling, over trained rows; age_steps_mean: the same in environment
      steps, the mean; reuse_mean: how often the sampled items have been
      sampled, this time included; sampled_eps_1 to 4: share of the lanes'
      sampled items by quarter of the lanes, the most exploring quarter first.
      Histograms: `lag_updates`, all lags; `samples_by_lane`, items by lane.
    """
    counts = self._take()
    lags = np.repeat(
      np.array(sorted(counts.lags), np.int64),
      [counts.lags[v] for v in sorted(counts.lags)],
    )
    lanes, items = counts.lanes, counts.items
    age, rows, reuse = counts.sums.tolist()
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
    """What was counted since the last `pop`; not while another thread adds."""
    counts = self._take()
    self._counts.append(counts)
    return {
      "lags": np.array(sorted(counts.lags.items()), np.int64).reshape(-1, 2),
      "lanes": counts.lanes.copy(),
      "items": np.array(counts.items),
      "sums": counts.sums.copy(),
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
    counts = _Counts(self._num_envs)
    counts.lags = dict(state["lags"].tolist())
    counts.lanes = state["lanes"].copy()
    # Checkpoints from when every item was of a lane of the run have no number.
    counts.items = int(
      state["items"] if "items" in state else counts.lanes.sum()
    )
    counts.sums = state["sums"].copy()
    self._counts.clear()
    self._counts.append(counts)

  def _take(self) -> "_Counts":
    try:
      return self._counts.popleft()
    except IndexError:
      return _Counts(self._num_envs)


class _Counts:
  """Of some batches."""

  def __init__(self, num_envs: int):
    self.lags: dict[int, int] = {}  # lag -> rows
    self.lanes = np.zeros(num_envs, np.int64)
    self.items = 0
    self.sums = np.zeros(3, np.int64)  # of ages, rows, draws
