"""Sizes that a pickle declares, compared with its own size before anything is read.

Python's unpickler takes memory for a text, a frame or a place in its memo before it looks whether they are there: four changed
bytes ask for gigabytes. A pickle is a row of operations without jumps, so one pass over its bytes finds every size.
Reference: Python's ``pickletools``, which describes all operations.
"""

from __future__ import annotations

import mmap
import pickletools

_LINE, _FRAME, _PLACE, _PLACE_LINE = -100, -101, -102, -103
"""Kinds of argument: a line of text, a frame's size, a place in the memo in 4 bytes or as a line."""


def _kind(operation: pickletools.OpcodeInfo) -> int:
    """Bytes of an operation's argument; minus the width of its size where one comes first; or a kind of above."""
    special = {"FRAME": _FRAME, "LONG_BINPUT": _PLACE, "PUT": _PLACE_LINE}
    if operation.arg is None or operation.name in special:
        return special.get(operation.name, 0)
    if operation.arg.n >= 0:
        return operation.arg.n
    if operation.arg.n == pickletools.UP_TO_NEWLINE:
        return _LINE
    return -next(width for width in (1, 4, 8) if operation.arg.name.endswith(str(width)))


_KINDS: list[int | None] = [None] * 256
for _operation in pickletools.opcodes:
    _KINDS[ord(_operation.code)] = _kind(_operation)
_PAIRS = b"ci"  # GLOBAL and INST name module and class in two lines
_STOP = ord(".")


def check_sizes(content: bytes | mmap.mmap) -> None:
    """Check that everything a pickle declares lies within it.

    Raises:
        ValueError: for a size beyond the end, a place in the memo beyond what was stored, an unknown operation, no end.
    """
    at, operations, size = 0, 0, len(content)
    while at < size:
        code = content[at]
        at, operations = at + 1, operations + 1
        if code == _STOP:
            return
        kind = _KINDS[code]
        if kind is None:
            raise ValueError(f"unknown operation {code} at byte {at - 1}")
        if kind >= 0:
            at += kind
        elif kind > _LINE:
            length = int.from_bytes(content[at : at - kind], "little")
            at += length - kind
        elif kind == _FRAME:
            if at + 8 + int.from_bytes(content[at : at + 8], "little") > size:
                raise ValueError(f"the frame at byte {at - 1} is longer than the file")
            at += 8
        elif kind == _PLACE:
            _check_place(int.from_bytes(content[at : at + 4], "little"), operations)
            at += 4
        else:
            for _ in range(2 if code in _PAIRS else 1):
                end = content.find(b"\n", at)
                if end < 0:
                    raise ValueError(f"the line at byte {at} has no end")
                line, at = content[at:end], end + 1
            if kind == _PLACE_LINE:
                _check_place(int(line), operations)
        if at > size:
            raise ValueError(f"what is declared before byte {at:,} is longer than the file")
    raise ValueError("it has no end")


def _check_place(place: int, operations: int) -> None:
    if not 0 <= place <= operations:
        raise ValueError(f"place {place} of the memo is used after {operations} operations")
