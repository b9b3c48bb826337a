"""Draws learning curves of runs: see `r2d2_jax/cli/plot.py`."""

import sys

from r2d2_jax.cli.plot import main

if __name__ == "__main__":
  sys.exit(main())
