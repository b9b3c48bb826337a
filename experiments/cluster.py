"""Trains on a cluster: see `r2d2_jax/cluster/command.py`."""

import sys

from r2d2_jax.cluster.command import main

if __name__ == "__main__":
  sys.exit(main())
