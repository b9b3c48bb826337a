"""Trains an agent: see `r2d2_jax/cli/train.py`."""

import sys

from r2d2_jax.cli.train import main

if __name__ == "__main__":
  sys.exit(main())
