"""Kind and status of a question, for whoever reads records of questions without tensors."""

from __future__ import annotations

from enum import IntEnum

Kind = str
"""Kind of a question: the name of a class of :mod:`lightning_pbrl.data.kinds`, such as "pair"; with an axis "pair:safety"."""


class Status(IntEnum):
    """Status of a question."""

    PENDING = 0
    """Asked, not answered yet (a person has it on the labelling page)."""
    ANSWERED = 1
    """A preference, a choice or a rating."""
    EQUAL = 2
    """"Both are as good"; trained on, with label 0.5."""
    SKIPPED = 3
    """"Cannot compare"; costs budget, is never trained on as a preference."""
