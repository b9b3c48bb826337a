"""Compiles learner and actor for accelerators that are not here."""
