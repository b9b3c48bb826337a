"""A trained agent in a program of one's own: no World, settings or EnvPool.

Plays the memory game 'recall' against a few lines of plain Python, which show
the agent one observation at a time and are told its action.

  python -m examples.play pretrained/recall --games 100
"""

import argparse
import random

import numpy as np

import r2d2_jax as r2

NUM_SYMBOLS = 4


def game(rng: random.Random):
  """One game: yields (obs, reward), is sent the action.

  A cue, three to eight symbols that mean nothing, a hush in which only action 0
  keeps the game alive, and the question which symbol the cue was.
  """

  def row(symbol=None, flag=None):
    obs = np.zeros(NUM_SYMBOLS + 3, np.float32)
    obs[[i for i in (symbol, flag) if i is not None]] = 1
    return obs

  cue = rng.randrange(NUM_SYMBOLS)
  yield row(cue, NUM_SYMBOLS), 0.0
  for _ in range(rng.randint(3, 8)):
    yield row(rng.randrange(NUM_SYMBOLS)), 0.0
  if (yield row(flag=NUM_SYMBOLS + 1), 0.0) == 0:
    answer = yield row(flag=NUM_SYMBOLS + 2), 0.0
    yield row(), float(answer == cue)


def main(path: str, num_games: int, seed: int = 0) -> float:
  """Plays so many games with the agent of a folder; returns the mean return."""
  agent = r2.load_agent(path)
  rng, returns = random.Random(seed), []
  state = agent.initial_state(1)
  for number in range(num_games):
    played, action, is_first, total = game(rng), None, True, 0.0
    while True:
      try:
        obs, reward = played.send(action)
      except StopIteration:
        break
      chosen, q, state = agent.step(state, obs[np.newaxis], reward, is_first)
      action, is_first, total = int(chosen[0]), False, total + reward
      if number == 0:
        print("sees", obs.astype(int), "values", q[0].round(2), "does", action)
    returns.append(total)
  return float(np.mean(returns))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("path", help="folder of an exported agent, or of a run")
  parser.add_argument("--games", type=int, default=100)
  arguments = parser.parse_args()
  mean = main(arguments.path, arguments.games)
  print(f"mean return of {arguments.games} games: {mean:.2f}")
