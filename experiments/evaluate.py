"""Evaluates runs over whole games: see `r2d2_jax/cli/evaluate.py`."""

import sys

from r2d2_jax.cli.evaluate import main

if __name__ == "__main__":
  sys.exit(main())
