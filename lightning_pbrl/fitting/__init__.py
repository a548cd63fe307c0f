"""Fit of a method: rounds of phases, checks, evaluation, checkpoints, and the adaptation to Lightning."""
