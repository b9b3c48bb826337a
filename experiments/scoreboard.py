"""Shows scores of runs beside published ones: `r2d2_jax/cli/scoreboard.py`."""

import sys

from r2d2_jax.cli.scoreboard import main

if __name__ == "__main__":
  sys.exit(main())
