"""The plan of a cluster: written-out numbers, and what does not fit."""

import io

import pytest
from rich.console import Console

from r2d2_jax.cluster.plan import (
  check_memory,
  make_cluster_plan,
  print_cluster_plan,
)
from r2d2_jax.cluster.settings import ClusterConfig
from r2d2_jax.cluster.topology import with_lanes
from r2d2_jax.config import ConfigError
from r2d2_jax.envs.make import world_spec
from r2d2_jax.presets import smoke

CONFIG = smoke().updated(
  {"replay.backend": "reverb", "evaluation.num_lanes": 2}
)


def plan_of(**settings):
  cluster = ClusterConfig(lane_steps_per_second=100.0, **settings)
  config = with_lanes(CONFIG, cluster)
  return make_cluster_plan(config, cluster, world_spec(config.env))


def test_rates_are_those_of_the_formulas():
  plan = plan_of(actors=4, replay_shards=2)
  # 16 lanes; batches of 16 items with 11 transitions, ratio 1.
  assert plan.steps_per_second == 1600.0
  assert plan.updates_per_second == pytest.approx(1600 / (16 * 11))
  replay, learner, actor = plan.roles[:3]
  assert (replay.count, learner.count, actor.count) == (2, 1, 4)
  # What the hosts send is what the shards get.
  sent = actor.count * actor.out_bytes_per_second
  assert replay.count * replay.in_bytes_per_second == pytest.approx(sent)
  read = replay.count * replay.out_bytes_per_second
  assert learner.in_bytes_per_second == pytest.approx(read)


def test_more_processes_share_the_load_and_take_more_memory():
  few, many = plan_of(actors=2), plan_of(actors=8)
  assert many.steps_per_second == few.steps_per_second
  assert many.cpus == few.cpus + 6
  assert many.memory_bytes > few.memory_bytes
  assert (
    many.roles[2].out_bytes_per_second == few.roles[2].out_bytes_per_second / 4
  )


def test_what_does_not_fit_is_refused_in_one_message():
  plan = plan_of(actors=4)
  check_memory(plan, plan.memory_bytes)
  check_memory(plan, None)
  with pytest.raises(ConfigError, match="most of it in 4 actor") as error:
    check_memory(plan, plan.memory_bytes / 2)
  assert "\n" not in str(error.value)


def test_each_role_has_a_line():
  output = io.StringIO()
  cluster = ClusterConfig(actors=4, evaluators=0)
  print_cluster_plan(
    plan_of(actors=4, evaluators=0), cluster, Console(file=output, width=120)
  )
  text = output.getvalue()
  for role in ("replay", "learner", "actor", "coordinator"):
    assert role in text
  assert "evaluator" not in text
