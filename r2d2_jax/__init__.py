"""R2D2 (Kapturowski et al., ICLR 2019) in JAX, with EnvPool actors and a Reverb replay.

The rooms, from the bottom up: `types` and `config`; then `agent` (the
algorithm, pure functions), `envs` (the world) and `replay` (the memory), which
never import each other; then `system` (threads, files, clocks). Programs live in
`experiments/`. Importing this package imports none of them.
"""

__version__ = "0.1.0"
