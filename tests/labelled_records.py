"""Records of answers, and damage to files."""

from __future__ import annotations

import random
from pathlib import Path

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.formats import FORMATS
from lightning_pbrl.labelling.formats.records import Context, Record

TIME = "2026-01-31T12:00:00+00:00"


def record(number: int = 0, value: float | None = 1.0, status: int = 1, who: str = "Zoë", **fields: object) -> Record:
    return {
        "run": "seed/0",
        "round": 2,
        "number": number,
        "kind": "pair",
        "length": 5,
        "start_0": 10 * number,
        "start_1": 10 * number + 100,
        "others": None,
        "value": value,
        "status": status,
        "strategy": {"class": "UniformQuery"},
        "teacher": {"class": "Person", "note": "a, b"},
        "seed": 3,
        "fingerprint": "data-a",
        "time": TIME,
        "answered_by": who,
        "seconds": None,
        "strength": None,
        "swapped": None,
        "revision": None,
        **fields,
    }


RATING = {"kind": "rating", "start_1": None}
ANSWERS = [
    record(0, 1.0, seconds=2.5, swapped=False),
    record(0, 0.0, who="Bob", seconds=1.25, swapped=False),
    record(1, 0.5, Status.EQUAL, swapped=False),
    record(2, None, Status.SKIPPED, swapped=False),
    record(3, None, Status.PENDING),
    record(4, 7.0, swapped=False, **RATING),
]


def read(name: str, path: Path, **context: object) -> list[Record]:
    return FORMATS[name].read(path, Context(**context))  # type: ignore[arg-type]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or insert a few bytes, or cut the end off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, count = rng.randrange(len(data)), rng.randint(1, 8)
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + count]
        elif kind == 2:
            data[at:at] = data[at : at + count]
        elif kind == 3:
            data[at:at] = rng.choice([b'"', b"{", b"\n", b",", b"-", b"1e999", b"\xff", b"null", b"\x00", b"\x80"])
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)
