"""Networks with an optional leading population axis."""

from lightning_pbrl.nn.actor import DeterministicActor, GaussianActor
from lightning_pbrl.nn.mlp import MLP
from lightning_pbrl.nn.normalizer import Normalizer

__all__ = ["MLP", "DeterministicActor", "GaussianActor", "Normalizer"]
