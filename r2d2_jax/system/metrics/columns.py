"""The registry of the log's columns: what each one is, and when it is healthy.

The log, TensorBoard and W&B, the display, its warnings, the plots' axes and
docs/metrics.md all read it. A metric of the learner's step that is not here is
a column all the same, after those that are; `register` gives it words and a
healthy range.
"""

from collections.abc import Callable
import math
from typing import Literal, NamedTuple, get_args

from r2d2_jax.config import Config

Row = dict[str, float | int | str]
# What is wrong with a column of this row, in a few words; None where all is
# well.
Unhealthy = Callable[[Row, Config], str | None]
Reduce = Literal["mean", "max", "last"]

# In TensorBoard and W&B a name has its group in front.
GROUPS = ("train", "learner", "replay", "health", "legs")
# Histograms, which only TensorBoard and W&B get, and their groups.
HISTOGRAMS = {
  "td_abs_by_row": "learner",
  "samples_by_lane": "replay",
  "lag_updates": "health",
}
_OWN_GROUP = "learner"

# Before, the ratio's slack of about two batches is more than the tolerance.
_RATIO_MIN_UPDATES = 1_000
_RATIO_TOLERANCE = 0.02
_MIN_EFFECTIVE_SAMPLE_SIZE = 0.25
_MAX_REUSE_FACTOR = 10.0
_QUEUE_BATCHES_AHEAD = 8
_MAX_DQ_FIRST = 1.0
_MAX_DQ_LAST = 0.5
# dQ is relative to the largest value: it says nothing while that is near 0, nor
# while the values are mostly those of the random start.
_DQ_MIN_VALUE = 0.1
_DQ_MIN_TARGET_PERIODS = 10


class Column(NamedTuple):
  """A column of the log."""

  name: str
  group: str  # of GROUPS
  words: str  # for the axis of a plot
  unit: str = ""  # where the words do not say it
  # How the values of the updates since the last row become one: read for what
  # `learner_step` returns.
  reduce: Reduce = "mean"
  # NaN, because there is nothing yet, is healthy; but for the learner's own
  # numbers after its first update.
  is_unhealthy: Unhealthy | None = None


def _number(row: Row, name: str) -> float:
  """The value of a column that has numbers."""
  value = row[name]
  assert not isinstance(value, str), (name, value)
  return value


def _not_finite(name: str) -> Unhealthy:
  def is_unhealthy(row: Row, config: Config) -> str | None:
    if name == "q_max_mean" and config.agent.has_policy:
      return None  # which has no q
    # The weights are never NaN in a row with an update, whatever diverges.
    has_updated = not math.isnan(_number(row, "importance_weight_mean"))
    if has_updated and not math.isfinite(_number(row, name)):
      return "not finite"
    return None

  return is_unhealthy


def _gradient(row: Row, config: Config) -> str | None:
  if words := _not_finite("grad_norm")(row, config):
    return words
  most = config.agent.max_grad_norm
  return "clipped" if most and _number(row, "grad_norm") > most else None


def _ratio(row: Row, config: Config) -> str | None:
  error = abs(_number(row, "replay_ratio") / config.replay.replay_ratio - 1)
  if _number(row, "updates") >= _RATIO_MIN_UPDATES and error > _RATIO_TOLERANCE:
    return "not as asked"
  return None


def _effective_sample_size(row: Row, config: Config) -> str | None:
  del config
  if _number(row, "effective_sample_size") < _MIN_EFFECTIVE_SAMPLE_SIZE:
    return "few items weigh"
  return None


def _reuse(row: Row, config: Config) -> str | None:
  agent = config.agent
  # Items of one environment step's rows, times an item's draws by them.
  draws = (
    config.replay.replay_ratio
    * (agent.trace_length - agent.overlap)
    / (agent.trace_length - 1)
  )
  if _number(row, "reuse_mean") > _MAX_REUSE_FACTOR * (1 + draws):
    return "the same items"
  return None


def _lag(row: Row, config: Config) -> str | None:
  replay, run, batch = config.replay, config.run, config.agent.batch_size
  if replay.order == "fifo":
    # The rows between two refreshes, a full queue, and what is on its way to
    # the learner.
    rows = config.env.num_envs * (run.actor_refresh_steps + config.item_rows)
    most = (
      rows / (batch * (config.agent.trace_length - 1))
      + replay.capacity_sequences / batch
      + _QUEUE_BATCHES_AHEAD
    )
    return "stale actors" if _number(row, "lag_p50") > most else None
  # Every item in the replay once, at the asked ratio: as many updates as the
  # oldest row can be old if the actors' parameters are the learner's.
  most = (
    _number(row, "replay_size")
    * config.replay.replay_ratio
    / config.agent.batch_size
  )
  return "stale actors" if _number(row, "lag_p50") > most else None


def _dq(name: str, limit: float) -> Unhealthy:
  def is_unhealthy(row: Row, config: Config) -> str | None:
    first = _DQ_MIN_TARGET_PERIODS * config.agent.target_period_updates
    if (
      _number(row, "updates") >= first
      and _number(row, name) > limit
      and abs(_number(row, "q_max_mean")) > _DQ_MIN_VALUE
    ):
      return "stale states"
    return None

  return is_unhealthy


_RESCALED = "rescaled unit"
_BUSY = "seconds per second"

# By name, in the log's order.
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("minutes", "train", "minutes of training"),
        Column("steps", "train", "steps"),
        Column("frames", "train", "frames"),
        Column("updates", "train", "updates"),
        Column("episodes", "train", "games ended in training"),
        Column("return_total", "train", "raw returns of all games, summed"),
        Column("return_mean", "train", "raw return, all lanes"),
        Column(
            "return_exploit", "train", "raw return, lanes that explore least"
        ),
        Column("eval_return", "train", "raw return, evaluations"),
        Column("frames_per_second", "train", "frames per second"),
        Column("updates_per_second", "train", "updates per second"),
        Column("replay_size", "replay", "items in the replay"),
        Column(
            "replay_ratio", "replay", "trained rows per environment step",
            is_unhealthy=_ratio,
        ),
        # Of `learner_step`.
        Column("loss", "learner", "loss", is_unhealthy=_not_finite("loss")),
        Column(
            "grad_norm", "learner", "norm of the gradient",
            is_unhealthy=_gradient,
        ),
        Column("update_norm", "learner", "norm of an update"),
        Column("params_norm", "learner", "norm of the parameters"),
        Column(
            "td_abs_mean", "learner", "mean |td|", _RESCALED,
            is_unhealthy=_not_finite("td_abs_mean"),
        ),
        Column("td_abs_max", "learner", "largest |td|", _RESCALED, "max"),
        Column(
            "q_max_mean", "learner", "mean of the highest q", _RESCALED,
            is_unhealthy=_not_finite("q_max_mean"),
        ),
        Column("value_mean", "learner", "mean value"),
        Column(
            "policy_entropy", "learner", "entropy of the policy", "nats"
        ),
        Column(
            "rho_clipped", "learner", "share of ratios pi / mu that are cut"
        ),
        Column("importance_weight_mean", "replay", "mean importance weight"),
        Column(
            "effective_sample_size", "replay", "effective sample size",
            "share of the batch", is_unhealthy=_effective_sample_size,
        ),
        # Of `LearnerStats.pop`.
        Column("td_first", "health", "|td|, first trained row", _RESCALED),
        Column("td_last", "health", "|td|, last trained row", _RESCALED),
        # Of `Probe.measure`.
        Column(
            "dq_first", "health", "dQ, first trained row",
            is_unhealthy=_dq("dq_first", _MAX_DQ_FIRST),
        ),
        Column(
            "dq_last", "health", "dQ, last trained row",
            is_unhealthy=_dq("dq_last", _MAX_DQ_LAST),
        ),
        # Of `SampleStats.pop`.
        Column("lag_p10", "health", "parameter lag, 10 %", "updates"),
        Column(
            "lag_p50", "health", "parameter lag, median", "updates",
            is_unhealthy=_lag,
        ),
        Column("lag_p90", "health", "parameter lag, 90 %", "updates"),
        Column("age_steps_mean", "replay", "age of what is sampled", "steps"),
        Column(
            "reuse_mean", "replay", "times that an item was sampled",
            is_unhealthy=_reuse,
        ),
        *(
            Column(
                f"sampled_eps_{i + 1}", "replay",
                f"share of samples, {quarter} quarter of the lanes",
            )
            for i, quarter in enumerate(
                ("most exploring", "second", "third", "least exploring")
            )
        ),
        # Of the threads' timers: see `RunReport.row`.
        Column("share_environment", "legs", "waiting for environments", _BUSY),
        Column("share_inference", "legs", "computing actions", _BUSY),
        Column("share_write", "legs", "writing to the replay", _BUSY),
        Column("share_sample", "legs", "sampling a batch", _BUSY),
        Column("share_copy", "legs", "copying a batch to the device", _BUSY),
        Column("share_step", "legs", "updating", _BUSY),
        Column("share_write_back", "legs", "writing priorities back", _BUSY),
        Column(
            "share_wait_for_learner", "legs", "actors waiting for the learner",
            _BUSY,
        ),
        Column(
            "share_wait_for_data", "legs", "learner waiting for data", _BUSY
        ),
        Column(
            "share_wait_for_actors", "legs", "learner waiting for the actors",
            _BUSY,
        ),
        Column("bottleneck", "train", "bottleneck"),
        Column("minutes_left", "train", "minutes left"),
    )
}  # fmt: skip
_BUILT_IN = frozenset(COLUMNS)


def register(column: Column) -> None:
  """Adds a column of one's own, after all others.

  Args:
    column: of a metric that the learner's step returns under this name.

  Raises:
    ValueError: the name is taken, or the group or `reduce` is unknown.
  """
  if column.name in COLUMNS or column.name in HISTOGRAMS:
    raise ValueError(
      f"expected the name of a new column, got {column.name!r}, which the log"
      " has already; choose another"
    )
  if column.group not in GROUPS:
    raise ValueError(
      f"column {column.name!r}: expected one of the groups"
      f" {', '.join(GROUPS)}, got {column.group!r}"
    )
  if column.reduce not in get_args(Reduce):
    raise ValueError(
      f"column {column.name!r}: expected reduce to be one of"
      f" {', '.join(get_args(Reduce))}, got {column.reduce!r}"
    )
  COLUMNS[column.name] = column


def column_of(name: str) -> Column:
  """The registered column, or what stands for one that is not registered."""
  if name in COLUMNS:
    return COLUMNS[name]
  return Column(name, _OWN_GROUP, name.replace("_", " "))


def label(name: str) -> str:
  """A column in words, with its unit."""
  column = column_of(name)
  return f"{column.words} ({column.unit})" if column.unit else column.words


def tag(name: str) -> str:
  """A column or histogram with its group in front."""
  return f"{HISTOGRAMS.get(name) or column_of(name).group}/{name}"


def own_columns(row: Row) -> list[str]:
  """Those columns of a row that the package does not bring."""
  return [name for name in row if name not in _BUILT_IN]


def warnings(row: Row, config: Config) -> dict[str, str]:
  """What deserves a look, in a few words, by column; empty where all is well.

  Args:
    row: of `RunReport.row`.
    config: the run's settings.
  """
  found = {}
  for name in row:
    is_unhealthy = column_of(name).is_unhealthy
    if is_unhealthy and (words := is_unhealthy(row, config)):
      found[name] = words
  return found
