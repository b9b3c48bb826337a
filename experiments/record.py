"""Records a game of an agent as a video: see `r2d2_jax/cli/record.py`."""

import sys

from r2d2_jax.cli.record import main

if __name__ == "__main__":
  sys.exit(main())
