"""Exports the agent of a run as a small folder, with a model card.

    python -m experiments.export runs/recall-smoke-... pretrained/recall
    python -m experiments.export runs/... my_agent --push-to-hub me/my_agent

The folder holds settings and parameters alone. `evaluate`, `record` and
`load_agent` take it as they take a run; none of them writes into it.
"""

import pathlib
import shlex
import shutil
import sys
from typing import Annotated

import tyro

from r2d2_jax.cli.command import check_number, program, run_command, writing
from r2d2_jax.config import Config, ConfigError
from r2d2_jax.config.config import NAMES
from r2d2_jax.presets import PRESETS
from r2d2_jax.system.run.interrupts import heard_signals

_MAX_LANES = 4096  # as evaluate


def export_run(
  run_dir: Annotated[pathlib.Path, tyro.conf.Positional],
  out: Annotated[pathlib.Path, tyro.conf.Positional],
  /,
  checkpoint: str = "latest",
  episodes: int = 1000,
  lanes: int = 50,
  epsilon: float = 0.001,
  seed: int = 2_000_003,
  push_to_hub: str = "",
) -> None:
  """Writes an agent's settings, parameters and model card into a new folder.

  The card has the score of whole games that are played for it, with an
  interval, and the command that trained the agent.

  Args:
    run_dir: directory of a run.
    out: folder to write; a new or empty one.
    checkpoint: 'latest'; 'best', the one that scored highest in training's own
      evaluations; or a number of updates.
    episodes: whole games that are played for the card; 0 for none.
    lanes: environments that play side by side.
    epsilon: chance of a random action at each step; 0 is greedy.
    seed: of the games and the random actions.
    push_to_hub: owner/name on the Hugging Face Hub to send the folder to, made
      if it is not there; needs the extra 'hub' and its login.
  """
  from r2d2_jax.system.compile_cache import keep_compiled
  from r2d2_jax.system.evaluation import evaluate
  from r2d2_jax.system.storage import hub
  from r2d2_jax.system.storage.agents import load_agent
  from r2d2_jax.system.storage.exported import write_exported

  check_number("--episodes", episodes, 0)
  check_number("--lanes", lanes, 1, _MAX_LANES)
  check_number("--epsilon", epsilon, 0, 1)
  check_number("--seed", seed, 0)
  if push_to_hub:
    hub.check_hub_name("--push-to-hub", push_to_hub)
  with writing("out", out):
    if out.exists() and any(out.iterdir()):
      raise ConfigError(f"expected a new or empty folder, got {out}")
  agent = load_agent(run_dir, which=checkpoint)
  keep_compiled(agent.config.run.compile_cache_gib)
  found, score = "not evaluated", "not measured |"
  if episodes:
    config = agent.config.updated(
      {"evaluation.epsilon": epsilon, "evaluation.num_lanes": lanes}
    )
    with heard_signals() as stop:
      evaluation = evaluate(
        agent.params,
        agent=agent.agent,
        config=config,
        num_episodes=episodes,
        seed=seed,
        should_stop=lambda: stop.asked,
      )
      stop.check()
    found = score_in_words(evaluation.returns)
    score = (
      f"{found} |\n| games | {episodes} whole ones,"
      f" seed {seed}, epsilon {epsilon:g} |"
    )
  was_there = out.exists()
  try:
    with writing("out", out):
      out.mkdir(parents=True, exist_ok=True)
      card = model_card(agent, where=str(out), score=score)
      if push_to_hub:
        card = hub.card_metadata(agent.config.env.task) + model_card(
          agent, where=f"hub:{push_to_hub}", score=score
        )
      (out / "README.md").write_text(card)
      write_exported(
        out,
        config=agent.config,
        spec=agent.spec,
        params=agent.params,
        num_updates=agent.num_updates,
        steps=agent.steps,
      )
  except BaseException:
    if not was_there:
      shutil.rmtree(out, ignore_errors=True)
    raise
  size = sum(path.stat().st_size for path in out.iterdir())
  print(f"{agent.config.env.task}: update {agent.num_updates}: {found}")
  print(f"wrote {out}: {size / 1000:.0f} kB")
  if push_to_hub:
    hub.push(out, push_to_hub)
    print(f"sent to hub:{push_to_hub}")


def score_in_words(returns) -> str:
  """'mean 0.998, 95 % interval [0.995, 1]'.

  The interval is that of the mean, by a bootstrap over the games: what other
  games of this agent would give, not what other seeds of its training would.

  Args:
    returns: raw returns of whole games, float [episodes].
  """
  import numpy as np

  if (returns == returns[0]).all():
    return f"{returns[0]:g} in each of them"
  draws = np.random.default_rng(0).choice(returns, (2000, len(returns)))
  low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
  return f"mean {returns.mean():.4g}, 95 % interval [{low:.4g}, {high:.4g}]"


def model_card(agent, *, where: str, score: str) -> str:
  """The folder's README: what it is, how it was made, how it is used.

  Args:
    agent: from `load_agent`.
    where: the folder, as commands are to name it.
    score: the end of the table's row of the score, and the row of the games.
  """
  import jax

  config = agent.config
  obs = "[1, *agent.spec.obs_shape]"
  if agent.spec.obs_parts:
    obs = "a tuple, [1, *part.shape] for each part of agent.spec.obs_parts"
  mask = ", action_mask" if agent.spec.action_mask else ""
  num_params = sum(x.size for x in jax.tree.leaves(agent.params))
  network = (
    f"{config.network.torso} torso, {config.network.core} core, "
    f"{num_params} parameters"
  )
  return f"""# {config.env.task}, an agent of R2D2

| | |
|---|---|
| task | `{config.env.task}` |
| score, raw returns | {score}
| trained for | {agent.steps} agent steps, {agent.num_updates} updates |
| seed | {config.run.seed} |
| network | {network} |

It was trained by this command, and written by `python -m experiments.export`:

```
{training_command(config)}
```

{_repeatable(config)}
The score is that of one seed of the training.

## Using it

```
python -m experiments.evaluate {where}
python -m experiments.record {where} --out game.gif
python -m experiments.memory_horizon {where}
```

In a program:

```python
from r2d2_jax import load_agent

agent = load_agent("{where}")
state = agent.initial_state(1)
# obs: {obs}
action, q, state = agent.step(state, obs, reward, is_first{mask})
```

| file | holds |
|---|---|
| `config.json` | all settings of the run |
| `exported.json` | shapes of observations and actions, updates, steps |
| `params.npz` | the parameters, an array each |
"""


def _repeatable(config: Config) -> str:
  if config.run.lockstep:
    return (
      "With the same packages on the same kind of machine it gives the same"
      " parameters again."
    )
  return "It ran in threads, so the same command gives other parameters."


def training_command(config: Config) -> str:
  """The shortest command line of these settings, but for their place."""

  def flags(preset: Config) -> list[str]:
    changed = [
      name
      for name in NAMES
      if name != "run.run_dir" and config.setting(name) != preset.setting(name)
    ]
    return [_flag(name, config.setting(name)) for name in changed]

  preset, shortest = min(
    ((name, flags(make())) for name, make in PRESETS.items()),
    key=lambda choice: len(choice[1]),
  )
  words = ["python -m experiments.train", f"--preset {preset}", *shortest]
  lines = [words[0]]
  for word in words[1:]:
    if len(lines[-1]) + len(word) > 90:
      lines[-1] += " \\"
      lines.append(f"  {word}")
    else:
      lines[-1] += f" {word}"
  return "\n".join(lines)


def _flag(name: str, value) -> str:
  """As the command line of `train` takes a setting."""
  section, _, field = name.replace("_", "-").partition(".")
  if isinstance(value, bool):
    return f"--{section}.{'' if value else 'no-'}{field}"
  values = value if isinstance(value, tuple) else (value,)
  return " ".join(
    [f"--{section}.{field}", *(shlex.quote(f"{v}") for v in values)]
  )


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit code."""
  return run_command(export_run, prog=program("export"), arguments=arguments)


if __name__ == "__main__":
  sys.exit(main())
