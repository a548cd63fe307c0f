"""Runs of operations are passed over at once, and counted one by one where their number matters."""

from __future__ import annotations

import struct

import pytest

from lightning_pbrl.data.pickle_scan import check_sizes


@pytest.mark.parametrize(("operation", "count"), [(b"N", 100_000), (b"K.", 70_000), (b"J....", 30_000), (b"G........", 9_000)])
def test_operations_are_counted_across_runs(operation: bytes, count: int):
    """Arguments of full stops, which would end a pickle; the first operation is PROTO, and that of the memo counts, too."""
    before = b"\x80\x04" + operation * count
    check_sizes(before + b"r" + struct.pack("<I", count + 2) + b".")
    with pytest.raises(ValueError, match=f"place {count + 3} of the memo is used after {count + 2} operations"):
        check_sizes(before + b"r" + struct.pack("<I", count + 3) + b".")
    with pytest.raises(ValueError, match=r"longer than the file|it has no end"):
        check_sizes(before)
    with pytest.raises(ValueError, match=f"unknown operation 255 at byte {len(before)}"):
        check_sizes(before + b"\xff.")
