"""Many runs over a cluster: see `r2d2_jax/cluster/sweep/command.py`."""

import sys

from r2d2_jax.cluster.sweep.command import main

if __name__ == "__main__":
  sys.exit(main())
