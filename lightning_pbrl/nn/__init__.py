"""Networks with an optional leading population axis."""

from lightning_pbrl.nn.actor import DeterministicActor, GaussianActor
from lightning_pbrl.nn.contrastive_critic import ContrastiveCritic
from lightning_pbrl.nn.mlp import MLP
from lightning_pbrl.nn.normalizer import Normalizer, RunningNormalizer
from lightning_pbrl.nn.picture import AtariTorso
from lightning_pbrl.nn.squashed_actor import SquashedGaussianActor
from lightning_pbrl.nn.state_entropy import StateEntropy
from lightning_pbrl.nn.twin_value import TwinValue

__all__ = [
    "MLP",
    "AtariTorso",
    "ContrastiveCritic",
    "DeterministicActor",
    "GaussianActor",
    "Normalizer",
    "RunningNormalizer",
    "SquashedGaussianActor",
    "StateEntropy",
    "TwinValue",
]
