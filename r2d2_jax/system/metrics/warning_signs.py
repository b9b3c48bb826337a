"""Which numbers of a row are out of the healthy range; docs/metrics.md says why."""

import math

from r2d2_jax.config import Config

# Before, the ratio's slack of about two batches is more than the tolerance.
_RATIO_MIN_UPDATES = 1_000
_RATIO_TOLERANCE = 0.02
_MIN_EFFECTIVE_SAMPLE_SIZE = 0.25
_MAX_REUSE_FACTOR = 10.0
_MAX_DQ_FIRST = 1.0
_MAX_DQ_LAST = 0.5
# dQ is relative to the largest value: it says nothing while that is near 0, nor
# while the values are mostly those of the random start.
_DQ_MIN_VALUE = 0.1
_DQ_MIN_TARGET_PERIODS = 10


def warning_signs(row: dict, config: Config) -> dict[str, str]:
  """What deserves a look, in a few words, by column.

  Args:
    row: of `RunReport.row`. What is NaN, because there is nothing yet, is
      healthy, but for the learner's own numbers after its first update.
    config: the run's settings.

  Returns:
    Column -> words; empty where all is well.
  """
  agent, replay = config.agent, config.replay
  signs = {}

  def warn(column: str, is_unhealthy: bool, words: str) -> None:
    if is_unhealthy:
      signs[column] = words

  # Items of one environment step's rows, times an item's draws by them.
  draws = (
      replay.replay_ratio
      * (agent.trace_length - agent.overlap)
      / (agent.trace_length - 1)
  )
  ratio_error = abs(row["replay_ratio"] / replay.replay_ratio - 1)
  warn("grad_norm", row["grad_norm"] > agent.max_grad_norm, "clipped")
  warn(
      "replay_ratio",
      row["updates"] >= _RATIO_MIN_UPDATES and ratio_error > _RATIO_TOLERANCE,
      "not as asked",
  )
  warn(
      "effective_sample_size",
      row["effective_sample_size"] < _MIN_EFFECTIVE_SAMPLE_SIZE,
      "few items weigh",
  )
  warn(
      "reuse_mean",
      row["reuse_mean"] > _MAX_REUSE_FACTOR * (1 + draws),
      "the same items",
  )
  # Every item in the replay once, at the asked ratio: as many updates as the
  # oldest row can be old if the actors' parameters are the learner's.
  warn(
      "lag_p50",
      row["lag_p50"]
      > row["replay_size"] * replay.replay_ratio / agent.batch_size,
      "stale actors",
  )
  has_learned = (
      row["updates"] >= _DQ_MIN_TARGET_PERIODS * agent.target_period_updates
  )
  for column, limit in (("dq_first", _MAX_DQ_FIRST), ("dq_last", _MAX_DQ_LAST)):
    warn(
        column,
        has_learned
        and row[column] > limit
        and abs(row["q_max_mean"]) > _DQ_MIN_VALUE,
        "stale states",
    )
  # Never NaN after the first update since the start.
  if not math.isnan(row["importance_weight_mean"]):
    for column in ("loss", "grad_norm", "td_abs_mean", "q_max_mean"):
      warn(column, not math.isfinite(row[column]), "not finite")
  return signs
