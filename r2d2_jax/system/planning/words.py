"""A plan in words: a name and a line of text for each number, and warnings."""

from rich.console import Console
from rich.table import Table

from r2d2_jax.agent.torsos import chosen_torso
from r2d2_jax.parts import obs_in_words
from r2d2_jax.system.planning.plan import Need, Plan
from r2d2_jax.system.planning.sizes import size_in_words, table_bytes

# Rows x parameters of an update: above it, one takes some cores a second or
# more.
_CPU_UPDATE = 5e9


def print_plan(plan: Plan, console: Console) -> None:
  """Shows it: a table on a terminal, else one line of text for each number."""
  named = [
    *plan_rows(plan),
    *(("warning", text) for text in plan_warnings(plan)),
  ]
  if not console.is_terminal:
    for name, text in named:
      console.print(
        f"{name}: {text}", highlight=False, markup=False, soft_wrap=True
      )
    return
  table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
  table.add_column(style="bold", no_wrap=True)
  table.add_column()
  for name, text in named:
    table.add_row(name, text, style="yellow" if name == "warning" else None)
  console.print(table)


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
  """The numbers: a name and a line of text each."""
  config, spec, item = plan.config, plan.spec, plan.item
  agent, replay, run = config.agent, config.replay, config.run
  held = f"{replay.capacity_sequences:,} items"
  if plan.replay_items < replay.capacity_sequences:
    held = f"{plan.replay_items:,} of {held} by the end"
  first = replay.min_sequences * item.stored_bytes + table_bytes(config)
  return [
    (
      "world",
      f"{config.env.task}: {config.env.num_envs} lanes,"
      f" {obs_in_words(spec)},"
      f" {spec.num_actions} actions",
    ),
    ("network", f"{plan.agent.num_params:,} parameters{_torso(plan)}"),
    (
      "item",
      f"{config.item_rows} rows of {size_in_words(item.row_bytes)}:"
      f" {size_in_words(item.lone_bytes)} alone,"
      f" {size_in_words(item.stored_bytes)} in the replay"
      f" ({replay.backend})",
    ),
    (
      "replay",
      f"{held}, {size_in_words(plan.host.parts['replay'])}; before the"
      f" first update {replay.min_sequences:,}, {size_in_words(first)}",
    ),
    ("host memory", _need(plan.host)),
    ("device", _need(plan.device) if plan.device else "the host"),
    (
      "disk",
      f"{_need(plan.disk)}; one checkpoint is"
      f" {size_in_words(plan.checkpoint_bytes)}",
    ),
    ("to the first update", f"{plan.fill_steps:,} steps"),
    (
      "update",
      f"{agent.batch_size} x {agent.trace_length - 1} rows: one every"
      f" {plan.steps_per_update:,.0f} steps keeps the ratio at"
      f" {replay.replay_ratio:g}",
    ),
    (
      "run",
      f"{run.total_steps:,} steps ="
      f" {run.total_steps * spec.frame_skip:,} frames,"
      f" {plan.total_updates:,} updates",
    ),
    (
      "at 1,000 steps/s",
      f"first update after {_time(plan.fill_steps / 1000)},"
      f" then {1000 / plan.steps_per_update:.3g} updates/s,"
      f" the end after {_time(run.total_steps / 1000)}",
    ),
  ]


def plan_warnings(plan: Plan) -> list[str]:
  """What will run, and probably is not meant."""
  config = plan.config
  agent, run = config.agent, config.run
  found = []
  if plan.fill_steps >= run.total_steps:
    found.append(
      f"run.total_steps {run.total_steps:,} end before the first update:"
      f" replay.min_sequences {config.replay.min_sequences:,} take"
      f" {plan.fill_steps:,} steps"
    )
  elif plan.total_updates < agent.target_period_updates:
    found.append(
      f"the target network is never copied: {plan.total_updates:,} updates in"
      " the whole run, agent.target_period_updates"
      f" {agent.target_period_updates:,}"
    )
  refresh_steps = run.actor_refresh_steps * config.env.num_envs
  if plan.fill_steps < run.total_steps <= refresh_steps:
    found.append(
      "the actors never get new parameters: run.actor_refresh_steps"
      f" {run.actor_refresh_steps:,} for each of {config.env.num_envs} lanes"
      f" are {refresh_steps:,} steps, as long as the run"
    )
  ladder = agent.exploration == "ladder"
  if config.env.num_envs == 1 and ladder and agent.epsilon_alpha:
    found.append(
      "env.num_envs 1 has no ladder of epsilons: the one lane explores with"
      f" agent.epsilon_base {agent.epsilon_base:g} for ever"
    )
  rows = agent.batch_size * config.item_rows
  if plan.platform == "cpu" and rows * plan.agent.num_params > _CPU_UPDATE:
    found.append(
      f"JAX finds no accelerator here: on a CPU an update, {rows:,} rows"
      f" through {plan.agent.num_params:,} parameters, takes seconds; install"
      " for one (docs/install.md), or take --preset laptop"
    )
  host, extra = plan.host, plan.short_episodes_bytes
  if host.limit_bytes and 0 <= host.limit_bytes - host.num_bytes < extra:
    found.append(
      f"memory may run out: with episodes of about {agent.trace_length} rows"
      " items share less, and the replay takes"
      f" {size_in_words(host.parts['replay'] + extra)}"
    )
  return found


def _torso(plan: Plan) -> str:
  """What network.torso 'auto' has chosen, if it had to."""
  network = plan.config.network
  if network.torso != "auto":
    return ""
  return (
    f", torso {chosen_torso(network.torso, plan.spec)!r} (chosen by 'auto')"
  )


def _need(need: Need) -> str:
  limit = need.limit_bytes
  return (
    size_in_words(need.num_bytes)
    + (f" of {size_in_words(limit)}: " if limit is not None else ": ")
    + ", ".join(
      f"{part} {size_in_words(need.parts[part])}" for part in need.largest
    )
  )


def _time(seconds: float) -> str:
  for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
    if seconds >= size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.1f} s"
