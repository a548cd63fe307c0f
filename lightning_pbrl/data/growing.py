"""Tables of tensors that grow at their end without moving what is there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Growing:
    """Columns of N rows that grow at their end, in memory that doubles: adding a row costs the same however many there are.

    Rows that :meth:`upto` has lent never change. Where others take their place, the rows before are copied to new memory.

    Args:
        columns: first rows, (N, ...) each.
    """

    def __init__(self, *columns: Tensor) -> None:
        self._columns, self._count, self._lent = columns, len(columns[0]), len(columns[0])

    def __len__(self) -> int:
        return self._count

    def upto(self, end: int) -> tuple[Tensor, ...]:
        """Lend the first ``end`` rows, as views."""
        self._lent = max(self._lent, end)
        return self.look(0, end)

    def look(self, first: int = 0, end: int | None = None) -> tuple[Tensor, ...]:
        """Return views of the rows from ``first`` to ``end``, which hold until rows are put in their place."""
        return tuple(column[first : self._count if end is None else end] for column in self._columns)

    def put(self, first: int, rows: Sequence[Tensor]) -> None:
        """Let the rows from ``first`` on be ``rows``, (n, ...) each."""
        end = first + len(rows[0])
        if end > len(self._columns[0]) or (first < self._lent and end > first):
            grown = tuple(column.new_empty(2 * end, *column.shape[1:]) for column in self._columns)
            for new, column in zip(grown, self._columns, strict=True):
                new[:first] = column[:first]
            self._columns, self._lent = grown, 0
        for column, new in zip(self._columns, rows, strict=True):
            column[first:end] = new
        self._count = end


def below(ascending: Tensor, value: int) -> int:
    """Return how many entries of an ascending tensor, (N,), are below ``value``."""
    return int(torch.searchsorted(ascending, value))
