"""Sweeps: many trials of a config or an experiment, from one file, on one machine or a cluster."""
