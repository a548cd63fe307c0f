"""Data modules: data on disk for the Trainer, and the evaluation episodes of a policy."""
