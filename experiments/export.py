"""Exports the agent of a run: see `r2d2_jax/cli/export.py`."""

import sys

from r2d2_jax.cli.export import main

if __name__ == "__main__":
  sys.exit(main())
