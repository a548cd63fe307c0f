"""One small data set with a known reward, for every test that needs data."""

from lightning_pbrl.testing.toys import synthetic_transitions, true_reward

__all__ = ["synthetic_transitions", "true_reward"]
