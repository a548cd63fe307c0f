"""The update engine: blocks of gradient updates over flat storage. It knows neither Lightning nor a method."""

from lightning_pbrl.engine.flat import FlatState
from lightning_pbrl.engine.program import Group, Program
from lightning_pbrl.engine.update import UpdateEngine

__all__ = ["FlatState", "Group", "Program", "UpdateEngine"]
