"""A row as `RunReport.row` gives it, all columns, in good health."""

NAN = float("nan")


def example_row(**changes) -> dict[str, float | int | str]:
  """A run of the preset `laptop` in the middle."""
  row = {
      "minutes": 45.6, "steps": 1_234_560, "frames": 4_938_240,
      "updates": 8_123, "episodes": 1_201, "return_total": -12_345.0,
      "return_mean": -3.21, "return_exploit": 12.34, "eval_return": NAN,
      "frames_per_second": 3_456.7, "updates_per_second": 12.345,
      "replay_size": 40_000, "replay_ratio": 2.003, "loss": 0.0215,
      "grad_norm": 0.128, "update_norm": 0.0021, "params_norm": 31.2,
      "td_abs_mean": 0.0543, "td_abs_max": 0.334, "q_max_mean": 1.5,
      "value_mean": NAN, "policy_entropy": NAN, "rho_clipped": NAN,
      "importance_weight_mean": 0.486, "effective_sample_size": 0.71,
      "td_first": 0.061, "td_last": 0.048, "dq_first": 0.12, "dq_last": 0.043,
      "lag_p10": 210, "lag_p50": 1_302, "lag_p90": 2_411,
      "age_steps_mean": 198_000.0, "reuse_mean": 2.4,
      "sampled_eps_1": 0.31, "sampled_eps_2": 0.26, "sampled_eps_3": 0.22,
      "sampled_eps_4": 0.21, "share_environment": 0.31,
      "share_inference": 0.42, "share_write": 0.11, "share_sample": 0.21,
      "share_copy": 0.05, "share_step": 0.93, "share_write_back": 0.02,
      "share_wait_for_learner": 0.16, "share_wait_for_data": 0.01,
      "share_wait_for_actors": 0.0, "bottleneck": "step",
      "minutes_left": 74.2,
  }  # fmt: skip
  unknown = set(changes) - set(row)
  assert not unknown, unknown
  return {**row, **changes}


def first_row() -> dict[str, float | int | str]:
  """The first row of a run, before anything is known."""
  row = example_row()
  known = {
    name: 0.0 if isinstance(value, float) else 0
    for name, value in row.items()
    if name.startswith("share_")
    or name
    in (
      "minutes",
      "steps",
      "frames",
      "updates",
      "episodes",
      "frames_per_second",
      "updates_per_second",
      "replay_size",
      "replay_ratio",
    )
  }
  return {**dict.fromkeys(row, NAN), **known, "bottleneck": "environment"}
