"""Kind and status of a question, for whoever reads records of questions without tensors."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

Kind = Literal["pair", "rating"]


class Status(IntEnum):
    """Status of a question."""

    PENDING = 0
    """Asked, not answered yet (a person has it on the labelling page)."""
    ANSWERED = 1
    """A strict preference or a rating."""
    EQUAL = 2
    """"Both are as good"; trained on, with label 0.5."""
    SKIPPED = 3
    """"Cannot compare"; costs budget, is never trained on as a preference."""
