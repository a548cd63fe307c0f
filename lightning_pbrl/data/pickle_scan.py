"""Check of the sizes that a pickle declares against its own size, before anything is read.

Python's unpickler allocates memory for a text, a frame or a memo slot before it checks that the content exists. Four changed
bytes can request gigabytes. A pickle is a sequence of operations without jumps, so one pass over its bytes finds every size.
Reference: Python's ``pickletools``, which describes all operations.
"""

from __future__ import annotations

import mmap
import pickletools
import re

_LINE, _FRAME, _PLACE, _PLACE_LINE = -100, -101, -102, -103
"""Kinds of argument: a line of text, a frame's size, a memo slot in 4 bytes or as a line."""


def _kind(operation: pickletools.OpcodeInfo) -> int:
    """Return the size in bytes of an operation's argument, or one of the kinds above.

    If the argument starts with its own size, the result is minus the width of that size.
    """
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


def _of_size(size: int) -> bytes:
    codes = (b"\\x%02x" % code for code, kind in enumerate(_KINDS) if kind == size and code != _STOP)
    return b"[%s].{%d}" % (b"".join(codes), size)


_ONE = re.compile(b"|".join(map(_of_size, sorted({kind for kind in _KINDS if kind is not None and kind >= 0}))), re.DOTALL)
_RUN = re.compile(b"(?:%s)*+" % _ONE.pattern.replace(b".{0}", b"++"), re.DOTALL)
"""One operation whose argument has a fixed size, and any number of them, which need no look at their arguments."""
_MOST = 1 << 16
"""Bytes of such operations that are looked at together."""


def check_sizes(content: bytes | mmap.mmap) -> None:
    """Check that everything a pickle declares lies within it.

    Raises:
        ValueError: for a size beyond the end, a memo slot beyond those stored, an unknown operation, or a missing end.
    """
    at, operations, size, counts = 0, 0, len(content), False
    while at < size:
        end = _RUN.match(content, at, at + _MOST).end()  # type: ignore[union-attr]  # it may be empty
        operations, at = operations + (len(_ONE.findall(content, at, end)) if counts else 0), end
        if at == size:
            break
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
        elif kind in (_PLACE, _PLACE_LINE) and not counts:  # protocols 0 to 3: all operations are counted after all
            at, operations, counts = 0, 0, True
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
