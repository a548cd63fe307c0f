"""Update engine: blocks of gradient updates over flat storage. It knows neither Lightning nor a method."""

from lightning_pbrl.engine.draws import Among, Below, Draw, Normal, Passes, Rows, Uniform
from lightning_pbrl.engine.phase import Metrics, Phase
from lightning_pbrl.engine.program import Follows, Frozen, Group, Part, Program
from lightning_pbrl.engine.state import FlatState
from lightning_pbrl.engine.update import UpdateEngine

__all__ = [
    "Among",
    "Below",
    "Draw",
    "FlatState",
    "Follows",
    "Frozen",
    "Group",
    "Metrics",
    "Normal",
    "Part",
    "Passes",
    "Phase",
    "Program",
    "Rows",
    "Uniform",
    "UpdateEngine",
]
